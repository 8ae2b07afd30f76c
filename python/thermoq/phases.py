"""What a run's phases come to on its trajectory, and what of them cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from thermoq.calibration.packages import require_packages
from thermoq.config import QuantizationConfig
from thermoq.interpolation import TimeSchedule, clamped_boundaries, smoothed, window_limits
from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.terms import GainEstimator


def check_phases(config: QuantizationConfig) -> None:
    """Refuse what cannot be done here. Raises UsageError."""
    if is_sequential(config):
        require_packages(verb="--sequential")


def is_sequential(config: QuantizationConfig) -> bool:
    """Tell whether Phase 3 fits each layer to what the quantized ones before it give."""
    optimization = config.thermodynamic.optimization
    return optimization.enabled and optimization.sequential


def smoothing_of(config: QuantizationConfig, groups: TimeGroups) -> TimeSchedule | None:
    """Return Phase 2's schedule over `groups`; None where it is off, or has nothing to smooth."""
    smoothing = config.thermodynamic.smoothing
    if not smoothing.enabled or len(groups) == 1:
        return None
    return smoothed(groups, smoothing.interpolation, smoothing.window)


def estimator_of(config: QuantizationConfig, schedule: NoiseSchedule) -> GainEstimator | None:
    """Return how Phase 3 chooses gains; None where it is off.

    By default what measured best: `variance` for masked language models, else `unbiased`.
    """
    optimization = config.thermodynamic.optimization
    if not optimization.enabled:
        return None
    default: GainEstimator = "variance" if schedule.kind == "masked" else "unbiased"
    return optimization.gain_estimator or default


def searches_ranges(config: QuantizationConfig, activation_bits: int) -> bool:
    """Tell whether Phase 3 searches for ranges that clip, with so many bits for a layer's inputs.

    By default where codes are scarce: with 8 bits what clipping gains is less than what it costs on
    rows that were not kept (`python bench/phases.py demo`, `activations`).
    """
    asked = config.thermodynamic.optimization.clip_search
    return activation_bits < 8 if asked is None else asked


def phase_warnings(config: QuantizationConfig, groups: TimeGroups) -> Iterator[str]:
    """Yield a line for each part of a phase that does less than was asked for, or nothing."""
    smoothing, optimization = config.thermodynamic.smoothing, config.thermodynamic.optimization
    if len(groups) == 1:
        if smoothing.enabled:
            yield "smoothing: one time group has no boundaries, so Phase 2 changes nothing"
        if optimization.enabled:
            yield (
                "optimization: with one time group there is nothing to couple and nothing to "
                "choose along the trajectory; what Phase 3 fits is static"
            )
    if not smoothing.enabled:
        return
    if config.calibration is None:
        yield (
            "smoothing: without a calibration no time parameters are stored; the schedule smooths "
            "the prior in the report only, and the weights are those of Phase 1; `thermoq "
            "calibrate` makes a calibration"
        )
    yield from _clamped(smoothing.window, groups)


def _clamped(window: float | None, groups: TimeGroups) -> Iterator[str]:
    clamped = clamped_boundaries(groups, window)
    if window is None or not clamped:
        return
    limits = [window_limits(groups)[boundary] for boundary in clamped]
    low, high = min(limits), max(limits)
    limit = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    where = f"{len(clamped)} of {len(groups) - 1} boundaries"
    yield (
        f"smoothing: a window of {window:g} timesteps is more than half of the smaller time group "
        f"at {where}, and is clamped to {limit} there"
    )
