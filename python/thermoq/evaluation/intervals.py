"""Intervals of confidence by bootstrap over samples (Efron 1979), the same for every model.

Which samples a replicate draws follows from their number and the seed alone. So replicate `i` of
two models that were given the same samples is of the same ones, and the difference or ratio of two
figures has an interval of its own: what the samples have in common cancels. No torch in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermoq.report.evaluation_model import Figure

CONFIDENCE = 0.95
NUM_REPLICATES = 1000
MIN_SAMPLES = 8
"""With fewer, an interval of percentiles is far too narrow."""

Floats: TypeAlias = NDArray[np.float64]


def draws(num_samples: int, seed: int, replicates: int = NUM_REPLICATES) -> NDArray[np.int64]:
    """Return how often each replicate draws each sample, [replicates, samples]."""
    random = np.random.default_rng([seed, num_samples])
    chosen = random.integers(0, num_samples, (replicates, num_samples))
    counts = np.zeros((replicates, num_samples), np.int64)
    np.add.at(counts, (np.arange(replicates)[:, None], chosen), 1)
    return counts


def ratio(numerators: ArrayLike, denominators: ArrayLike, drawn: NDArray[np.int64]) -> Figure:
    """Return the ratio of two sums over samples, each [samples], with its interval.

    A replicate whose denominator is 0 does not count. Raises ValueError if the whole sum is 0.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not below.sum() > 0.0:
        raise ValueError("expected a positive sum to divide by")
    replicates = ratio_replicates(above, below, drawn)
    return figure(float(above.sum() / below.sum()), replicates[np.isfinite(replicates)])


def ratio_replicates(numerators: Floats, denominators: Floats, drawn: NDArray[np.int64]) -> Floats:
    """Return the ratio of the sums in every replicate [replicates], NaN for 0 / 0."""
    above, below = drawn @ numerators, drawn @ denominators
    result = np.full(len(drawn), np.nan)
    np.divide(above, below, out=result, where=below > 0.0)
    return result


def median(values: ArrayLike, seed: int) -> Figure:
    """Return the median of `values` [n] with its interval, by bootstrap over them."""
    given = np.asarray(values, np.float64)
    return figure(float(np.median(given)), median_replicates(given, seed))


def median_replicates(values: Floats, seed: int) -> Floats:
    """Return the median of every replicate [replicates] of `values` [n]."""
    random = np.random.default_rng([seed, len(values)])
    chosen = random.integers(0, len(values), (NUM_REPLICATES, len(values)))
    found: Floats = np.median(values[chosen], axis=1)
    return found


def figure(value: float, replicates: Floats, *, centred: bool = False) -> Figure:
    """Return `value` with the percentiles of its replicates.

    `centred`: around the value. A distance between distributions is larger between samples drawn
    twice, and all its replicates may lie above it.
    """
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = (float(x) for x in np.percentile(replicates, (tail, 100.0 - tail)))
    if centred:
        shift = value - float(np.mean(replicates))
        low, high = low + shift, high + shift
    return Figure(value=value, low=min(low, value), high=max(high, value))


def rounded(values: NDArray[Any] | Sequence[float], digits: int = 7) -> Any:
    """Return floats with so many significant digits, as (nested) lists for a report."""
    array = np.asarray(values, np.float64)
    flat = [float(f"{value:.{digits - 1}e}") for value in array.ravel()]
    return np.array(flat).reshape(array.shape).tolist()
