"""Phase 2: what a schedule over timesteps does to the parameters (DESIGN section 6).

A schedule changes no stored value, only how the runtime passes from one time group's values to the
next one's. Its effect is measured in two ways: by what one sampling step crosses at a boundary, and
by what lies between the groups' mean parameters.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thermoq.interpolation import SIGMOID_STEEPNESS, TimeSchedule, group_widths, shape
from thermoq.terms import Interpolation
from thermoq.time_parameters import TimeParameters

Floats = NDArray[np.float64]

GRID_CELLS = 2048
"""Steps are tried from so many places a boundary: the largest is found to about 1e-5 of itself."""


def crossings(schedule: TimeSchedule, sampling_steps: int) -> tuple[Floats, Floats]:
    """Return pairs of fractions, two arrays [G - 1, pairs], one sampling step apart.

    At boundary `i` alone, with `x` a timestep's place in its window (0 at the noisy end, 1 at the
    clean one), the fraction in force goes from `f(clip(x))` to `f(clip(x + d))` in a step of
    `T / sampling_steps` timesteps, `d = step / (2 * window)`. `x` takes GRID_CELLS + 1 even places
    from -d, where the step ends as the window begins, to 1, and both places where a step has one
    end on an end of the window. Where all windows are 0 the only pair is (0, 1).
    """
    boundaries = len(schedule.groups) - 1
    if schedule.interpolation is None:
        return np.zeros((boundaries, 1)), np.ones((boundaries, 1))
    step = schedule.groups.num_timesteps / sampling_steps
    before = np.zeros((boundaries, GRID_CELLS + 3))
    after = np.ones_like(before)
    for i in range(boundaries):
        width = 2.0 * schedule.window(i)
        if width > 0.0:
            d = step / width
            x = np.concatenate([np.linspace(-d, 1.0, GRID_CELLS + 1), [0.0, 1.0 - d]])
            before[i] = shape(schedule.interpolation, np.clip(x, 0.0, 1.0))
            after[i] = shape(schedule.interpolation, np.clip(x + d, 0.0, 1.0))
    return before, after


def group_means(
    parameters: TimeParameters, schedule: TimeSchedule, activation_bits: int
) -> TimeParameters:
    """Return the parameters of each time group's mean range over its timesteps.

    Within a group of width `D`, the window `w` of its boundary to group `h` shifts the means of
    minimum and maximum by `(p[h] - p[g]) * 2 * w / D * (integral of f over u from 0 to 1/2)`; scale
    and zero point follow from them as `time_parameters.activation_at` has it. Exactly the groups'
    own values where the schedule is piecewise constant.
    """
    if schedule.interpolation is None:
        return parameters
    top = 2.0**activation_bits - 1.0
    low = -parameters.zero_point * parameters.scale
    high = (top - parameters.zero_point) * parameters.scale
    low, high = _mean_values(low, schedule), _mean_values(high, schedule)
    scale = (high - low) / top
    steps = np.divide(-low, scale, out=np.zeros_like(low), where=scale > 0)
    return replace(parameters, scale=scale, zero_point=np.clip(np.rint(steps), 0.0, top))


def _mean_values(values: Floats, schedule: TimeSchedule) -> Floats:
    assert schedule.interpolation is not None
    widths = np.array(group_widths(schedule.groups))
    moved = np.array(schedule.windows) * 2.0 * _half_integral(schedule.interpolation)
    rise = np.diff(values) * moved
    means: Floats = values.copy()
    means[:-1] += rise / widths[:-1]
    means[1:] -= rise / widths[1:]
    return means


def _half_integral(interpolation: Interpolation) -> float:
    """Return the integral of the fraction over the noisy half of the window, u from 0 to 1/2."""
    if interpolation == "linear":
        return 1.0 / 8.0
    if interpolation == "cubic":
        return 3.0 / 32.0
    k = SIGMOID_STEEPNESS
    first, last = 1.0 / (1.0 + math.exp(k / 2)), 1.0 / (1.0 + math.exp(-k / 2))
    # The logistic function's integral is log(1 + exp(k * (u - 1/2))) / k.
    whole = (math.log(2.0) - math.log1p(math.exp(-k / 2))) / k
    return (whole - first / 2.0) / (last - first)
