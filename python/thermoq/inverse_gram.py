"""The Cholesky factor of a damped inverse Gram matrix, block of columns by block of columns.

With inputs X [N, n], H = X^T X + N * lambda * I, and H^-1 = U^T U with U upper triangular, rounding
column j costs its error over U[j, j], and row j of U says how the columns behind make up for it
(GPTQ: Frantar et al., arXiv 2210.17323). `factors` yields, for each block of columns in order, the
block's own part of U and the part that reaches behind.

Few columns: one factorization of H. Many columns and few rows: X spans at most N directions, so
all that is needed follows from P = (N * lambda * I + X_R X_R^T)^-1 [N, N] over the columns R that
are left: H_R^-1 = (I - X_R^T P X_R) / (N * lambda).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

DENSE_COLUMNS: Final = 4096  # up to here H itself is small enough, whatever N is

Doubles = NDArray[np.float64]
Factor = tuple[Doubles, NDArray[np.float32]]
"""U of a block [b, b] and U from the block to what lies behind it [b, rest]."""


def damping_of(inputs: NDArray[np.float32], share: float) -> float:
    """Return lambda: `share` of the mean squared input, and something where that is 0."""
    mean = float(np.einsum("ij,ij->", inputs, inputs, dtype=np.float64)) / max(1, inputs.size)
    return share * mean if mean > 0.0 else 1.0


def factors(
    inputs: NDArray[np.float32], damping: float, blocks: Sequence[slice]
) -> Iterator[Factor]:
    """Yield the factor of each of the `blocks`, which follow one another over all columns."""
    num_rows, num_columns = inputs.shape
    if num_columns <= max(num_rows, DENSE_COLUMNS):
        yield from _dense(inputs, damping, blocks)
    else:
        yield from _low_rank(inputs, damping, blocks)


def _dense(
    inputs: NDArray[np.float32], damping: float, blocks: Sequence[slice]
) -> Iterator[Factor]:
    num_rows, num_columns = inputs.shape
    # U is the transposed inverse of the factor of H with its columns in reverse order, reversed.
    # f32 is good enough for sums that are damped by a hundredth, and twice as fast.
    reverse = np.ascontiguousarray(inputs[:, ::-1])
    gram = (reverse.T @ reverse).astype(np.float64)
    gram[np.diag_indices(num_columns)] += damping * max(1, num_rows)
    upper = _inverse_of_lower(np.linalg.cholesky(gram))[::-1, ::-1]
    for block in blocks:
        yield (
            np.ascontiguousarray(upper[block, block]),
            upper[block, block.stop :].astype(np.float32),
        )


def _low_rank(
    inputs: NDArray[np.float32], damping: float, blocks: Sequence[slice]
) -> Iterator[Factor]:
    num_rows = len(inputs)
    scale = damping * num_rows
    kernel = _gram_of_rows(inputs)
    kernel[np.diag_indices(num_rows)] += scale
    inverse = np.linalg.inv(kernel).astype(np.float64)
    for block in blocks:
        own = inputs[:, block].astype(np.float64)
        reached = inverse @ own
        middle = np.eye(own.shape[1]) - own.T @ reached
        middle = (middle + middle.T) / 2
        lower = np.linalg.cholesky(middle / scale)
        behind = reached.T.astype(np.float32) @ inputs[:, block.stop :]
        behind = (-_inverse_of_lower(lower) / scale).astype(np.float32) @ behind
        yield np.ascontiguousarray(lower.T), behind
        inverse += reached @ np.linalg.solve(middle, reached.T)


def _gram_of_rows(inputs: NDArray[np.float32]) -> Doubles:
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
