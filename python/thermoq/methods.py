"""Which method a layer gets, with what a calibration knows of its inputs, and how it fared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.calibration.statistics import CalibratedInput
from thermoq.hessian import quantize_hessian
from thermoq.outputs import OutputError, output_error, sampled_rows
from thermoq.rotation import Rotation
from thermoq.terms import Method
from thermoq.trellis_hessian import quantize_trellis_hessian
from thermoq.weights import (
    FLOAT_TYPES,
    MAX_MAGNITUDE,
    Matrix,
    QuantizedMatrix,
    Scheme,
    WeightError,
    checked_floats,
    decoded_rows,
    dequantize,
    pieces,
    quantize,
    to_floats,
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's codes, its error, the method that it got, and what its output loses.

    The last is None without a calibration of the layer.
    """

    matrix: QuantizedMatrix
    error: WeightError
    method: Method
    output: OutputError | None = None


def quantize_layer(
    matrix: Matrix,
    scheme: Scheme,
    method: Method,
    *,
    calibrated: CalibratedInput | None = None,
    rotation: Rotation | None = None,
    threads: int = 0,
) -> QuantizedLayer:
    """Quantize a layer with what is known of it.

    `hessian` without calibrated rows becomes `lsq`; `lsq` takes second moments as importances.
    Raises InputError as `weights.quantize` does.
    """
    found = _quantized(matrix, scheme, method, calibrated, rotation, threads)
    if calibrated is None or _rows_for(matrix, calibrated) is None:
        return found
    decoded = dequantize(found.matrix, "F32", threads=threads).view(np.float32)
    source = to_floats(matrix, threads)
    lost = output_error(source, decoded.reshape(source.shape), sampled_rows(calibrated))
    return replace(found, output=lost)


def _quantized(
    matrix: Matrix,
    scheme: Scheme,
    method: Method,
    calibrated: CalibratedInput | None,
    rotation: Rotation | None,
    threads: int,
) -> QuantizedLayer:
    rows = _rows_for(matrix, None if method == "minmax" else calibrated)
    if (method != "hessian" or rows is None) and rotation is None:
        importances = None if method == "minmax" else _importances_for(matrix, calibrated)
        known: Literal["minmax", "lsq"] = "minmax" if method == "minmax" else "lsq"
        quantized, error = quantize(
            matrix, scheme, method=known, importances=importances, threads=threads
        )
        return QuantizedLayer(quantized, error, known)
    if rotation is not None and rows is not None:
        rows = rotation.forward(rows, threads)
    if method == "hessian" and rows is not None:
        weights = checked_floats(matrix, threads)
        weights = weights if rotation is None else rotation.forward(weights, threads)
        found = _hessian(weights, scheme, rows, rotation is not None, threads)
        found = replace(found, rotation=rotation)
        return QuantizedLayer(found, _error(matrix, found, threads), "hessian")
    assert rotation is not None
    moments = None if rows is None else np.square(rows).mean(axis=0)
    return QuantizedLayer(*_rotated_fit(matrix, scheme, rotation, moments, threads), "lsq")


def _importances_for(matrix: Matrix, calibrated: CalibratedInput | None) -> Floats | None:
    """Return the columns' second moments, which need no kept rows, if they were measured."""
    if calibrated is None or calibrated.num_columns != matrix.cols or not calibrated.count.any():
        return None
    return calibrated.importances()


def _rows_for(matrix: Matrix, calibrated: CalibratedInput | None) -> Floats | None:
    """Return the kept rows of the layer's input, if there are any and they fit it."""
    if calibrated is None or calibrated.num_columns != matrix.cols:
        return None
    rows = calibrated.sample()
    return rows if len(rows) else None


def _hessian(
    weights: Floats, scheme: Scheme, rows: Floats, is_rotated: bool, threads: int
) -> QuantizedMatrix:
    if scheme.encoding == "trellis":
        matrix_rows, matrix_cols = weights.shape
        parts = quantize_trellis_hessian(
            weights, scheme.trellis, rows, by_activation=True, threads=threads
        )
        return QuantizedMatrix(scheme, matrix_rows, matrix_cols, parts)
    by_activation = is_rotated or scheme.encoding == "coded"
    return quantize_hessian(weights, scheme, rows, by_activation=by_activation, threads=threads)


def _rotated_fit(
    matrix: Matrix, scheme: Scheme, rotation: Rotation, moments: Floats | None, threads: int
) -> tuple[QuantizedMatrix, WeightError]:
    """Fit the rotated weights, piece by piece: none but the source is ever held as a whole."""
    fitted, errors = [], []
    for first, count in pieces(matrix.rows, matrix.cols, scheme):
        piece = matrix.rows_from(first, count)
        turned = _within_range(rotation.forward(checked_floats(piece, threads, matrix), threads))
        found, _ = quantize(turned, scheme, method="lsq", importances=moments, threads=threads)
        found = replace(found, rotation=rotation)
        fitted.append(found)
        errors.append(_error(piece, found, threads))
    parts = {
        suffix: np.concatenate([one.parts[suffix] for one in fitted]) for suffix in fitted[0].parts
    }
    whole = QuantizedMatrix(scheme, matrix.rows, matrix.cols, parts, rotation)
    return whole, WeightError.total(errors)


def rotated(matrix: Matrix, rotation: Rotation, threads: int = 0) -> Matrix:
    """Return the weights as `lsq` gets them with a rotation; raises InputError as it would."""
    return _within_range(rotation.forward(checked_floats(matrix, threads), threads))


def _within_range(weights: Floats) -> Matrix:
    """Clip rotated weights, which may lie beyond f16's range where the source did not."""
    inside = np.clip(weights, -MAX_MAGNITUDE, MAX_MAGNITUDE, out=weights)
    return Matrix(inside.reshape(-1).view(np.uint8), "F32", *inside.shape)


def _error(matrix: Matrix, quantized: QuantizedMatrix, threads: int) -> WeightError:
    errors = []
    for first, decoded in decoded_rows(quantized, threads):
        piece = matrix.rows_from(first, len(decoded))
        found = _core.decoding_error(piece.data, FLOAT_TYPES[piece.dtype], decoded, threads)
        errors.append(
            WeightError(
                found.squared_error, found.source_energy, found.decoded_energy, found.max_error
            )
        )
    return WeightError.total(errors)
