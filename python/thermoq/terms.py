"""The words that several modules share, each spelled once."""

from __future__ import annotations

from typing import Literal, get_args

LayerClass = Literal["body", "modulation", "sensitive", "table"]
Encoding = Literal["affine", "coded", "q8", "trellis"]
Method = Literal["minmax", "lsq", "hessian"]
PredictingMethod = Literal["minmax", "lsq"]
RotationKind = Literal["hadamard"]
Severity = Literal["low", "medium", "high"]
ParameterSource = Literal["calibration", "noise-schedule prior", "none"]
Grouping = Literal["uniform", "adaptive"]
Interpolation = Literal["linear", "cubic", "sigmoid"]
Phase = Literal["baseline", "smooth", "optimize"]
GainEstimator = Literal["variance", "unbiased", "least_squares"]
RowChoice = Literal["none", "pooled", "per_time_group"]
CorrectionKind = Literal["channel", "position", "logits"]

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
LAYER_CLASSES: tuple[LayerClass, ...] = get_args(LayerClass)
PHASES: tuple[Phase, ...] = get_args(Phase)
ROW_CHOICES: tuple[RowChoice, ...] = get_args(RowChoice)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From mild to grave."""
