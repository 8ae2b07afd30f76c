"""The report as typed values: what `thermoq.quantize` returns and what the JSON, HTML and log show.

Every figure here was computed elsewhere; this module only names and shapes them. Top-level names up
to `common_violation_patterns` are the original specification's; the rest are thermoq's additions.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from thermoq.report.evaluation_model import Evaluation
from thermoq.report.optimization_model import LayerOptimization, OptimizationSummary
from thermoq.report.plan import SchemeRow
from thermoq.report.thermodynamics_model import (
    LayerTimeParameters,
    ReportPart,
    Thermodynamics,
    Violation,
)
from thermoq.terms import (
    Encoding,
    LayerClass,
    Method,
    ParameterSource,
    Phase,
    PredictingMethod,
)

REPORT_FORMAT_VERSION: Final = 1


class LayerRow(ReportPart):
    """One quantized tensor."""

    name: str
    component: str
    layer_class: LayerClass
    shape: list[int]
    source_dtype: str
    num_weights: int
    bit_width: int
    method: Method
    encoding: Encoding
    group_size: int
    super_block: int | None = Field(description="with scale_bits and minimum_bits, of `coded` only")
    scale_bits: int | None
    minimum_bits: int | None
    window_bits: int | None = Field(default=None, description="of `trellis` only")
    rotation: Literal["hadamard"] | None = Field(
        default=None, description="of the layer's inputs; its codes are of the rotated matrix"
    )
    stored_bytes: int = Field(
        description="bytes on disk: of the weights, none if they lie under `same_as`, and of the "
        "time parameters"
    )
    time_parameter_bytes: int = Field(
        default=0, description="of them, of activation parameters, row gains and biases"
    )
    bits_per_weight: float = Field(description="of the encoding, stored once or not")
    relative_squared_error: float = Field(description="||W^ - W||^2 / ||W||^2; 0 for W = W^ = 0")
    cosine_similarity: float = Field(description="of W and W^ as vectors; 1 for W = W^ = 0")
    output_relative_squared_error: float | None = Field(
        default=None,
        description="||W^ X - W X||^2 / ||W X||^2 on at most 256 of the calibration's rows X, to "
        "which `hessian` was fitted; null without a calibration of the layer",
    )
    output_cosine_similarity: float | None = Field(
        default=None, description="of W X and W^ X as vectors, on the same rows"
    )
    max_error: float = Field(description="largest |W^ - W|")
    squared_error: float
    source_energy: float = Field(description="||W||^2")
    in_headline: bool = Field(
        description="counts in the smoothness figures: tables, which are looked up, do not, nor do "
        "components that do not run at every timestep, such as a VAE"
    )
    same_as: str | None = Field(description="the tensor with identical bytes that is stored")
    time_parameters: LayerTimeParameters | None
    optimization: LayerOptimization | None = Field(
        default=None, description="null without Phase 3, or without calibrated inputs"
    )


class CopiedRow(ReportPart):
    """A tensor that was copied bit for bit, and why."""

    name: str
    component: str
    shape: list[int]
    source_dtype: str
    stored_bytes: int
    reason: str
    same_as: str | None


class ClassRow(ReportPart):
    """Bits and bytes of one layer class."""

    layer_class: str = Field(description="a layer class, or `copied`")
    num_tensors: int
    num_weights: int
    source_bytes: int
    stored_bytes: int
    bits_per_weight: float
    relative_squared_error: float | None = Field(description="over the class; null for `copied`")


class Sizes(ReportPart):
    """Bytes and bits per weight as they lie on disk.

    The quantized components' safetensors files are `quantized_bytes + copied_bytes +
    output_correction_bytes + header_bytes = model_bytes` long; the source's are `source_bytes`.
    """

    source_bytes: int
    model_bytes: int
    quantized_bytes: int
    copied_bytes: int
    header_bytes: int
    time_parameter_bytes: int = Field(
        default=0,
        description="of all that varies along the trajectory: of quantized_bytes the layers' time "
        "parameters, and output_correction_bytes",
    )
    output_correction_bytes: int = Field(default=0, description="of a prediction's correction")
    directory_bytes: int = Field(description="every file of the output directory but the manifest")
    num_weights: int = Field(description="of all tensors of the quantized components")
    num_quantized_weights: int
    bits_per_weight_quantized: float = Field(
        description="quantized_bytes over num_quantized_weights"
    )
    bits_per_weight_component: float = Field(description="model_bytes over num_weights")
    bits_per_weight_directory: float = Field(
        description="directory_bytes over the weights of all its safetensors files: num_weights "
        "and those that were carried over as they are"
    )


class BudgetResult(ReportPart):
    """A size budget, what was chosen for it, and how well that was foretold."""

    target_bits: float | None = Field(description="over the quantized tensors; or null")
    max_size_bytes: int | None = Field(description="of the safetensors files; or null")
    achieved_bits: float = Field(description="sizes.bits_per_weight_quantized")
    achieved_bytes: int = Field(description="sizes.model_bytes")
    predicted_bytes: int
    predicted_by: PredictingMethod = Field(
        description="the method whose weight errors these are: for `hessian` that of `lsq`"
    )
    prediction_note: str | None = Field(
        description="what keeps predicted errors from being the run's; null if nothing does"
    )
    squared_error: float = Field(description="sum of ||W^ - W||^2 over the quantized tensors")
    predicted_squared_error: float = Field(description="the same, from some of the rows")
    predicted_relative_squared_error: float
    predicted_lower_bound: float = Field(
        description="what no choice within the budget predicts less than, but for a few bytes of "
        "headers"
    )
    schemes: list[SchemeRow] = Field(description="over all quantized tensors")


class CalibrationSummary(ReportPart):
    """How the calibration that a run was given came to be."""

    sampler: str
    steps: int = Field(description="of the sampler")
    guidance: float | None
    seed: int
    num_samples: int
    data_share: float = Field(description="of the samples that are the user's own data")
    bin_starts: list[float] = Field(
        description="the noisiest timestep of each fine bin, in sampling order"
    )
    rows_per_bin: int
    num_layers: int = Field(description="with activation parameters from it")
    not_measured: list[str] = Field(
        description="layers that run along the trajectory, without activation parameters"
    )


class Pattern(ReportPart):
    """A recognised pattern of violations: what it means and what to do."""

    kind: Literal["early", "late", "uniform", "high_severity"]
    title: str
    boundaries: list[int]
    cause: str
    impact: str
    advice: str


class Characteristic(ReportPart):
    """One expectation of the specification, held against this model."""

    name: str
    expected: str
    actual: str
    met: bool | None = Field(default=None, description="null where it does not apply")
    better: Literal["above", "below"] | None = Field(
        default=None, description="on which side of the range, where missing it is better"
    )
    bad_sign: bool = Field(default=False, description="a sign of a poor baseline: met is bad news")
    of_weights: bool = Field(
        default=False, description="measured on the weights, whatever the parameter source"
    )


class Assessment(ReportPart):
    """The verdict in words: band, causes, actions, and the next command to type."""

    band: Literal["poor", "typical", "good", "excellent"] | None = Field(
        description="null if no layer has time parameters"
    )
    title: str
    verdict: str
    characteristics: list[Characteristic]
    causes: list[str]
    actions: list[str]
    next_command: str
    then_command: str | None = Field(
        default=None, description="what to run after it; null where it is all"
    )
    phase_targets: list[Characteristic]


class Provenance(ReportPart):
    """How the report came to be. Times are wall-clock seconds."""

    cpu: str
    simd_level: str
    openmp: bool
    threads: int
    blas: str
    python_version: str
    platform: str
    seed: int
    command: str
    started_at: str
    input_path: str
    output_path: str
    input_fingerprint: str
    calibration_fingerprint: str | None
    times_s: dict[str, float]


class Report(ReportPart):
    """The report of one run. Sizes in MB are 10^6 bytes.

    The scores are null where no layer has time parameters. All fields of the thermodynamic part
    are absent from the JSON if validation was switched off (`thermodynamics` is None then).
    """

    format_version: Literal[1] = 1
    thermoq_version: str
    model_name: str
    phase: Phase
    method: Method
    encoding: Encoding = Field(description="of matrices with `bit_width`, as the next six")
    bit_width: int
    group_size: int | None = Field(description="null: by the length of the row")
    super_block: int | None = Field(description="null: by the length of the row, or not coded")
    scale_bits: int | None = Field(description="null where not coded")
    minimum_bits: int | None = Field(description="null where not coded")
    window_bits: int | None = Field(description="null where not trellis")
    activation_bits: int
    num_time_groups: int
    sampling_steps: int
    settings: dict[str, Any] = Field(description="the whole configuration of the run, by its keys")
    parameter_source: ParameterSource
    smoothness_score: float | None = None
    violation_count: int | None = None
    violations: list[Violation] | None = None
    boundary_scores: list[float] | None = None
    cosine_similarity: float | None
    output_cosine_similarity: float | None = Field(
        description="mean over calibrated layers, weighted by their number of weights; of the "
        "codes alone: what Phases 2 and 3 add is in optimization.output_errors"
    )
    relative_squared_error: float | None
    compression_ratio: float
    nominal_compression_ratio: float
    model_size_mb: float
    min_boundary_score: float | None = None
    max_boundary_score: float | None = None
    mean_boundary_score: float | None = None
    std_boundary_score: float | None = None
    common_violation_patterns: list[str] | None = None
    thermodynamics: Thermodynamics | None = None
    patterns: list[Pattern] | None = None
    assessment: Assessment | None = None
    budget: BudgetResult | None = Field(description="null without a size budget")
    calibration: CalibrationSummary | None = Field(description="null without a calibration")
    optimization: OptimizationSummary | None = Field(description="null without Phase 3")
    sizes: Sizes
    layer_classes: list[ClassRow]
    layers: list[LayerRow]
    copied: list[CopiedRow]
    warnings: list[str]
    provenance: Provenance
    evaluation: Evaluation | None = Field(
        description="null until `thermoq evaluate` has run the model"
    )
