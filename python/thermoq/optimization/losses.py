"""What a layer's output loses to the rounding of its inputs: ||W x~ - W x||^2, and its mean.

Measured through a few random sign sums of W's rows, S W: E ||S W e||^2 = ||W e||^2 for any e
(Johnson and Lindenstrauss), so that a candidate costs as much as a layer of 64 outputs.

What all rows of a group lose alike counts four times. Later layers average errors out that differ
from row to row; the mean of what is cut off passes through all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from thermoq import _core
from thermoq.optimization.inputs import Floats, Rows, quantized_inputs

SKETCH_ROWS: Final = 64
SYSTEMATIC: Final = 3.0
"""How much more the mean error of a group's rows counts."""

Pair = tuple[Floats, Floats]
"""Scales and zero points of some time groups."""


def sketch_of(weights: Rows, seed: int) -> Rows:
    """Return at most 64 rows that stand for `weights` [out, in]: random sign sums of its rows.

    Each column is scaled to its exact norm, so that errors in single columns are measured exactly.
    """
    num_rows = len(weights)
    if num_rows <= SKETCH_ROWS:
        return weights
    sketch: Rows = _signs(num_rows, seed) @ weights
    wanted = np.einsum("ij,ij->j", weights, weights)
    got = np.einsum("ij,ij->j", sketch, sketch)
    sketch *= np.sqrt(np.divide(wanted, got, out=np.zeros_like(got), where=got > 0))
    return sketch


def some_outputs(weights: Rows) -> Rows:
    """Return at most 64 of the rows of `weights`, scaled to stand for all of them.

    Next to no work, and a rougher measure than `sketch_of`: to compare ranges that are nearly the
    same, not to search for them.
    """
    every = -(-len(weights) // SKETCH_ROWS)
    chosen = weights[::every]
    scaled: Rows = chosen * np.float32(np.sqrt(len(weights) / len(chosen)))
    return scaled


@lru_cache(maxsize=16)
def _signs(num_rows: int, seed: int) -> Rows:
    draw = np.random.default_rng([seed, num_rows])
    signs = draw.integers(0, 2, (SKETCH_ROWS, num_rows), dtype=np.int8).astype(np.float32) * 2 - 1
    signs.setflags(write=False)
    return signs


class Losses:
    """What candidate ranges of several groups lose on their rows, all groups at once."""

    def __init__(self, sketch: Rows, rows: Sequence[Rows], bits: int) -> None:
        sizes = [len(part) for part in rows]
        self._sketch, self._bits = sketch.T, bits
        self.rows = np.concatenate(rows)
        self._group = np.repeat(np.arange(len(rows)), sizes)
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._sizes = np.array(sizes, np.int64)

    def by_row(self, scale: Floats, zero_point: Floats) -> Floats:
        """Return each row's share of the loss, with parameters [groups].

        With d = S W (x~ - x) and its mean m over the group: ||d||^2 + 3 <d, m>, which adds up to
        sum ||d||^2 + 3 n ||m||^2.
        """
        lost = self._lost(scale, zero_point)
        sums = np.add.reduceat(lost, self._starts, axis=0)
        alike = np.float32(SYSTEMATIC) * sums / self._sizes.astype(np.float32)[:, None]
        return np.asarray(np.einsum("ij,ij->i", lost, lost + alike[self._group], dtype=np.float64))

    def of(self, pair: Pair) -> Floats:
        """Return what each group loses with its scale and zero point."""
        return _core.group_losses(self._lost(*pair), self._sizes, SYSTEMATIC)

    def _lost(self, scale: Floats, zero_point: Floats) -> Rows:
        """Return d of each row."""
        error = quantized_inputs(self.rows, scale, zero_point, self._sizes, self._bits, error=True)
        lost: Rows = error @ self._sketch
        return lost

    def by_group(self, losses: Floats) -> Floats:
        """Sum what rows lose by group."""
        return np.asarray(np.add.reduceat(losses, self._starts), np.float64)


def loss_of_codes(weights: Rows, decoded: Rows, losses: Losses) -> Floats:
    """Return ||W^ x - W x||^2 of each group's rows, by at most 64 of the layer's outputs."""
    every = -(-len(weights) // SKETCH_ROWS)
    wrong = decoded[::every] - weights[::every]
    lost = losses.rows @ wrong.T
    by_row = np.einsum("ij,ij->i", lost, lost, dtype=np.float64)
    return losses.by_group(by_row) * (len(weights) / len(wrong))
