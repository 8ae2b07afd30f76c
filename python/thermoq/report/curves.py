"""Smoothed parameters as curves: where their points lie, and what is in force there.

Only layout: the schedule's arithmetic is `interpolation`'s and `time_parameters`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thermoq.interpolation import shape
from thermoq.report.model import Report
from thermoq.report.scales import Axis
from thermoq.report.thermodynamics_model import LayerTimeParameters
from thermoq.time_parameters import activation_at

_POINTS = 12
"""Straight pieces of each window: enough for a curve, few enough for a page of many layers."""

_CROWDED_POINTS = 6


@dataclass(frozen=True)
class Window:
    """Where parameters move from one time group's to the next, in percent from noise."""

    boundary_idx: int
    left: float
    width: float
    half_width: float


@dataclass(frozen=True)
class Knots:
    """Points of every layer's curve: their places in percent, and `(g, f)` of the schedule there.

    `(1 - f) * p[g] + f * p[g + 1]` is in force; `windows` are the stretches where f moves.
    """

    places: list[float]
    group: list[int]
    fraction: list[float]
    windows: list[Window]

    def blended(self, values: Sequence[float]) -> list[float]:
        """Return what lies between the groups' `values` at each knot."""
        pairs = zip(self.group, self.fraction, strict=True)
        return [(1 - f) * values[g] + f * values[g + 1] for g, f in pairs]

    def zero_points(self, parameters: LayerTimeParameters, activation_bits: int) -> list[float]:
        """Return a layer's zero points at each knot."""
        group, fraction = np.array(self.group), np.array(self.fraction)
        own = np.array(parameters.zero_point)
        _, between = activation_at(parameters.scale, own, activation_bits, group, fraction)
        found: list[float] = np.where(fraction == 1.0, own[group + 1], between).tolist()
        return found


def knots_of(report: Report, *, crowded: bool = False) -> Knots | None:
    """Return the knots of a smoothed report's curves; None where it is piecewise constant."""
    thermodynamics = report.thermodynamics
    if thermodynamics is None or thermodynamics.smoothing is None:
        return None
    smoothing = thermodynamics.smoothing
    axis = Axis(max(1, thermodynamics.num_timesteps - 1), 0)
    starts = [row.start_timestep for row in thermodynamics.time_groups]
    steps = np.linspace(0.0, 1.0, (_CROWDED_POINTS if crowded else _POINTS) + 1)
    moves = shape(smoothing.interpolation, steps).tolist()
    knots = Knots([0.0], [0], [0.0], [])
    for i, (start, half) in enumerate(zip(starts[1:], smoothing.windows, strict=True)):
        fractions = moves if half > 0 else [0.0, 1.0]
        for at, fraction in zip(
            np.linspace(start + half, start - half, len(fractions)), fractions, strict=True
        ):
            knots.places.append(axis.percent(float(at)))
            knots.group.append(i)
            knots.fraction.append(fraction)
        if half > 0:
            left, right = axis.percent(start + half), axis.percent(start - half)
            knots.windows.append(Window(i, left, round(right - left, 3), half))
    knots.places.append(100.0)
    knots.group.append(len(starts) - 2)
    knots.fraction.append(1.0)
    return knots
