"""Time parameters in the report as typed values: their jumps, by layer and by boundary."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from thermoq.terms import (
    Interpolation,
    ParameterSource,
    Severity,
)


class ReportPart(BaseModel):
    """What all parts of the report share: they do not change, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Violation(ReportPart):
    """A boundary whose scale or zero-point jump exceeds the threshold."""

    boundary_idx: int
    scale_jump: float
    zero_point_jump: float
    severity: Severity


class Boundary(ReportPart):
    """The transition between time group `boundary_idx` and the next, over the whole model.

    Jumps are the largest changes that one sampling step crosses there. They are clipped to 1 per
    layer before averaging (weighted by number of weights); the `unclipped_*` pair is the same
    average without the clip.
    """

    boundary_idx: int
    timestep: float = Field(description="the timestep at which the later group starts")
    scale_jump: float
    zero_point_jump: float
    unclipped_scale_jump: float
    unclipped_zero_point_jump: float
    score: float
    severity: Severity | None = Field(description="null where the boundary is no violation")


class TimeGroupRow(ReportPart):
    """A contiguous run of timesteps, in sampling order: group 0 is the noisiest."""

    group: int
    start_timestep: float = Field(description="the noisiest; may be fractional")
    end_timestep: float = Field(description="the cleanest whole timestep")
    signal_variance: float = Field(description="signal^2 at the group's middle timestep")
    noise_variance: float = Field(description="noise^2 at the group's middle timestep")


class LayerTimeParameters(ReportPart):
    """Activation parameters of one layer, one value per time group, and their jumps."""

    parameter_source: ParameterSource
    spectral_concentration: float | None = Field(
        description="kappa = in * sigma_1^2 / ||W||_F^2; a lower bound, sigma_1 being from 4 power "
        "iterations; null with a calibration, which does not need it"
    )
    scale: list[float]
    zero_point: list[float]
    bin_minimum: list[float] | None = Field(
        default=None,
        description="smallest input in each fine bin of the calibration, at most 0; null without",
    )
    bin_maximum: list[float] | None = Field(
        default=None, description="largest input in each, at least 0"
    )
    activation_bits: int | None = Field(
        default=None, description="of the zero points; null: those of the run"
    )
    scale_jump: list[float] = Field(description="per boundary, clipped to 1")
    zero_point_jump: list[float]
    unclipped_scale_jump: list[float]
    boundary_scores: list[float]
    smoothness_score: float
    violation_count: int


class SmoothingSummary(ReportPart):
    """Phase 2's schedule over timesteps: how parameters move between time groups."""

    interpolation: Interpolation
    window: float | None = Field(
        description="that was asked for; null: half of the widest that fits"
    )
    windows: list[float] = Field(
        description="half widths in timesteps, per boundary; 0: it is crossed at once"
    )
    clamped_boundaries: list[int] = Field(
        description="where half the smaller time group is less than was asked for"
    )


class SmoothnessBefore(ReportPart):
    """What Phase 1 measures on the same layers, before smoothing and optimization."""

    smoothness_score: float
    violation_count: int
    layer_violation_count: int
    boundary_scores: list[float]


class Thermodynamics(ReportPart):
    """The part that `thermodynamic.validation.enabled: false` leaves out."""

    smoothness_threshold: float
    max_possible_jump: float
    total_jump: float | None
    boundaries: list[Boundary]
    time_groups: list[TimeGroupRow]
    schedule: str
    num_timesteps: int
    num_layers_with_time_parameters: int
    worst_layers: list[str]
    layer_violation_count: int | None = Field(
        default=None,
        description="pairs of layer and boundary above the threshold, where violation_count is of "
        "boundaries of the whole model",
    )
    group_smoothness_score: float | None = Field(
        default=None,
        description="of the jumps between the time groups' mean parameters, where smoothness_score "
        "is of those that one sampling step crosses; the same without smoothing",
    )
    smoothing: SmoothingSummary | None = Field(default=None, description="null: piecewise constant")
    widest_window_scores: dict[Interpolation, float] | None = Field(
        default=None,
        description="what smoothness_score would be with the widest windows, by interpolation; "
        "null where there is no boundary",
    )
    default_window_scores: dict[Interpolation, float] | None = Field(
        default=None, description="the same with the windows that are the default"
    )
    before: SmoothnessBefore | None = Field(
        default=None, description="null where the run smoothed and optimized nothing"
    )
