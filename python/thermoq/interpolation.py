"""Schedules of time parameters over timesteps: which values are in force, and when (DESIGN 6).

Around the boundary between groups `i` and `i + 1`, which lies at `B = starts[i + 1]`, values move
from the one group's to the other's while the timestep falls from `B + w` to `B - w`:

    u = clip((B + w - t) / (2 * w), 0, 1)
    f = u                                    linear
        u * u * (3 - 2 * u)                  cubic (smoothstep)
        (s(u) - s(0)) / (s(1) - s(0))        sigmoid, s(u) = 1 / (1 + exp(-12 * (u - 1/2)))
    value = (1 - f) * p[i] + f * p[i + 1]

Everywhere else, and with a window `w` of 0, a group's own values are in force. Fractions are
float64; who multiplies with one rounds it to float32 first, as the format says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermoq.errors import UsageError
from thermoq.schedule import TimeGroups
from thermoq.terms import INTERPOLATIONS, Interpolation

Floats = NDArray[np.float64]

SIGMOID_STEEPNESS = 12.0


class OutsideTrajectoryError(UsageError, ValueError):
    """A timestep that lies outside [0, T), where nothing is scheduled."""


@dataclass(frozen=True)
class TimeSchedule:
    """Time groups, and how values move from one to the next.

    `windows` [G - 1] are half widths in timesteps, one a boundary, each at most what
    `window_limits` says; empty stands for all 0: piecewise constant. `interpolation` is None if
    and only if all are 0. Raises ValueError for anything else.
    """

    groups: TimeGroups
    interpolation: Interpolation | None = None
    windows: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse windows that do not fit the groups, or do not fit the interpolation."""
        limits = window_limits(self.groups)
        if self.windows and len(self.windows) != len(limits):
            raise ValueError(f"expected {len(limits)} windows, got {len(self.windows)}")
        for window, limit in zip(self.windows, limits, strict=False):
            if not 0.0 <= window <= limit:
                raise ValueError(f"expected a window between 0 and {limit:g}, got {window:g}")
        if self.interpolation not in (None, *INTERPOLATIONS):
            raise ValueError(
                f"expected interpolation {', '.join(INTERPOLATIONS)}, got {self.interpolation}"
            )
        if (self.interpolation is not None) != any(self.windows):
            raise ValueError(
                f"expected an interpolation where some window is above 0, and none elsewhere; got "
                f"{self.interpolation} with windows {self.windows}"
            )

    @property
    def is_smoothed(self) -> bool:
        """Whether some value lies between two groups'."""
        return self.interpolation is not None

    def window(self, boundary: int) -> float:
        """Return the half width of `boundary`'s window, in timesteps."""
        return self.windows[boundary] if self.windows else 0.0

    def blend(self, timestep: float) -> tuple[int, float]:
        """Return `(g, f)`: at `timestep`, `(1 - f) * p[g] + f * p[min(g + 1, G - 1)]` is in force.

        `f` is 0 outside the windows. Timesteps may be fractional. Raises OutsideTrajectoryError (a
        UsageError and a ValueError) outside [0, T).
        """
        group, fraction = self.blends(np.array([timestep]))
        return int(group[0]), float(fraction[0])

    def blends(self, timesteps: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
        """Return `blend` of each of `timesteps`, in arrays of their shape."""
        given = np.asarray(timesteps, dtype=np.float64)
        t = given.reshape(-1)
        self._check(t)
        starts = np.array(self.groups.starts)
        # Group g holds starts[g + 1] < t <= starts[g]; above starts[0] is group 0's, too.
        group = np.maximum(np.searchsorted(-starts, -t, side="right") - 1, 0)
        fraction = np.zeros(t.shape)
        interpolation = self.interpolation or "linear"  # without one no window is open
        for i, w in enumerate(self.windows):
            b = starts[i + 1]
            inside = (t < b + w) & (t > b - w)
            f = shape(interpolation, np.clip((b + w - t[inside]) / (2 * w), 0.0, 1.0))
            group[inside] = np.where(f < 1.0, i, i + 1)
            fraction[inside] = np.where(f < 1.0, f, 0.0)
        return group.reshape(given.shape), fraction.reshape(given.shape)

    def _check(self, t: Floats) -> None:
        end = self.groups.num_timesteps
        outside = t[~((t >= 0.0) & (t < end))]  # NaN is outside, too
        if outside.size:
            raise OutsideTrajectoryError(
                f"expected a timestep in [0, {end}), got {float(outside.flat[0]):g}"
            )


def shape(interpolation: Interpolation, u: ArrayLike) -> Floats:
    """Return the fraction `f` at each place `u` of a window, 0 at its noisy end, 1 at its clean."""
    f: Floats = np.asarray(u, dtype=np.float64)
    if interpolation == "cubic":
        f = f * f * (3.0 - 2.0 * f)
    elif interpolation == "sigmoid":
        first, last = _logistic(np.array([0.0, 1.0]))
        # Both ends are hit exactly: at 0 by the subtraction, at 1 by the division of equals.
        f = (_logistic(f) - first) / (last - first)
    return f


def _logistic(u: Floats) -> Floats:
    values: Floats = 1.0 / (1.0 + np.exp(-SIGMOID_STEEPNESS * (u - 0.5)))
    return values


def group_widths(groups: TimeGroups) -> tuple[float, ...]:
    """Return how many timesteps each group spans, from start to start; the last ends at -1."""
    ends = (*groups.starts[1:], -1.0)
    return tuple(start - end for start, end in zip(groups.starts, ends, strict=True))


def window_limits(groups: TimeGroups) -> tuple[float, ...]:
    """Return each boundary's widest window: half the smaller of its two groups."""
    widths = group_widths(groups)
    return tuple(min(a, b) / 2.0 for a, b in itertools.pairwise(widths))


def default_windows(groups: TimeGroups) -> tuple[float, ...]:
    """Return each boundary's window where none is asked for: half of its limit.

    Wider ones hardly raise the smoothness score and cost more output error, narrower ones leave
    violations in single layers (docs/phases.md).
    """
    return tuple(limit / 2.0 for limit in window_limits(groups))


def piecewise(groups: TimeGroups) -> TimeSchedule:
    """Return the schedule in which every group keeps its own values (Phase 1)."""
    return TimeSchedule(groups)


def smoothed(
    groups: TimeGroups, interpolation: Interpolation, window: float | None = None
) -> TimeSchedule:
    """Return the schedule with windows of `window` timesteps on each side of every boundary.

    None stands for `default_windows`. Windows above the limits (`window_limits`) are clamped to
    them; `clamped_boundaries` says which those are. With one group, or a window of 0, the schedule
    is piecewise constant. Raises UsageError for a negative or infinite window.
    """
    if window is not None and not 0.0 <= window < np.inf:
        raise UsageError(f"expected --window of 0 timesteps or more, got {window:g}")
    windows = default_windows(groups)
    if window is not None:
        windows = tuple(min(window, limit) for limit in window_limits(groups))
    if not any(windows):
        return piecewise(groups)
    return TimeSchedule(groups, interpolation, windows)


def clamped_boundaries(groups: TimeGroups, window: float | None) -> Sequence[int]:
    """Return the boundaries at which `smoothed` narrows `window`, in their order."""
    if window is None:
        return ()
    return tuple(i for i, limit in enumerate(window_limits(groups)) if window > limit)
