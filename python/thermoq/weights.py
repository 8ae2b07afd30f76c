"""Weight matrices and their quantized form: a `Scheme` is a value, `quantize` the one verb."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.matrices import (
    FLOAT_TYPES,
    MAX_MAGNITUDE,
    Matrix,
    StoredParts,
    WeightError,
    as_matrix,
    check_range,
    checked_floats,
    checked_importances,
    from_matrix,
    matrix_shape,
    to_floats,
)
from thermoq.rotation import Rotation
from thermoq.terms import Encoding
from thermoq.trellis import TrellisScheme, dequantize_trellis, quantize_trellis

__all__ = [  # those of `matrices` too: most of who takes a scheme takes them as well
    "FLOAT_TYPES",
    "MAX_MAGNITUDE",
    "Q8_GROUP_SIZE",
    "Matrix",
    "QuantizedMatrix",
    "Scheme",
    "StoredParts",
    "WeightError",
    "as_matrix",
    "check_range",
    "checked_floats",
    "checked_importances",
    "decoded_rows",
    "dequantize",
    "dequantize_rows",
    "from_matrix",
    "matrix_shape",
    "pieces",
    "quantize",
    "spectral_concentration",
    "to_floats",
]

Q8_GROUP_SIZE: int = _core.Q8_GROUP_SIZE

_PIECE_WEIGHTS: Final = 1 << 22


@dataclass(frozen=True)
class Scheme:
    """How a matrix is stored (DESIGN section 8).

    `affine`: W^ = scale * code + minimum, codes of 2 or 4 bits, an f16 pair per group.
    `coded`: W^ = (super_scale * scale_code) * code - super_minimum * minimum_code, codes of 2 or 4
    bits, codes of `scale_bits` and `minimum_bits` per group, an f16 pair per super-block.
    `q8`: W^ = scale * code, codes of 8 bits with sign, an f16 scale per group of 32.
    `trellis`: W^ = scale * table[window], windows of `window_bits` into streams of 2, 3 or 4 bits a
    weight that run down `block_rows` rows of a column; an f16 scale per group (trellis.py).
    """

    encoding: Encoding
    bit_width: int
    group_size: int
    super_block: int = 0
    scale_bits: int = 0
    minimum_bits: int = 0
    window_bits: int = 0
    block_rows: int = 0
    table_seed: int = 0

    @property
    def trellis(self) -> TrellisScheme:
        """What a scheme of the encoding trellis says, as its functions take it."""
        assert self.encoding == "trellis"
        return TrellisScheme(
            self.bit_width, self.window_bits, self.group_size, self.block_rows, self.table_seed
        )

    def stored_parts(self, rows: int, cols: int) -> StoredParts:
        """Return safetensors dtype and shape by suffix, in the order of the checksum."""
        if self.encoding == "trellis":
            return self.trellis.stored_parts(rows, cols)
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
class QuantizedMatrix:
    """Codes and parameters of a matrix [rows, cols], by suffix as they are stored.

    With a `rotation` they are those of the rotated matrix, and decoding undoes it.
    """

    scheme: Scheme
    rows: int
    cols: int
    parts: dict[str, NDArray[np.generic]]
    rotation: Rotation | None = None

    def rows_from(self, first: int, count: int) -> QuantizedMatrix:
        """Return `count` rows from `first` on as a matrix of its own; trellis by whole blocks."""
        parts = {name: part[first : first + count] for name, part in self.parts.items()}
        if self.scheme.encoding == "trellis":
            trellis = self.scheme.trellis
            start = trellis.codes_bytes(first, self.cols)
            end = start + trellis.codes_bytes(count, self.cols)
            parts["codes"] = self.parts["codes"][start:end]
        return replace(self, rows=count, parts=parts)


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
    is never weighted. `coded`, `trellis` and importances are for `lsq` alone (ValueError).

    Raises InputError for NaN, infinities, weights beyond the range of f16 and importances that are
    not as above; the message does not name the tensor, which only the caller knows.
    """
    if method == "lsq" and scheme.encoding == "trellis":
        parts, measured = quantize_trellis(
            matrix, scheme.trellis, importances=importances, threads=threads
        )
        return QuantizedMatrix(scheme, matrix.rows, matrix.cols, parts), measured
    if method == "minmax":
        if importances is not None:
            raise ValueError("method: expected lsq with importances, got minmax")
        parts, error = _round_to_nearest(matrix, scheme, threads)
    else:
        if importances is not None:
            importances = checked_importances(importances, matrix.cols)
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
    if scheme.encoding in ("coded", "trellis"):
        raise ValueError(f"method: expected lsq with the encoding {scheme.encoding}, got minmax")
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


def dequantize(
    matrix: QuantizedMatrix, dtype: str = "F32", *, threads: int = 0
) -> NDArray[np.uint8]:
    """Decode to bytes of `dtype` ("F32", "F16" or "BF16"), row-major [rows, cols]."""
    if matrix.rotation is not None:
        return _unrotated(matrix, dtype, threads)
    scheme, shape = matrix.scheme, (matrix.rows, matrix.cols)
    if scheme.encoding == "trellis":
        return dequantize_trellis(matrix.parts, scheme.trellis, *shape, dtype, threads=threads)

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


def dequantize_rows(
    matrix: QuantizedMatrix,
    chosen: NDArray[np.int64],
    dtype: str = "F32",
    *,
    threads: int = 0,
) -> NDArray[np.uint8]:
    """Decode some rows [n] of a matrix that is not rotated; as `dequantize`, row-major [n, cols].

    Trellis codes are decoded by whole blocks of rows, of which those are taken.
    """
    assert matrix.rotation is None
    if matrix.scheme.encoding != "trellis":
        parts = {name: np.ascontiguousarray(part[chosen]) for name, part in matrix.parts.items()}
        some = QuantizedMatrix(matrix.scheme, len(chosen), matrix.cols, parts)
        return dequantize(some, dtype, threads=threads)
    decoded = np.empty((len(chosen), matrix.cols, 4 if dtype == "F32" else 2), np.uint8)
    owner = chosen // matrix.scheme.block_rows
    for index in np.unique(owner):
        block = _block(matrix, int(index))
        rows = dequantize(block, dtype, threads=threads).reshape(block.rows, *decoded.shape[1:])
        own = owner == index
        decoded[own] = rows[chosen[own] - index * matrix.scheme.block_rows]
    return decoded.reshape(-1)


def _block(matrix: QuantizedMatrix, index: int) -> QuantizedMatrix:
    """Return one block of rows of trellis codes as a matrix of its own."""
    first = index * matrix.scheme.block_rows
    return matrix.rows_from(first, min(matrix.scheme.block_rows, matrix.rows - first))


def decoded_rows(
    matrix: QuantizedMatrix, threads: int = 0
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Decode a matrix by and by: yields the first row of each piece, and its values [n, cols].

    What has to be held at once is bounded, whatever the size of the matrix.
    """
    for first, count in pieces(matrix.rows, matrix.cols, matrix.scheme):
        piece = matrix.rows_from(first, count)
        inner = replace(piece, rotation=None)
        values = dequantize(inner, "F32", threads=threads).view(np.float32)
        values = values.reshape(count, matrix.cols)
        if matrix.rotation is not None:
            values = matrix.rotation.backward(values, threads)
        yield first, values


def pieces(rows: int, cols: int, scheme: Scheme) -> Iterator[tuple[int, int]]:
    """Cut a matrix into pieces of rows that can be quantized and decoded each by itself.

    Yields first row and number of rows: about four million weights, and whole blocks of trellis.
    """
    multiple = scheme.block_rows or 1
    step = multiple * max(1, _PIECE_WEIGHTS // max(1, multiple * cols))
    for first in range(0, max(1, rows), step):  # one piece at least: parts have their shapes
        yield first, min(step, rows - first)


def _unrotated(matrix: QuantizedMatrix, dtype: str, threads: int) -> NDArray[np.uint8]:
    itemsize = 4 if dtype == "F32" else 2
    out = np.empty((matrix.rows, matrix.cols * itemsize), np.uint8)
    for first, values in decoded_rows(matrix, threads):
        data = values.reshape(-1).view(np.uint8)
        if dtype != "F32":
            data = _core.convert(data, FLOAT_TYPES["F32"], FLOAT_TYPES[dtype], threads)[0]
        out[first : first + len(values)] = data.reshape(len(values), -1)
    return out.reshape(-1)


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
