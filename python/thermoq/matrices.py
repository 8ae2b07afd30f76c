"""Weights as matrices, how far a decoded one is off, and what of one cannot be quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.errors import InputError

Floats = NDArray[np.float32]
StoredParts = dict[str, tuple[str, tuple[int, ...]]]

FLOAT_TYPES = {
    "F32": _core.FloatType.F32,
    "F16": _core.FloatType.F16,
    "BF16": _core.FloatType.BF16,
}
MAX_MAGNITUDE: float = _core.MAX_MAGNITUDE


@dataclass(frozen=True)
class Matrix:
    """A weight as a matrix: `data` are the bytes [rows * cols * itemsize] of dtype `dtype`."""

    data: NDArray[np.uint8]
    dtype: str
    rows: int
    cols: int

    def rows_from(self, first: int, count: int) -> Matrix:
        """Return `count` rows from `first` on, without copying."""
        row_bytes = self.data.size // max(1, self.rows)
        data = self.data[first * row_bytes : (first + count) * row_bytes]
        return Matrix(data, self.dtype, count, self.cols)


@dataclass(frozen=True)
class WeightError:
    """How far the decoded matrix W^ is from its source W."""

    squared_error: float
    source_energy: float
    decoded_energy: float
    max_error: float

    @classmethod
    def total(cls, errors: Sequence[WeightError]) -> WeightError:
        """Return the error of a matrix from those of its pieces, in their order."""
        return cls(
            sum(one.squared_error for one in errors),
            sum(one.source_energy for one in errors),
            sum(one.decoded_energy for one in errors),
            max((one.max_error for one in errors), default=0.0),
        )

    @property
    def relative_squared_error(self) -> float:
        """||W^ - W||^2 / ||W||^2; 0 for W = 0, which every scheme decodes exactly."""
        return self.squared_error / self.source_energy if self.source_energy else 0.0

    @property
    def cosine_similarity(self) -> float:
        """<W^, W> / (||W^|| ||W||), from <W^, W> = (||W||^2 + ||W^||^2 - ||W^ - W||^2) / 2.

        1 where both are 0, 0 where one is.
        """
        norms = math.sqrt(self.source_energy) * math.sqrt(self.decoded_energy)
        if norms == 0.0:
            return 1.0 if self.source_energy == self.decoded_energy else 0.0
        dot = (self.source_energy + self.decoded_energy - self.squared_error) / 2.0
        return min(1.0, max(-1.0, dot / norms))


def matrix_shape(shape: tuple[int, ...], row_dimension: int) -> tuple[int, int]:
    """Return [out, in * kernel] of a weight: rows run along `row_dimension`."""
    rows = shape[row_dimension]
    cols = math.prod(shape[:row_dimension] + shape[row_dimension + 1 :])
    return rows, cols


def as_matrix(
    data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], row_dimension: int
) -> Matrix:
    """View the bytes of a weight as a matrix; only transposed convolutions are copied."""
    rows, cols = matrix_shape(shape, row_dimension)
    if row_dimension != 0:
        itemsize = data.size // max(1, math.prod(shape))
        elements = data.reshape(*shape, itemsize)
        data = np.ascontiguousarray(np.moveaxis(elements, row_dimension, 0)).reshape(-1)
    return Matrix(data, dtype, rows, cols)


def from_matrix(
    data: NDArray[np.uint8], shape: tuple[int, ...], row_dimension: int
) -> NDArray[np.uint8]:
    """Undo `as_matrix` on the bytes of a decoded matrix."""
    if row_dimension == 0:
        return data
    itemsize = data.size // max(1, math.prod(shape))
    moved = (shape[row_dimension], *shape[:row_dimension], *shape[row_dimension + 1 :], itemsize)
    return np.ascontiguousarray(np.moveaxis(data.reshape(moved), 0, row_dimension)).reshape(-1)


def to_floats(matrix: Matrix, threads: int = 0) -> NDArray[np.float32]:
    """Return the weights as f32 [rows, cols]."""
    data = matrix.data
    if matrix.dtype != "F32":
        data, _ = _core.convert(data, FLOAT_TYPES[matrix.dtype], FLOAT_TYPES["F32"], threads)
    return np.array(data).view(np.float32).reshape(matrix.rows, matrix.cols)


def checked_floats(matrix: Matrix, threads: int = 0, whole: Matrix | None = None) -> Floats:
    """Return the weights as f32 [rows, cols], if they can be quantized.

    Raises InputError as the core's quantizers do, on what is wrong in `whole`, of which `matrix`
    may be a piece.
    """
    values = to_floats(matrix, threads)
    if not float(np.abs(values).max(initial=0.0)) <= MAX_MAGNITUDE:  # NaN is neither
        every = values if whole is None else to_floats(whole, threads)
        nan, infinite = int(np.isnan(every).sum()), int(np.isinf(every).sum())
        check_range(nan, infinite, float(np.abs(every).max(initial=0.0)))
    return values


def checked_importances(importances: NDArray[np.float32], cols: int) -> NDArray[np.float32]:
    """Return importances [cols] as the core wants them, or raise InputError."""
    if importances.shape != (cols,):
        raise InputError(
            f"importances: expected one for each of {cols} columns, got {list(importances.shape)}"
        )
    with np.errstate(over="ignore"):  # what f32 cannot hold becomes infinite, and is refused
        importances = np.ascontiguousarray(importances, np.float32)
    wrong = ~(np.isfinite(importances) & (importances >= 0))
    if wrong.any():
        column = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"importances: expected finite numbers of at least 0, got {importances[column]:g} "
            f"for column {column}"
        )
    return importances


def check_range(nan_count: int, infinity_count: int, max_magnitude: float) -> None:
    """Raise InputError for a matrix with weights that cannot be quantized."""
    if nan_count or infinity_count:
        raise InputError(
            f"expected finite weights, got {nan_count} NaN and "
            f"{infinity_count} infinite; a `layers` rule with skip: true copies the tensor"
        )
    if max_magnitude > MAX_MAGNITUDE:
        raise InputError(
            f"expected weights within +-{MAX_MAGNITUDE:.0f} (scales are float16), "
            f"got {max_magnitude:.6g}; a `layers` rule with skip: true copies the tensor"
        )
