"""Jumps at time-group boundaries, boundary scores and violations (DESIGN sections 5 and 6).

    scale_jump[l,i]      = max over t of |scale_i(t - step) - scale_i(t)| / scale_i(t)
    zero_point_jump[l,i] = max over t of |zero_point_i(t - step) - zero_point_i(t)| / (2^a - 1)
    boundary_scores[i]   = 1 - (scale_jump[i] + zero_point_jump[i]) / 2
    smoothness_score     = mean(boundary_scores)

with `scale_i(t)`, `zero_point_i(t)` the schedule in which only boundary `i` moves, over all real
timesteps, `step` one sampling step and `a` the layer's `activation_bits`. Piecewise constant
parameters cross a boundary in one step, so there the jumps are those between the two groups:
|scale[i+1] - scale[i]| / scale[i].
A layer's jumps are clipped to 1, then averaged over layers weighted by their number of weights.
The core computes them; this module shapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.interpolation import TimeSchedule, piecewise
from thermoq.report.thermodynamics_model import Boundary, Violation
from thermoq.smoothing import crossings, group_means
from thermoq.terms import SEVERITIES, Severity
from thermoq.time_parameters import TimeParameters

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerJumps:
    """One layer's jumps, arrays [G - 1]; `scale_jump` and `zero_point_jump` clipped to 1."""

    scale_jump: Floats
    zero_point_jump: Floats
    unclipped_scale_jump: Floats
    boundary_scores: Floats
    smoothness_score: float
    violation_count: int


@dataclass(frozen=True)
class Smoothness:
    """The model's boundaries and, in the order of the layers given, each layer's jumps.

    `group_score` is the smoothness score of the jumps between the groups' mean parameters.
    """

    boundaries: tuple[Boundary, ...]
    layers: tuple[LayerJumps, ...]
    group_score: float

    @property
    def violations(self) -> list[Violation]:
        """The boundaries whose larger jump exceeds the threshold."""
        return [
            Violation(
                boundary_idx=boundary.boundary_idx,
                scale_jump=boundary.scale_jump,
                zero_point_jump=boundary.zero_point_jump,
                severity=boundary.severity,
            )
            for boundary in self.boundaries
            if boundary.severity is not None
        ]

    @property
    def boundary_scores(self) -> list[float]:
        """One score per boundary."""
        return [boundary.score for boundary in self.boundaries]

    @property
    def layer_violation_count(self) -> int:
        """How many pairs of layer and boundary exceed the threshold."""
        return sum(layer.violation_count for layer in self.layers)


@dataclass(frozen=True)
class ScoreStatistics:
    """Of the boundary scores: all 1 and std 0 where there is one time group, so no boundary."""

    minimum: float
    maximum: float
    mean: float
    std: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> ScoreStatistics:
        """Return minimum, maximum, mean and population standard deviation of `scores`."""
        if not scores:
            return cls(1.0, 1.0, 1.0, 0.0)
        array = np.asarray(scores)
        return cls(*(float(f(array)) for f in (np.min, np.max, np.mean, np.std)))


def smoothness(
    parameters: Sequence[TimeParameters],
    num_weights: Sequence[int],
    schedule: TimeSchedule,
    threshold: float,
    sampling_steps: int,
) -> Smoothness:
    """Measure the jumps of `parameters`, one entry a layer, weighted by `num_weights`.

    Between what `schedule` has in force one sampling step apart: `T / sampling_steps` timesteps.
    """
    before, after = crossings(schedule, sampling_steps)
    weight = np.asarray(num_weights, dtype=np.float64)
    bits = np.array([p.activation_bits for p in parameters], dtype=np.int32)
    jumps = _core.boundary_jumps(*_stacked(parameters), weight, bits, threshold, before, after)
    boundaries = _boundaries(jumps, schedule)
    group_score = ScoreStatistics.of([boundary.score for boundary in boundaries]).mean
    if schedule.is_smoothed:
        means = _stacked([group_means(p, schedule, p.activation_bits) for p in parameters])
        at_once = crossings(piecewise(schedule.groups), sampling_steps)
        between = _core.boundary_jumps(*means, weight, bits, threshold, *at_once)
        group_score = ScoreStatistics.of(between.boundary_score.tolist()).mean
    layers = tuple(_layer_jumps(jumps, layer, threshold) for layer in range(len(parameters)))
    return Smoothness(boundaries, layers, group_score)


def _stacked(parameters: Sequence[TimeParameters]) -> tuple[Floats, Floats]:
    """Return scales and zero points [layers, G]."""
    return np.stack([p.scale for p in parameters]), np.stack([p.zero_point for p in parameters])


def _boundaries(jumps: _core.BoundaryJumps, schedule: TimeSchedule) -> tuple[Boundary, ...]:
    return tuple(
        Boundary(
            boundary_idx=i,
            timestep=start,
            scale_jump=float(jumps.scale_jump[i]),
            zero_point_jump=float(jumps.zero_point_jump[i]),
            unclipped_scale_jump=float(jumps.unclipped_scale_jump[i]),
            unclipped_zero_point_jump=float(jumps.unclipped_zero_point_jump[i]),
            score=float(jumps.boundary_score[i]),
            severity=_severity(int(jumps.severity[i])),
        )
        for i, start in enumerate(schedule.groups.starts[1:])
    )


def _layer_jumps(jumps: _core.BoundaryJumps, layer: int, threshold: float) -> LayerJumps:
    unclipped = jumps.layer_scale_jump[layer]
    scale_jump = np.minimum(unclipped, 1.0)
    zero_point_jump = np.minimum(jumps.layer_zero_point_jump[layer], 1.0)
    scores = jumps.layer_boundary_score[layer]
    worst = np.maximum(scale_jump, zero_point_jump)
    return LayerJumps(
        scale_jump=scale_jump,
        zero_point_jump=zero_point_jump,
        unclipped_scale_jump=unclipped,
        boundary_scores=scores,
        smoothness_score=ScoreStatistics.of(scores.tolist()).mean,
        violation_count=int(np.count_nonzero(worst > threshold)),
    )


def _severity(value: int) -> Severity | None:
    return None if value < 0 else SEVERITIES[value]
