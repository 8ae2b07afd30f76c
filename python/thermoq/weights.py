"""Weight matrices and their quantized form: a `Scheme` is a value, `quantize` the one verb."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.errors import InputError
from thermoq.rotation import Rotation
from thermoq.terms import Encoding

StoredParts = dict[str, tuple[str, tuple[int, ...]]]

FLOAT_TYPES = {
    "F32": _core.FloatType.F32,
    "F16": _core.FloatType.F16,
    "BF16": _core.FloatType.BF16,
}
MAX_MAGNITUDE: float = _core.MAX_MAGNITUDE
Q8_GROUP_SIZE: int = _core.Q8_GROUP_SIZE


@dataclass(frozen=True)
class Scheme:
    """How a matrix is stored (DESIGN section 8).

    `affine`: W^ = scale * code + minimum, codes of 2 or 4 bits, an f16 pair per group.
    `coded`: W^ = (super_scale * scale_code) * code - super_minimum * minimum_code, codes of 2 or 4
    bits, codes of `scale_bits` and `minimum_bits` per group, an f16 pair per super-block.
    `q8`: W^ = scale * code, codes of 8 bits with sign, an f16 scale per group of 32.
    """

    encoding: Encoding
    bit_width: int
    group_size: int
    super_block: int = 0
    scale_bits: int = 0
    minimum_bits: int = 0

    def stored_parts(self, rows: int, cols: int) -> StoredParts:
        """Return safetensors dtype and shape by suffix, in the order of the checksum."""
        groups = -(-cols // self.group_size)
        codes = ("U8", (rows, _packed_bytes(cols, self.bit_width)))
        if self.encoding == "q8":
            return {"scale": ("F16", (rows, groups)), "codes": ("I8", (rows, cols))}
        if self.encoding == "affine":
            pair = ("F16", (rows, groups))
            return {"scale": pair, "minimum": pair, "codes": codes}
        pair = ("F16", (rows, -(-cols // self.super_block)))
        return {
            "super_scale": pair,
            "super_minimum": pair,
            "scale_codes": ("U8", (rows, _packed_bytes(groups, self.scale_bits))),
            "minimum_codes": ("U8", (rows, _packed_bytes(groups, self.minimum_bits))),
            "codes": codes,
        }


def _packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


@dataclass(frozen=True)
class Matrix:
    """A weight as a matrix: `data` are the bytes [rows * cols * itemsize] of dtype `dtype`."""

    data: NDArray[np.uint8]
    dtype: str
    rows: int
    cols: int


@dataclass(frozen=True)
class QuantizedMatrix:
    """Codes and parameters of a matrix [rows, cols], by suffix as they are stored.

    With a `rotation` they are those of the rotated matrix, and decoding undoes it.
    """

    scheme: Scheme
    rows: int
    cols: int
    parts: dict[str, NDArray[np.generic]]
    rotation: Rotation | None = None


@dataclass(frozen=True)
class WeightError:
    """How far the decoded matrix W^ is from its source W."""

    squared_error: float
    source_energy: float
    decoded_energy: float
    max_error: float

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


def quantize(
    matrix: Matrix,
    scheme: Scheme,
    *,
    method: Literal["minmax", "lsq"] = "minmax",
    importances: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> tuple[QuantizedMatrix, WeightError]:
    """Quantize `matrix` and measure the error in the same pass.

    `minmax` rounds to nearest; `lsq` minimizes the squared error, weighted by the `importances`
    [cols] of the input columns if they are given (finite, at least 0). The error that is returned
    is never weighted. `coded` and importances are for `lsq` alone (ValueError).

    Raises InputError for NaN, infinities, weights beyond the range of f16 and importances that are
    not as above; the message does not name the tensor, which only the caller knows.
    """
    if method == "minmax":
        if importances is not None:
            raise ValueError("method: expected lsq with importances, got minmax")
        parts, error = _round_to_nearest(matrix, scheme, threads)
    else:
        if importances is not None:
            importances = _checked_importances(importances, matrix.cols)
        parts, error = _least_squares(matrix, scheme, importances, threads)
    check_range(error.nan_count, error.infinity_count, error.max_magnitude)
    measured = WeightError(
        error.squared_error, error.source_energy, error.decoded_energy, error.max_error
    )
    return QuantizedMatrix(scheme, matrix.rows, matrix.cols, parts), measured


def _round_to_nearest(
    matrix: Matrix, scheme: Scheme, threads: int
) -> tuple[dict[str, NDArray[np.generic]], _core.QuantizationError]:
    source = (matrix.data, FLOAT_TYPES[matrix.dtype], matrix.rows, matrix.cols)
    if scheme.encoding == "q8":
        signed, scale, error = _core.quantize_q8(*source, threads)
        return {"scale": _half(scale), "codes": signed}, error
    if scheme.encoding == "coded":
        raise ValueError("method: expected lsq with the encoding coded, got minmax")
    codes, scale, minimum, error = _core.quantize_affine(
        *source, scheme.bit_width, scheme.group_size, threads
    )
    return {"scale": _half(scale), "minimum": _half(minimum), "codes": codes}, error


def _least_squares(
    matrix: Matrix, scheme: Scheme, importances: NDArray[np.float32] | None, threads: int
) -> tuple[dict[str, NDArray[np.generic]], _core.QuantizationError]:
    source = (matrix.data, FLOAT_TYPES[matrix.dtype], matrix.rows, matrix.cols)
    if scheme.encoding == "q8":
        signed, scale, error = _core.lsq_q8(*source, importances, threads)
        return {"scale": _half(scale), "codes": signed}, error
    if scheme.encoding == "affine":
        codes, scale, minimum, error = _core.lsq_affine(
            *source, scheme.bit_width, scheme.group_size, importances, threads
        )
        return {"scale": _half(scale), "minimum": _half(minimum), "codes": codes}, error
    codes, scale_codes, minimum_codes, super_scale, super_minimum, error = _core.lsq_coded(
        *source,
        scheme.bit_width,
        scheme.group_size,
        scheme.super_block,
        scheme.scale_bits,
        scheme.minimum_bits,
        importances,
        threads,
    )
    parts: dict[str, NDArray[np.generic]] = {
        "super_scale": _half(super_scale),
        "super_minimum": _half(super_minimum),
        "scale_codes": scale_codes,
        "minimum_codes": minimum_codes,
        "codes": codes,
    }
    return parts, error


def _half(bits: NDArray[np.uint16]) -> NDArray[np.float16]:
    return bits.view(np.float16)


def _checked_importances(importances: NDArray[np.float32], cols: int) -> NDArray[np.float32]:
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


def dequantize(
    matrix: QuantizedMatrix, dtype: str = "F32", *, threads: int = 0
) -> NDArray[np.uint8]:
    """Decode to bytes of `dtype` ("F32", "F16" or "BF16"), row-major [rows, cols]."""
    if matrix.rotation is not None:
        return _unrotated(matrix, matrix.rotation, dtype, threads)
    scheme, shape = matrix.scheme, (matrix.rows, matrix.cols)

    def halves(suffix: str) -> NDArray[np.uint16]:
        return matrix.parts[suffix].view(np.uint16)

    def packed(suffix: str) -> NDArray[np.uint8]:
        return matrix.parts[suffix].view(np.uint8)

    if scheme.encoding == "q8":
        signed = matrix.parts["codes"].view(np.int8)
        return _core.dequantize_q8(signed, halves("scale"), *shape, FLOAT_TYPES[dtype], threads)
    if scheme.encoding == "affine":
        return _core.dequantize_affine(
            packed("codes"),
            halves("scale"),
            halves("minimum"),
            *shape,
            scheme.bit_width,
            scheme.group_size,
            FLOAT_TYPES[dtype],
            threads,
        )
    return _core.dequantize_coded(
        packed("codes"),
        packed("scale_codes"),
        packed("minimum_codes"),
        halves("super_scale"),
        halves("super_minimum"),
        *shape,
        scheme.bit_width,
        scheme.group_size,
        scheme.super_block,
        scheme.scale_bits,
        scheme.minimum_bits,
        FLOAT_TYPES[dtype],
        threads,
    )


def _unrotated(
    matrix: QuantizedMatrix, rotation: Rotation, dtype: str, threads: int
) -> NDArray[np.uint8]:
    inner = QuantizedMatrix(matrix.scheme, matrix.rows, matrix.cols, matrix.parts)
    decoded = dequantize(inner, "F32", threads=threads).view(np.float32)
    values = rotation.backward(decoded.reshape(matrix.rows, matrix.cols), threads)
    data = values.reshape(-1).view(np.uint8)
    if dtype == "F32":
        return data
    return _core.convert(data, FLOAT_TYPES["F32"], FLOAT_TYPES[dtype], threads)[0]


def to_floats(matrix: Matrix, threads: int = 0) -> NDArray[np.float32]:
    """Return the weights as f32 [rows, cols]."""
    data = matrix.data
    if matrix.dtype != "F32":
        data, _ = _core.convert(data, FLOAT_TYPES[matrix.dtype], FLOAT_TYPES["F32"], threads)
    return np.array(data).view(np.float32).reshape(matrix.rows, matrix.cols)


def spectral_concentration(
    matrix: Matrix, source_energy: float, *, iterations: int = 4, seed: int = 0, threads: int = 0
) -> float:
    """kappa = in * sigma_1(W)^2 / ||W||_F^2, between 1 and in; 1 for W = 0 (DESIGN section 4).

    It says how much of the layer's gain lies in its top direction. sigma_1 comes from `iterations`
    steps of the power iteration, each a pass over the weights, so the figure is a lower bound; it
    is clipped to the range that the true one lies in.
    """
    if source_energy <= 0.0:
        return 1.0
    spectral, frobenius = _core.squared_norms(
        matrix.data,
        FLOAT_TYPES[matrix.dtype],
        matrix.rows,
        matrix.cols,
        math.sqrt(source_energy),
        iterations,
        seed,
        threads,
    )
    # Its own ||W||_F^2, as that of the quantizer depends, in the last digits, on the scheme.
    kappa = matrix.cols * spectral / frobenius if frobenius else 1.0
    return min(float(matrix.cols), max(1.0, kappa))


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
