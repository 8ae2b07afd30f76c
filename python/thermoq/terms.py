"""The words that several modules share, each spelled once."""

from __future__ import annotations

from typing import Literal, get_args

LayerClass = Literal["body", "modulation", "sensitive", "table"]
Encoding = Literal["affine", "coded", "q8"]
Method = Literal["minmax", "lsq", "hessian"]
Severity = Literal["low", "medium", "high"]
ParameterSource = Literal["calibration", "noise-schedule prior", "none"]
Grouping = Literal["uniform", "adaptive"]

LAYER_CLASSES: tuple[LayerClass, ...] = get_args(LayerClass)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From mild to grave."""
