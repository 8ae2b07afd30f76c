"""What errors in some columns ask of the columns behind, block of columns by block of columns.

With inputs X [N, n] and H = X^T X + N * lambda * I, let E [rows, n] be what rounding took from the
weights. It costs trace(E H E^T). With H = R R^T, R upper triangular, and U = R^-1, that is
||E R||^2, and where only the columns `done` are rounded, the best that a block B behind can do,
along with all that follow it, is to add E[:, done] R[done, B] U[B, B]; within the block, errors
spread by U[B, B], which is the block's own part of GPTQ's factor H^-1 = U^T U (Frantar et al.,
arXiv 2210.17323). H itself is never inverted (LDLQ: Chee et al., arXiv 2307.13304).

Few columns: R, once. Many columns and few rows: X spans at most N directions, and all that is
needed follows from Z = E X_done^T [rows, N], and from P = (N * lambda * I + X_R X_R^T)^-1 [N, N]
over the columns R that are left: what block B adds is Z P X_B, and
U[B, B]^T U[B, B] = (I - X_B^T P X_B) / (N * lambda).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from thermoq.blas_threads import SMALL_WEIGHTS, product_for

DENSE_COLUMNS: Final = 4096  # up to here H itself is small enough, whatever N is

_STRETCH: Final = 512  # columns that are told in one product what those before them lost

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)


def damping_of(inputs: Floats, share: float) -> float:
    """Return lambda: `share` of the mean squared input, and something where that is 0."""
    mean = float(np.einsum("ij,ij->", inputs, inputs, dtype=np.float64)) / max(1, inputs.size)
    return share * mean if mean > 0.0 else 1.0


class Compensation(Protocol):
    """Blocks of columns, asked for and answered in order."""

    def before(self, number: int, lost: Floats) -> tuple[Doubles, Floats]:
        """Return U of block `number` [b, b], and what its weights change by [rows, b].

        `lost` [rows, columns of the blocks before] is what rounding took from the weights there.
        """
        ...

    def after(self, number: int, lost: Floats) -> None:
        """Take note of what rounding took from block `number` [rows, b]."""
        ...


def compensation(
    inputs: Floats, damping: float, blocks: Sequence[slice], num_weight_rows: int
) -> Compensation:
    """Return the compensation of weights whose columns are the `blocks`, one after another."""
    num_rows, num_columns = inputs.shape
    if num_columns <= max(num_rows, DENSE_COLUMNS):
        return Dense(inputs, damping, blocks, num_weight_rows)
    return LowRank(inputs, damping, blocks, num_weight_rows)


class Dense:
    """By the factor R of H."""

    def __init__(
        self, inputs: Floats, damping: float, blocks: Sequence[slice], num_weight_rows: int
    ) -> None:
        self._blocks = blocks
        num_weights = num_weight_rows * inputs.shape[1]
        self._product = product_for(num_weights)
        self._inverses, self._factor = _factored(
            inputs, damping * max(1, len(inputs)), blocks, num_weights < SMALL_WEIGHTS
        )
        self._stretch = slice(0, 0)
        self._asked = np.empty((0, 0), np.float32)

    def before(self, number: int, lost: Floats) -> tuple[Doubles, Floats]:
        """Return U of the block and what its weights change by."""
        block = self._blocks[number]
        if block.start >= self._stretch.stop:  # wide products are faster than narrow ones
            wide = (one.stop for one in self._blocks[number:] if one.stop >= block.start + _STRETCH)
            self._stretch = slice(block.start, next(wide, self._blocks[-1].stop))
            self._asked = self._product(lost, self._factor[: block.start, self._stretch])
        first = self._stretch.start
        asked = self._asked[:, block.start - first : block.stop - first]
        asked = asked + self._product(lost[:, first:], self._factor[first : block.start, block])
        own = self._inverses[number]
        return own, self._product(asked, own.astype(np.float32))

    def after(self, number: int, lost: Floats) -> None:
        """Nothing: it comes back as part of what all blocks have lost."""


def _factored(
    inputs: Floats, scale: float, blocks: Sequence[slice], is_small: bool
) -> tuple[list[Doubles], Floats]:
    """Return what `_factor` does; of large layers in f32, unless that fails.

    It is good enough for sums that are damped by a hundredth, and twice as fast.
    """
    if not is_small:
        try:
            return _factor(inputs, scale, blocks)
        except np.linalg.LinAlgError:
            pass
    inverses, factor = _factor(inputs.astype(np.float64), scale, blocks)
    return inverses, factor.astype(np.float32)


def _factor(
    inputs: NDArray[Real], scale: float, blocks: Sequence[slice]
) -> tuple[list[Doubles], NDArray[Real]]:
    """Return U[B, B] of each block, and R above its diagonal blocks, the rest being 0.

    Raises LinAlgError where rounding has made H indefinite.
    """
    num_columns = inputs.shape[1]
    factor = np.zeros((num_columns, num_columns), inputs.dtype)
    inverses: list[Doubles] = []
    for block in reversed(blocks):
        part = inputs[:, : block.stop].T @ inputs[:, block]
        if block.stop < num_columns:
            part -= factor[: block.stop, block.stop :] @ factor[block, block.stop :].T
        own = part[block].astype(np.float64)
        own[np.diag_indices(len(own))] += scale
        # The upper factor is the lower one of what is turned end to end.
        inverse = _inverse_of_lower(np.linalg.cholesky(own[::-1, ::-1]))[::-1, ::-1]
        factor[: block.start, block] = part[: block.start] @ inverse.T.astype(inputs.dtype)
        inverses.append(np.ascontiguousarray(inverse))
    return inverses[::-1], factor


class LowRank:
    """By Z and P."""

    def __init__(
        self, inputs: Floats, damping: float, blocks: Sequence[slice], num_weight_rows: int
    ) -> None:
        num_rows = len(inputs)
        self._inputs, self._blocks = inputs, blocks
        self._scale = damping * num_rows
        kernel = _gram_of_rows(inputs)
        kernel[np.diag_indices(num_rows)] += self._scale
        self._inverse: Doubles = np.linalg.inv(kernel).astype(np.float64)
        self._outputs = np.zeros((num_weight_rows, num_rows), np.float32)

    def before(self, number: int, lost: Floats) -> tuple[Doubles, Floats]:
        """Return U of the block and what its weights change by."""
        own = self._inputs[:, self._blocks[number]].astype(np.float64)
        reached = self._inverse @ own
        middle = np.eye(own.shape[1]) - own.T @ reached
        lower = np.linalg.cholesky((middle + middle.T) / 2)
        grown = _inverse_of_lower(lower) @ reached.T
        self._inverse += grown.T @ grown
        upper = np.ascontiguousarray(lower.T / np.sqrt(self._scale))
        return upper, self._outputs @ reached.astype(np.float32)

    def after(self, number: int, lost: Floats) -> None:
        """Add what the outputs lose."""
        self._outputs += lost @ self._inputs[:, self._blocks[number]].T


def _gram_of_rows(inputs: Floats) -> Doubles:
    total: Doubles = np.zeros((len(inputs), len(inputs)))
    for first in range(0, inputs.shape[1], DENSE_COLUMNS):
        part = inputs[:, first : first + DENSE_COLUMNS].astype(np.float64)
        total += part @ part.T
    return total


def _inverse_of_lower(lower: Doubles) -> Doubles:
    """Return the inverse of a lower triangular matrix, in blocks: NumPy has no solver for them."""
    size, step = len(lower), 128
    out: Doubles = np.zeros_like(lower)
    for first in range(0, size, step):
        last = min(size, first + step)
        own = np.linalg.inv(lower[first:last, first:last])
        out[first:last, first:last] = own
        if first:
            out[first:last, :first] = -own @ (lower[first:last, :first] @ out[:first, :first])
    return out
