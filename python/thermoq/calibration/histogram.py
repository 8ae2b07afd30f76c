"""Percentiles from counts of logarithmic buckets: exact to count and to merge, bounded in memory.

A bucket holds the values that share their sign, their exponent and their first 5 bits of mantissa,
so its edges lie 2 to 3 % apart. A percentile is interpolated within its bucket and so lies within
one bucket's width of the true one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MANTISSA_BITS = 5
_SHIFT = 23 - _MANTISSA_BITS
_RAW = 1 << (32 - _SHIFT)  # sign, exponent and mantissa bits of an f32
_LOWEST = (127 - 24) << _MANTISSA_BITS  # below 2^-24 a value counts as 0
_HIGHEST = (127 + 24) << _MANTISSA_BITS  # above 2^24 the last bucket is as wide as it must be
_MAGNITUDES = _HIGHEST - _LOWEST + 1  # the first is that of 0


def _upper_edges() -> NDArray[np.float64]:
    """Return the upper edge of every bucket of positive values, the first being that of 0."""
    raw = np.arange(_LOWEST, _HIGHEST + 1, dtype=np.uint32) << np.uint32(_SHIFT)
    return np.array(raw.view(np.float32), np.float64)


# Edges from the most negative bucket to the most positive one, [2 * _MAGNITUDES + 1].
_POSITIVE_EDGES = _upper_edges()
_POSITIVE_EDGES[-1] = np.inf
_EDGES = np.concatenate([-_POSITIVE_EDGES[::-1], [0.0], _POSITIVE_EDGES])


class Histogram:
    """Counts of values, [bins, buckets], in rising order of the buckets."""

    def __init__(self, num_bins: int) -> None:
        self.counts = np.zeros((num_bins, 2 * _MAGNITUDES), np.int64)

    def add(self, bin: int, values: NDArray[np.float32]) -> None:
        """Count finite `values` of any shape."""
        bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
        raw = np.bincount(bits >> np.uint32(_SHIFT), minlength=_RAW)
        positive, negative = raw[: _RAW // 2], raw[_RAW // 2 :]
        self.counts[bin, _MAGNITUDES:] += _folded(positive)
        self.counts[bin, :_MAGNITUDES] += _folded(negative)[::-1]

    def percentiles(
        self,
        levels: tuple[float, ...],
        minimum: NDArray[np.float32],
        maximum: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the values at `levels` percent, [bins, levels], within the exact extremes [bins].

        0 in bins without values.
        """
        result = np.zeros((len(self.counts), len(levels)), np.float32)
        shares = np.asarray(levels) / 100.0
        for bin, counts in enumerate(self.counts):
            total = counts.sum()
            if total:
                reached = np.concatenate([[0], np.cumsum(counts)])
                edges = np.clip(_EDGES, minimum[bin], maximum[bin])
                result[bin] = _interpolated(shares * total, reached, edges)
        return result


def _folded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put what is too small or too large for a bucket of its own into the first and last."""
    kept = counts[_LOWEST - 1 : _HIGHEST].astype(np.int64)
    kept[0] += counts[: _LOWEST - 1].sum()
    kept[-1] += counts[_HIGHEST:].sum()
    return kept


def _interpolated(
    ranks: NDArray[np.float64], reached: NDArray[np.int64], edges: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the value at each rank; `reached[i]` values lie below `edges[i]`."""
    above = np.clip(np.searchsorted(reached, ranks, side="left"), 1, len(edges) - 1)
    below = above - 1
    inside = (ranks - reached[below]) / np.maximum(reached[above] - reached[below], 1)
    values = edges[below] + np.clip(inside, 0.0, 1.0) * (edges[above] - edges[below])
    return np.array(values, np.float32)
