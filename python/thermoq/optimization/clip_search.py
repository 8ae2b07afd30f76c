"""Activation ranges that lose least of a layer's output, by time group.

A range too wide wastes codes on rare values, one too narrow cuts values off. What counts is what
the layer's output loses over the rows of a group (losses.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.activation import affine_parameters
from thermoq.optimization.extremes import variances_of_extremes, variances_of_ranges
from thermoq.optimization.inputs import Floats, Rows, bootstrap_counts
from thermoq.optimization.losses import Losses, Pair

LEAST_ROWS: Final = 12
"""Of a group that a search may be fitted to; fewer keep the range they have."""

_STEP: Final = 0.72  # from one candidate for an end of the range to the next
_LEAST: Final = 0.05  # of an end that the search goes down to
_FINE: Final = (-0.5, 0.0, 0.5)  # steps, in the end
_PATIENCE: Final = 2  # steps without a better range, before a walk ends


@dataclass(frozen=True)
class Ranges:
    """Activation parameters by time group, all f64 [G].

    The variances are those of the estimates of log(scale) and zero_point over the choice of rows;
    infinite where a group has too few rows to tell. `searched`: the range is not the one given.
    """

    scale: Floats
    zero_point: Floats
    log_scale_variance: Floats
    zero_point_variance: Floats
    searched: NDArray[np.bool_]


@dataclass(frozen=True)
class SearchSample:
    """What ranges are searched on, by time group.

    `sketch` stands for the weights (`losses.sketch_of`); `fitted` and `held_out` are f32 rows
    [n, in] of each group's inputs. `seen`: of how many rows the given range is the extreme of.
    """

    sketch: Rows
    fitted: Sequence[Rows]
    held_out: Sequence[Rows]
    seen: Sequence[int]

    @property
    def able(self) -> NDArray[np.bool_]:
        """Which groups have rows enough."""
        pairs = zip(self.fitted, self.held_out, strict=True)
        return np.array([len(a) >= LEAST_ROWS and len(b) > 0 for a, b in pairs], np.bool_)

    def of(self, groups: Sequence[int]) -> SearchSample:
        """Return the part of some groups."""
        return SearchSample(
            self.sketch,
            [self.fitted[g] for g in groups],
            [self.held_out[g] for g in groups],
            [self.seen[g] for g in groups],
        )


def search_ranges(
    sample: SearchSample,
    given: Pair,
    bits: int,
    seed: int,
    wanted: NDArray[np.bool_],
    of_extremes: Pair | None = None,
) -> Ranges:
    """Find ranges by time group that lose less than the `given` scale and zero_point [G].

    Groups that are not `wanted` keep theirs. Both ends shrink together, as long as that helps any
    group; then each moves by itself, and in the end both by half a step. The given range is a
    candidate, so that the result is never worse on the `fitted` rows, and it stays where the other
    is no better on those `held_out`. Extremes that lie beyond all rows count too, once in the
    `seen` rows that the given range is taken from: without them, few rows would make every outlier
    look worth cutting off.

    The variances are by bootstrap over the `fitted` rows: the losses of all candidates are kept by
    row, and each replicate takes the best candidate for its draw. Where the given range stays, they
    are those of the extremes of the drawn rows, `of_extremes` if they are known.
    """
    scale, zero_point = given[0].copy(), given[1].copy()
    able = sample.able & (scale > 0)
    known = of_extremes or variances_of_extremes(sample.fitted, bits, seed)
    first, second = (np.where(able, variance, np.inf) for variance in known)
    found = Ranges(scale, zero_point, first, second, np.zeros(len(scale), np.bool_))
    places = np.flatnonzero(able & wanted).tolist()
    if not places:
        return found
    part = sample.of(places)
    start = scale[places], zero_point[places]
    search = _Search(part, start, bits)
    search.run()
    best = search.best()
    kept = _keeps(part, start, best, bits) | (search.chosen == 0)
    for place, g in enumerate(places):
        if not kept[place]:
            scale[g], zero_point[g] = best[0][place], best[1][place]
            found.log_scale_variance[g], found.zero_point_variance[g] = search.variances(
                place, seed
            )
            found.searched[g] = True
    return found


def _keeps(sample: SearchSample, start: Pair, best: Pair, bits: int) -> NDArray[np.bool_]:
    """Tell for each group whether the range it had is as good on rows that were not searched."""
    losses = Losses(sample.sketch, sample.held_out, bits)
    before, after = (losses.of(pair) for pair in (start, best))
    return (after >= before) & (before > 0)


class _Search:
    """The candidates tried so far, and the best of each group; all arrays by group."""

    def __init__(self, sample: SearchSample, start: Pair, bits: int) -> None:
        sketch, rows = sample.sketch, sample.fitted
        self._losses = Losses(sketch, rows, bits)
        self._bits, self._start = bits, start
        lowest = np.array([part.min() for part in rows], np.float64)
        highest = np.array([part.max() for part in rows], np.float64)
        top = 2**bits - 1
        self._extremes = np.maximum(
            [
                -np.minimum(lowest, -start[1] * start[0]),
                np.maximum(highest, (top - start[1]) * start[0]),
            ],
            0.0,
        )
        self._widest = _snapped(self._extremes)
        self._rows = rows
        norm = float(np.einsum("ij,ij->", sketch, sketch, dtype=np.float64)) / sketch.shape[1]
        share = [
            min(1.0, len(part) / max(1, count))
            for part, count in zip(rows, sample.seen, strict=True)
        ]
        self._tail = norm * np.array(share)
        self._scales: list[Floats] = []
        self._zero_points: list[Floats] = []
        self._by_row: list[Floats] = []
        self._beyond: list[Floats] = []
        self._least = np.full(len(rows), np.inf)
        self.chosen = np.zeros(len(rows), np.intp)
        self._ends = np.ones((2, len(rows)))  # of the best: low and high, over the widest

    def run(self) -> None:
        """Try all candidates."""
        self._try(self._start, np.ones_like(self._ends))
        both, low, high = np.array([[[1], [1]], [[1], [0]], [[0], [1]]], np.float64)
        self._walk(_STEP**both, first=0)
        for end in (high, low):
            self._walk(_STEP**end)
            self._walk(_STEP**-end)
        best = self._ends
        for low_power in _FINE:
            for high_power in _FINE:
                if low_power or high_power:
                    self._step_to(best * _STEP ** (low_power * low + high_power * high))

    def best(self) -> Pair:
        """Return the best scale and zero_point of each group."""
        groups = np.arange(len(self.chosen))
        return (
            np.array(self._scales)[self.chosen, groups],
            np.array(self._zero_points)[self.chosen, groups],
        )

    def variances(self, group: int, seed: int) -> tuple[Floats, Floats]:
        """Return the variances of log(scale) and zero_point over bootstrapped rows."""
        first = sum(len(part) for part in self._rows[:group])
        rows = slice(first, first + len(self._rows[group]))
        errors = np.array([losses[rows] for losses in self._by_row])
        beyond = np.array([tail[group] for tail in self._beyond])
        drawn = bootstrap_counts(errors.shape[1], seed) @ errors.T + beyond
        best = drawn.argmin(axis=1)
        scales = np.array([scale[group] for scale in self._scales])[best]
        points = np.array([point[group] for point in self._zero_points])[best]
        return variances_of_ranges(scales, points)

    def _walk(self, factor: Floats, first: int = 1) -> None:
        """Move the ends of the best ranges by the `factor` again and again while that helps."""
        start, patience, power = self._ends, _PATIENCE, first
        while patience:
            ends = np.clip(start * factor**power, _LEAST, 1.0)
            if power and (ends == start).all():
                break
            patience = _PATIENCE if self._step_to(ends) else patience - 1
            power += 1

    def _step_to(self, ends: Floats) -> bool:
        """Try ranges; tell whether they are better for any group."""
        ends = np.minimum(ends, 1.0)
        low, high = ends * self._widest
        return self._try(affine_parameters(-low, high, self._bits), ends)

    def _try(self, pair: Pair, ends: Floats) -> bool:
        scale, zero_point = pair
        losses = self._losses.by_row(scale, zero_point)
        cut = np.maximum(self._extremes - ends * self._widest, 0.0)
        beyond = self._tail * np.square(cut).sum(axis=0)
        total = self._losses.by_group(losses) + beyond
        better = total < self._least
        self._least = np.where(better, total, self._least)
        self.chosen = np.where(better, len(self._scales), self.chosen)
        self._ends = np.where(better, ends, self._ends)
        self._scales.append(scale)
        self._zero_points.append(zero_point)
        self._by_row.append(losses)
        self._beyond.append(beyond)
        return bool(better.any())


def _snapped(sizes: Floats) -> Floats:
    """Round up to powers of the step: groups that are alike then try the same candidates."""
    powers = np.floor(np.log(np.where(sizes > 0, sizes, 1.0)) / np.log(_STEP))
    return np.where(sizes > 0, _STEP**powers, 0.0)
