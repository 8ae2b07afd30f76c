"""A plan as typed values: what `thermoq.plan_quantization` returns and `--dry-run --json` prints.

Every figure here was computed elsewhere. Bytes are exact, errors are predicted from some of each
tensor's rows.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from thermoq.terms import Encoding, LayerClass, Method, PredictingMethod, RotationKind


class PlanPart(BaseModel):
    """What all parts of a plan share: they do not change, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SchemeRow(PlanPart):
    """The tensors that are stored in one way."""

    encoding: Encoding
    bit_width: int
    group_size: int | None = Field(description="null: by the length of the row")
    scale_bits: int | None = Field(description="with minimum_bits, of `coded` only")
    minimum_bits: int | None
    window_bits: int | None = Field(description="of `trellis` only")
    num_tensors: int
    num_weights: int
    stored_bytes: int


class PlannedTensor(PlanPart):
    """One tensor; `layer_class` and all of the encoding are null where it is copied."""

    name: str
    component: str
    layer_class: LayerClass | None
    reason: str
    shape: list[int]
    source_dtype: str
    num_weights: int
    encoding: Encoding | None
    bit_width: int | None
    group_size: int | None
    super_block: int | None
    scale_bits: int | None
    minimum_bits: int | None
    window_bits: int | None
    rotation: RotationKind | None = Field(description="of the layer's inputs; null: none")
    source_bytes: int
    stored_bytes: int = Field(description="bytes on disk; 0 if stored under `same_as`")
    squared_error: float | None
    relative_squared_error: float | None
    same_as: str | None


class PlannedClass(PlanPart):
    """What a layer class, or the copied tensors, add up to."""

    layer_class: str = Field(description="a layer class, or `copied`")
    num_tensors: int
    num_weights: int
    schemes: list[SchemeRow]
    source_bytes: int
    stored_bytes: int
    bits_per_weight: float
    relative_squared_error: float | None = Field(description="null for `copied`")


class EffortRow(PlanPart):
    """What an effort of `trellis` costs on this machine with the run's threads, as measured."""

    effort: int
    window_bits: int
    minutes_per_billion_weights: float
    is_chosen: bool


class QuantizationPlan(PlanPart):
    """What a run would write. `model_bytes` are those of the components' safetensors files."""

    format_version: Literal[1] = 1
    thermoq_version: str
    model_name: str
    method: Method
    predicted_by: PredictingMethod = Field(
        description="the method whose weight errors these are: for `hessian` that of `lsq`"
    )
    prediction_note: str | None = Field(
        description="what keeps predicted errors from being the run's; null if nothing does"
    )
    target_bits: float | None
    max_size_bytes: int | None
    source_bytes: int
    model_bytes: int
    quantized_bytes: int
    copied_bytes: int
    header_bytes: int
    num_weights: int
    num_quantized_weights: int
    bits_per_weight_quantized: float
    bits_per_weight_component: float
    compression_ratio: float
    squared_error: float
    relative_squared_error: float | None = Field(description="null if nothing is quantized")
    layer_classes: list[PlannedClass]
    tensors: list[PlannedTensor]
    num_trellis_weights: int = Field(description="that are encoded in trellis, each tensor once")
    efforts: list[EffortRow] = Field(description="none without trellis")
    warnings: list[str]
