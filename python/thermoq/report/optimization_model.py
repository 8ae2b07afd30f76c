"""Phase 3 in the report as typed values: what each layer got, what it costs, what it is for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from thermoq.terms import CorrectionKind, GainEstimator, RowChoice


class OptimizationPart(BaseModel):
    """What all parts share: they do not change, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerOptimization(OptimizationPart):
    """One layer's row gains and biases and its activation ranges."""

    row_choice: RowChoice
    held_out_errors: dict[RowChoice, float] = Field(
        description="by choice, on rows that nothing was fitted to: the relative squared error of "
        "the output, but held against the gain that the estimator is after, which decides; empty "
        "where rows were not fitted"
    )
    output_errors: dict[RowChoice, float] = Field(
        description="by choice, on the same rows: ||y_q - y||^2 / ||y||^2, mean over time groups"
    )
    fallback_rows: int = Field(description="of row_values, left at gain 1 and bias 0")
    row_values: int = Field(description="pairs of gain and bias that are stored")
    searched_groups: int = Field(
        description="time groups whose range the search changed from what was measured"
    )
    log_scale_tau_squared: float | None = Field(
        description="estimated variance of the step from a time group to the next, of log(scale); "
        "null where there was nothing to couple, as with the next two"
    )
    zero_point_tau_squared: float | None
    gain_tau_squared: float | None
    range_coupling: float | None = Field(
        default=None,
        description="what is left of the run's coupling for its ranges: it is weakened until no "
        "time group's output loses over 1 % by it; null in reports from before",
    )


class RowChoiceTotal(OptimizationPart):
    """The layers that chose alike."""

    row_choice: RowChoice
    num_layers: int
    stored_bytes: int = Field(description="of their row gains and biases")


class StoredCorrection(OptimizationPart):
    """The correction of one component's prediction."""

    component: str
    kind: CorrectionKind
    num_bins: int
    stored_bytes: int


class SequentialSummary(OptimizationPart):
    """On what layers were fitted to the inputs that the quantized ones before them give."""

    num_samples: int = Field(description="of the calibration's own sampling")
    num_passes: int = Field(description="forward passes that rows were taken from")
    num_layers: int = Field(description="that were fitted so")


class OptimizationSummary(OptimizationPart):
    """Phase 3 of a run."""

    coupling: float
    gain_estimator: GainEstimator
    weakened_layers: int | None = Field(
        default=None, description="whose ranges are coupled less than was asked for"
    )
    sequential: SequentialSummary | None = Field(
        default=None, description="null where layers were fitted to full-precision inputs"
    )
    num_layers: int = Field(description="with calibrated inputs to optimize for")
    row_choices: list[RowChoiceTotal]
    fallback_rows: int
    row_values: int
    output_errors: dict[RowChoice, float] = Field(
        description="by choice, had all layers made it: ||y_q - y||^2 / ||y||^2 on held-out rows, "
        "averaged over the layers whose rows were fitted, by their number of weights"
    )
    output_corrections: list[StoredCorrection]
