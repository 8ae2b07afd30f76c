"""A layer's inputs as a quantized layer sees them, and which of the kept rows serve what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.calibration.statistics import evenly_placed

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

BOOTSTRAP_REPLICATES = 24


@dataclass(frozen=True)
class Inputs:
    """Rows [n, in] that reach a layer: in the quantized model, and in the full-precision one.

    Both are at the same places; the same array where a layer is looked at by itself.
    """

    given: Rows
    full: Rows

    def __len__(self) -> int:
        return len(self.given)

    def evenly(self, most: int) -> Inputs:
        """Return at most `most` of the rows, evenly from first to last."""
        return self.of(lambda rows: evenly(rows, most))

    def split(self) -> tuple[Inputs, Inputs]:
        """Cut the rows into those that are fitted to and those held out."""
        return self.of(lambda rows: split(rows)[0]), self.of(lambda rows: split(rows)[1])

    def of(self, change: Callable[[Rows], Rows]) -> Inputs:
        """Return what `change` makes of both."""
        given = change(self.given)
        return Inputs(given, given if self.full is self.given else change(self.full))


def quantized_inputs(
    rows: Rows,
    scale: Floats,
    zero_point: Floats,
    sizes: NDArray[np.int64],
    bits: int,
    *,
    error: bool = False,
) -> Rows:
    """Return x~ of rows x [n, in] in f32; the first `sizes[0]` are the first group's, and so on.

    `x~ = (clip(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale` (DESIGN
    section 3) with each group's scale and zero point [groups]; 0 where the scale is 0. `error`:
    x~ - x instead.
    """
    return _core.quantize_inputs(np.ascontiguousarray(rows), scale, zero_point, sizes, bits, error)


def evenly(rows: Rows, most: int) -> Rows:
    """Return at most `most` of the rows, evenly from first to last."""
    return rows if len(rows) <= most else rows.take(evenly_placed(len(rows), most), axis=0)


def split(rows: Rows) -> tuple[Rows, Rows]:
    """Cut rows into those that are fitted to, three of four, and those held out."""
    return rows.take(_fitted(len(rows)), axis=0), rows[3::4]


@lru_cache(maxsize=64)
def _fitted(num_rows: int) -> NDArray[np.intp]:
    return np.flatnonzero(np.arange(num_rows) % 4 != 3)


def has_distinct(rows: Rows, wanted: int) -> bool:
    """Tell whether at least `wanted` of the rows differ from each other."""
    if len(rows) < wanted:
        return False
    if rows.shape[1] and len(set(rows[: 2 * wanted, 0].tolist())) >= wanted:
        return True  # in their first column even
    found: set[bytes] = set()
    for row in rows:
        found.add(row.tobytes())
        if len(found) >= wanted:
            return True
    return wanted <= 0


@lru_cache(maxsize=64)
def bootstrap_counts(num_rows: int, seed: int) -> Rows:
    """Return how often each of `num_rows` rows is drawn in each replicate: [replicates, rows].

    Read-only. Groups of as many rows share their draws, which no variance minds.
    """
    shape = (BOOTSTRAP_REPLICATES, num_rows)
    drawn = np.random.default_rng([seed, num_rows]).integers(num_rows, size=shape)
    places = drawn + num_rows * np.arange(BOOTSTRAP_REPLICATES)[:, None]
    counts = np.bincount(places.reshape(-1), minlength=drawn.size).reshape(shape)
    found = counts.astype(np.float32)
    found.setflags(write=False)
    return found
