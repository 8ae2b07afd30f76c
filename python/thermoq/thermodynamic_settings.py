"""The settings of the three phases, which concern the trajectory rather than the weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from thermoq.settings_base import Settings, section
from thermoq.terms import GainEstimator, Interpolation, Phase, RowChoice


class ValidationSettings(Settings):
    """Phase 1: jumps, scores and violations in the report."""

    enabled: bool = Field(default=True, description="true or false")
    smoothness_threshold: float = Field(
        default=0.3, gt=0, le=1, allow_inf_nan=False, description="a number above 0, at most 1"
    )


class SmoothingSettings(Settings):
    """Phase 2: how time parameters pass from one time group to the next."""

    enabled: bool = Field(default=False, description="true or false")
    interpolation: Interpolation = Field(default="linear", description="linear, cubic or sigmoid")
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="a number of timesteps above 0, or null"
    )


class OptimizationSettings(Settings):
    """Phase 3: time parameters fitted to what a layer's output loses."""

    enabled: bool = Field(default=False, description="true or false")
    coupling: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="a number of at least 0"
    )
    gain_estimator: GainEstimator | None = Field(
        default=None, description="variance, unbiased, least_squares or null"
    )
    clip_search: bool | None = Field(default=None, description="true, false or null")
    row_choice: RowChoice | None = Field(
        default=None, description="none, pooled, per_time_group or null"
    )
    output_correction: bool | None = Field(default=None, description="true, false or null")
    sequential: bool = Field(default=False, description="true or false")


class ThermodynamicSettings(Settings):
    """What concerns the trajectory rather than the weights."""

    validation: Annotated[ValidationSettings, BeforeValidator(section)] = ValidationSettings()
    smoothing: Annotated[SmoothingSettings, BeforeValidator(section)] = SmoothingSettings()
    optimization: Annotated[OptimizationSettings, BeforeValidator(section)] = OptimizationSettings()

    @property
    def phase(self) -> Phase:
        """The last phase that these settings switch on."""
        if self.optimization.enabled:
            return "optimize"
        return "smooth" if self.smoothing.enabled else "baseline"
