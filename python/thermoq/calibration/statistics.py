"""What calibration keeps of a layer's input: exact extremes, moments, percentiles, sample rows.

An `InputStatistics` takes rows as they come, batch by batch, and forgets them. What it holds is
bounded by bins x rows x columns, whatever the number of batches. Nothing of torch in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from thermoq import _core
from thermoq.calibration.histogram import Histogram
from thermoq.errors import InputError

Floats = NDArray[np.float64]
Allocate = Callable[[tuple[int, ...], "np.dtype[Any]"], NDArray[Any]]

PERCENTILE_LEVELS = (0.1, 1.0, 5.0, 50.0, 95.0, 99.0, 99.9)
MAX_MAGNITUDE = 1e18
"""Beyond it a second moment would leave the range of f32."""

_F16_MAX = 65504.0
_F16_MIN = 2.0**-10  # a row of smaller values would lose them to f16's subnormal steps
_CHUNK_VALUES = 1 << 20  # values that are widened to float64 at a time: 8 MB
_STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64 (Steele et al. 2014)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True)
class CalibratedInput:
    """The statistics of one input along the trajectory, by fine time bin, noisiest first.

    `count` i64 [bins] rows were seen. `minimum`, `maximum` f32 [bins]; `percentiles` f32
    [bins, levels]; `mean`, `second_moment` f32 [bins, in]; `rows` f16 or f32 [bins, n, in], of
    which the first `num_rows[bin]` are a uniform sample of the bin's. All 0 in a bin nobody
    visited.
    """

    count: NDArray[np.int64]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    percentiles: NDArray[np.float32]
    mean: NDArray[np.float32]
    second_moment: NDArray[np.float32]
    rows: NDArray[np.float16] | NDArray[np.float32]

    @property
    def num_bins(self) -> int:
        """Fine time bins."""
        return len(self.count)

    @property
    def num_columns(self) -> int:
        """Columns of the input: `in`."""
        return int(self.mean.shape[1])

    @property
    def num_rows(self) -> NDArray[np.int64]:
        """Rows kept in each bin, [bins]."""
        return np.minimum(self.count, self.rows.shape[1])

    def sample(self, bins: slice = slice(None)) -> NDArray[np.float32]:
        """Return the kept rows of `bins`, one bin after another: [N, in] in f32."""
        kept = zip(self.rows[bins], self.num_rows[bins], strict=True)
        parts = [rows[:num_rows].astype(np.float32) for rows, num_rows in kept]
        return np.concatenate(parts) if parts else np.empty((0, self.num_columns), np.float32)

    def samples(self, groups: Sequence[slice], most: int) -> list[NDArray[np.float32]]:
        """Return what `sample` does for each group of bins, but at most `most` rows, evenly."""
        num_rows = self.num_rows
        starts = np.cumsum(num_rows) - num_rows
        places, sizes = [], []
        for bins in groups:
            total = int(num_rows[bins].sum())
            sizes.append(min(total, most))
            if total:
                places.append(int(starts[bins][0]) + evenly_placed(total, sizes[-1]))
        every = np.concatenate([np.empty(0, np.intp), *places])
        bin = np.searchsorted(starts + num_rows, every, side="right")
        rows = _widened(self.rows[bin, every - starts[bin]])
        return np.split(rows, np.cumsum(sizes)[:-1])

    def importances(self) -> NDArray[np.float32]:
        """Return the second moment of each column over all rows that were seen, [in]."""
        weight = self.count / max(1, int(self.count.sum()))
        return (weight @ self.second_moment.astype(np.float64)).astype(np.float32)


@lru_cache(maxsize=64)
def evenly_placed(count: int, most: int) -> NDArray[np.intp]:
    """Return the places of `most` of `count` rows, evenly from first to last; read-only."""
    places = np.linspace(0, count - 1, most).astype(np.intp)
    places.setflags(write=False)
    return places


class InputStatistics:
    """Accumulates the statistics of one input of `num_columns` columns in `num_bins` bins.

    Moments are sums in float64, and depend in their last digits on how rows are batched; all else
    does not. The reservoir keeps the `rows_per_bin` rows with the smallest keys; a row's key comes
    from the seed, `name`, its bin and how many rows of the bin came before it. So it depends on the
    order of rows within a bin, not on batches. `allocate` makes the array of the rows, perhaps in
    a file.
    """

    def __init__(
        self,
        num_columns: int,
        num_bins: int,
        rows_per_bin: int,
        seed: int,
        name: str,
        allocate: Allocate = np.zeros,
    ) -> None:
        self._count = np.zeros(num_bins, np.int64)
        self._minimum = np.full(num_bins, np.inf, np.float32)
        self._maximum = np.full(num_bins, -np.inf, np.float32)
        self._sum = np.zeros((num_bins, num_columns))
        self._square_sum = np.zeros((num_bins, num_columns))
        self._histogram = Histogram(num_bins)
        self._allocate = allocate
        self._rows: NDArray[Any] = allocate(
            (num_bins, rows_per_bin, num_columns), np.dtype(np.float16)
        )
        self._indices = np.full((num_bins, rows_per_bin), -1, np.int64)
        self._bases = [
            np.uint64(xxhash.xxh3_64_intdigest(f"{seed}:{bin}:{name}".encode()))
            for bin in range(num_bins)
        ]

    @property
    def num_columns(self) -> int:
        """Columns of the input: `in`."""
        return int(self._sum.shape[1])

    @property
    def count(self) -> NDArray[np.int64]:
        """Rows seen in each bin, [bins]."""
        return np.array(self._count)

    def add(self, bin: int, rows: NDArray[np.float32]) -> None:
        """Take in `rows` [n, in] of one bin.

        Raises InputError, with nothing taken in, for NaN, infinities and values beyond 1e18; the
        message does not name the layer, which only the caller knows.
        """
        if rows.ndim != 2 or rows.shape[1] != self.num_columns:
            raise ValueError(f"expected rows of {self.num_columns} columns, got {rows.shape}")
        if rows.size == 0:
            return
        low, high = rows.min(), rows.max()
        if not -MAX_MAGNITUDE <= low <= high <= MAX_MAGNITUDE:  # NaN is not, either
            raise _out_of_range(rows)
        self._minimum[bin] = min(self._minimum[bin], low)
        self._maximum[bin] = max(self._maximum[bin], high)
        chunk = max(1, _CHUNK_VALUES // self.num_columns)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            wide = part.astype(np.float64)
            self._sum[bin] += wide.sum(axis=0)
            self._square_sum[bin] += np.einsum("ij,ij->j", wide, wide)
            self._histogram.add(bin, part)
        self._keep(bin, rows)
        self._count[bin] += len(rows)

    def finish(self, levels: tuple[float, ...] = PERCENTILE_LEVELS) -> CalibratedInput:
        """Return what was measured; `levels` in percent. Can go on taking in rows."""
        seen = self._count > 0
        divisor = np.maximum(self._count, 1)[:, None]
        minimum = np.where(seen, self._minimum, np.float32(0))
        maximum = np.where(seen, self._maximum, np.float32(0))
        return CalibratedInput(
            count=self._count.copy(),
            minimum=minimum,
            maximum=maximum,
            percentiles=self._histogram.percentiles(levels, minimum, maximum),
            mean=(self._sum / divisor).astype(np.float32),
            second_moment=(self._square_sum / divisor).astype(np.float32),
            rows=self._sorted_rows(),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that `restore` needs to go on from here, by name; not copied."""
        return {
            "count": self._count,
            "minimum": self._minimum,
            "maximum": self._maximum,
            "sum": self._sum,
            "square_sum": self._square_sum,
            "histogram": self._histogram.counts,
            "rows": self._rows,
            "indices": self._indices,
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take over the `state` of an accumulator that was made with the same arguments."""
        mine = self.state()
        if state.keys() != mine.keys() or any(state[k].shape != mine[k].shape for k in mine):
            raise ValueError(f"{set(mine)} of the same shapes are needed to restore statistics")
        if state["rows"].dtype == np.float32:
            self._widen()
        for key, array in self.state().items():
            array[...] = state[key]

    # The reservoir: of all rows of a bin those with the smallest keys, which is a uniform sample.

    def _keep(self, bin: int, rows: NDArray[np.float32]) -> None:
        capacity = self._indices.shape[1]
        if capacity == 0:
            return
        first = int(self._count[bin])
        arrived = np.arange(first, first + len(rows))
        arrived_keys = _keys(self._bases[bin], arrived)
        kept = self._indices[bin]
        kept_keys = _keys(self._bases[bin], kept)
        kept_keys[kept < 0] = np.iinfo(np.uint64).max  # an empty place goes first
        keys = np.concatenate([kept_keys, arrived_keys])
        limit = np.partition(keys, capacity - 1)[capacity - 1]
        enters = np.flatnonzero(arrived_keys <= limit)
        places = np.flatnonzero((kept < 0) | (kept_keys > limit))[: len(enters)]
        self._store(bin, places, rows[enters])
        kept[places] = arrived[enters]

    def _store(self, bin: int, places: NDArray[np.intp], rows: NDArray[np.float32]) -> None:
        largest = np.abs(rows).max(axis=1, initial=0.0)
        fits = (largest == 0) | ((largest >= _F16_MIN) & (largest <= _F16_MAX))
        if not fits.all() and self._rows.dtype == np.float16:
            self._widen()
        # Rows that fit f16 are rounded to it either way: what is kept of one depends on it alone.
        self._rows[bin, places[fits]] = rows[fits].astype(np.float16)
        if not fits.all():
            self._rows[bin, places[~fits]] = rows[~fits]

    def _widen(self) -> None:
        narrow = self._rows
        self._rows = self._allocate(narrow.shape, np.dtype(np.float32))
        for bin, rows in enumerate(narrow):
            self._rows[bin] = rows

    def _sorted_rows(self) -> NDArray[np.float16] | NDArray[np.float32]:
        """Return the rows by key, so that the first m of a bin are a uniform sample of m."""
        num_rows = int(min(self._rows.shape[1], self._count.max(initial=0)))
        shape = (self._rows.shape[0], num_rows, self.num_columns)
        rows = np.zeros(shape, self._rows.dtype)
        for bin, indices in enumerate(self._indices):
            used = np.flatnonzero(indices >= 0)
            order = np.argsort(_keys(self._bases[bin], indices[used]))
            rows[bin, : len(used)] = self._rows[bin, used[order]]
        return _narrowed(rows) if rows.dtype == np.float32 else rows


def _narrowed(rows: NDArray[np.float32]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return `rows` in f16 if that loses nothing."""
    if np.abs(rows).max(initial=0.0) > _F16_MAX:
        return rows
    narrow = rows.astype(np.float16)
    return narrow if np.array_equal(narrow, rows) else rows


def _widened(rows: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `rows` in f32; the core is faster at it than NumPy."""
    if rows.dtype == np.float32 or not rows.size:
        return rows.astype(np.float32)
    data = rows.reshape(-1).view(np.uint8)
    wide, _ = _core.convert(data, _core.FloatType.F16, _core.FloatType.F32)
    return wide.view(np.float32).reshape(rows.shape)


def _keys(base: np.uint64, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a number for each index, all different: splitmix64's outputs from state `base`."""
    keys: NDArray[np.uint64] = base + indices.astype(np.uint64) * _STEP
    for shift, factor in _MIX:
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    keys ^= keys >> np.uint64(31)
    return keys


def _out_of_range(rows: NDArray[np.float32]) -> InputError:
    nan, infinite = int(np.isnan(rows).sum()), int(np.isinf(rows).sum())
    if nan or infinite:
        return InputError(f"expected finite inputs, got {nan} NaN and {infinite} infinite")
    largest = float(np.abs(rows).max())
    return InputError(f"expected inputs within +-{MAX_MAGNITUDE:g}, got {largest:.6g}")
