"""The words that several modules share, each spelled once."""

from __future__ import annotations

from typing import Literal, get_args

LayerClass = Literal["body", "modulation", "sensitive", "table"]
Encoding = Literal["affine", "coded", "q8"]
Method = Literal["minmax", "lsq"]
Severity = Literal["low", "medium", "high"]
ParameterSource = Literal["noise-schedule prior", "none"]

LAYER_CLASSES: tuple[LayerClass, ...] = get_args(LayerClass)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From mild to grave."""
