"""Rotating the inputs of a layer: outliers are spread over all columns before codes are chosen.

R turns w [cols] into H P S w: random signs S, a random permutation P, and the orthogonal Hadamard
matrix on every `block` columns, the largest power of two up to 128 that divides `cols`. Signs and
permutation follow from the seed and the number of columns alone (docs/format.md), so that layers
that share an input share its rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.terms import LayerClass

MAX_BLOCK: Final = 128

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rotation:
    """The rotation of rows of `cols` weights that a seed from 0 to 2^64 - 1 gives."""

    seed: int
    cols: int

    @property
    def block(self) -> int:
        """Columns of a Hadamard block; 1 where `cols` is odd: then nothing but signs and order."""
        return max(1, min(MAX_BLOCK, self.cols & -self.cols))

    @cached_property
    def permutation(self) -> NDArray[np.intp]:
        """The column [cols] that comes to each place."""
        return np.argsort(sequence_of(self.seed, 0, self.cols), kind="stable")

    @cached_property
    def signs(self) -> Floats:
        """1 or -1 for each column [cols], before the permutation."""
        high = sequence_of(self.seed, self.cols, self.cols) >> np.uint64(63)
        signs: Floats = np.where(high == 1, np.float32(-1), np.float32(1))
        return signs

    def forward(self, rows: Floats, threads: int = 0) -> Floats:
        """Rotate `rows` [n, cols]: weights, or inputs of the layer."""
        turned: Floats = _core.rotate(np.ascontiguousarray(rows), *self._arguments(), threads)
        return turned

    def backward(self, rows: Floats, threads: int = 0) -> Floats:
        """Undo `forward`, each step in f32."""
        found: Floats = _core.unrotate(np.ascontiguousarray(rows), *self._arguments(), threads)
        return found

    def _arguments(self) -> tuple[NDArray[np.int64], Floats, int]:
        return self.permutation.astype(np.int64, copy=False), self.signs, self.block


def rotation_for(
    shape: tuple[int, ...], layer_class: LayerClass, bit_width: int, seed: int
) -> Rotation | None:
    """Return the rotation of a layer's inputs; None where it cannot be, or would change nothing.

    Matrices of 2 to 4 bits alone: kernels see unfolded inputs, and tables are looked up.
    """
    if bit_width == 8 or len(shape) != 2 or layer_class == "table":
        return None
    rotation = Rotation(seed, shape[1])
    return rotation if rotation.block > 1 else None


def sequence_of(seed: int, first: int, count: int) -> NDArray[np.uint64]:
    """Return numbers `first` ... of the splitmix64 sequence of `seed` (Steele et al. 2014)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    z = np.uint64(seed) + (np.arange(first + 1, first + count + 1, dtype=np.uint64)) * step
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return keys
