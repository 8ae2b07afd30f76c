"""A layer's inputs as a quantized layer sees them, and which of the kept rows serve what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    rows: Rows, scale: Floats, zero_point: Floats, bits: int, out: Rows | None = None
) -> Rows:
    """Return x~ of rows x [n, in], each with its own scale and zero point [n], in f32.

    `x~ = (clip(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale` (DESIGN
    section 3); 0 where the scale is 0. Clipping before the zero point is added gives the same
    numbers, all of them small integers, and spares a pass.
    """
    step = scale.astype(np.float32)[:, None]
    zero = zero_point.astype(np.float32)[:, None]
    quantized = np.divide(rows, np.where(step > 0, step, np.float32(1)), out=out)
    np.rint(quantized, out=quantized)
    np.maximum(quantized, -zero, out=quantized)
    np.minimum(quantized, np.float32(2**bits - 1) - zero, out=quantized)
    return np.multiply(quantized, step, out=quantized)


def evenly(rows: Rows, most: int) -> Rows:
    """Return at most `most` of the rows, evenly from first to last."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


def split(rows: Rows) -> tuple[Rows, Rows]:
    """Cut rows into those that are fitted to, three of four, and those held out."""
    held_out = np.arange(len(rows)) % 4 == 3
    return rows[~held_out], rows[held_out]


def has_distinct(rows: Rows, wanted: int) -> bool:
    """Tell whether at least `wanted` of the rows differ from each other."""
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
