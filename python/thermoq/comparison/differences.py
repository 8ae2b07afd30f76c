"""Differences of two evaluations with their uncertainty, by bootstrap over samples.

Where both were given the same inputs, replicate i of one and of the other draw the same samples, so
that what the samples have in common cancels: a *paired* interval. Otherwise each draws for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermoq.evaluation.intervals import draws, figure, median_replicates, ratio_replicates
from thermoq.report.comparison_model import Change, Verdict
from thermoq.report.evaluation_model import Figure

Floats: TypeAlias = NDArray[np.float64]

_UNPAIRED_SEEDS = (0x6C656674, 0x72696768)  # "left", "righ": draws that know nothing of each other


@dataclass(frozen=True)
class Sums:
    """A ratio's numerators and denominators, [samples, parts of the trajectory] each."""

    above: Floats
    below: Floats

    @classmethod
    def of(cls, above: ArrayLike, below: ArrayLike) -> Sums:
        """Take lists as a report has them; without parts, [samples], as one part."""
        arrays = (np.asarray(values, np.float64) for values in (above, below))
        first, second = (array.reshape(len(array), -1) for array in arrays)
        return cls(first, second)

    @property
    def num_samples(self) -> int:
        """Rows of both arrays."""
        return len(self.above)

    @property
    def total(self) -> Sums:
        """The sums over all parts, as one."""
        return Sums(self.above.sum(1, keepdims=True), self.below.sum(1, keepdims=True))

    def values(self) -> Floats:
        """Return the ratio in each part, NaN where nothing was added up."""
        above, below = self.above.sum(0), self.below.sum(0)
        result = np.full(len(above), np.nan)
        np.divide(above, below, out=result, where=below > 0.0)
        return result

    def replicates(self, drawn: NDArray[np.int64]) -> Floats:
        """Return the ratio in each part in every replicate, [replicates, parts]."""
        columns = range(self.above.shape[1])
        return np.stack(
            [ratio_replicates(self.above[:, i], self.below[:, i], drawn) for i in columns], axis=1
        )


def both_drawn(
    one: int, other: int, seed: int, *, paired: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often the replicates of two evaluations draw each of their samples."""
    if paired:
        drawn = draws(one, seed)
        return drawn, drawn
    return draws(one, _UNPAIRED_SEEDS[0]), draws(other, _UNPAIRED_SEEDS[1])


def mean_ratio(reference: Sums, other: Sums, seed: int, *, paired: bool) -> Figure | None:
    """Return the mean over parts of `other`'s ratio over `reference`'s, with its interval.

    None where the reference's is 0 in a part, or a part of either is empty.
    """
    before, after = reference.values(), other.values()
    if before.shape != after.shape or not (np.isfinite(after).all() and (before > 0.0).all()):
        return None
    first, second = both_drawn(reference.num_samples, other.num_samples, seed, paired=paired)
    below = reference.replicates(first)
    quotients = np.divide(
        other.replicates(second), below, out=np.full(below.shape, np.nan), where=below > 0.0
    )
    return _figure(float(np.mean(after / before)), quotients.mean(1))


def relative_change(reference: Sums, other: Sums, seed: int, *, paired: bool) -> Change | None:
    """Return by what share of itself the reference's ratio over all parts changes; None if 0."""
    quotient = mean_ratio(reference.total, other.total, seed, paired=paired)
    if quotient is None:
        return None
    shifted = (quotient.value - 1.0, quotient.low - 1.0, quotient.high - 1.0)
    return _change(Figure(value=shifted[0], low=shifted[1], high=shifted[2]), True, paired)


def difference(reference: Sums, other: Sums, seed: int, *, paired: bool) -> Change:
    """Return the difference of the ratios over all parts."""
    first, second = both_drawn(reference.num_samples, other.num_samples, seed, paired=paired)
    one, two = reference.total, other.total
    replicates = (two.replicates(second) - one.replicates(first))[:, 0]
    return _change(_figure(float((two.values() - one.values())[0]), replicates), False, paired)


def difference_of_replicates(
    values: tuple[float, float], replicates: tuple[ArrayLike, ArrayLike], *, paired: bool
) -> Change:
    """Return the difference of two figures of which the replicates are at hand.

    The interval lies around the difference, as that of a distance between distributions must.
    Unpaired, one's replicates are put in another order first.
    """
    one, two = (np.asarray(found, np.float64) for found in replicates)
    length = min(len(one), len(two))
    one, two = one[:length], two[:length]
    if not paired:
        two = np.random.default_rng(_UNPAIRED_SEEDS[1]).permutation(two)
    found = figure(values[1] - values[0], two - one, centred=True)
    return _change(found, False, paired)


def change_of_medians(reference: ArrayLike, other: ArrayLike) -> Change:
    """Return by what share of itself the median of `reference` changes, of positive values."""
    one, two = (np.asarray(values, np.float64) for values in (reference, other))
    first, second = (
        median_replicates(values, seed)
        for values, seed in zip((one, two), _UNPAIRED_SEEDS, strict=True)
    )
    found = figure(float(np.median(two) / np.median(one)) - 1.0, second / first - 1.0)
    return Change(value=found.value, low=found.low, high=found.high, relative=True, kind="timed")


def verdict_of(change: Change, better: Literal["higher", "lower"]) -> Verdict:
    """Return a change in words: none where the interval holds 0."""
    low = change.value if change.low is None else change.low
    high = change.value if change.high is None else change.high
    if low <= 0.0 <= high:
        return "no measurable difference"
    return "better" if (low > 0.0) == (better == "higher") else "worse"


def _figure(value: float, replicates: Floats) -> Figure:
    return figure(value, replicates[np.isfinite(replicates)])


def _change(found: Figure, relative: bool, paired: bool) -> Change:
    return Change(
        value=found.value,
        low=found.low,
        high=found.high,
        relative=relative,
        kind="paired" if paired else "unpaired",
    )
