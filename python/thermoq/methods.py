"""Which method a layer gets, with what a calibration knows of its inputs, and how it fared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.statistics import CalibratedInput
from thermoq.hessian import quantize_hessian
from thermoq.outputs import OutputError, output_error, sampled_rows
from thermoq.rotation import Rotation
from thermoq.terms import Method
from thermoq.trellis_hessian import quantize_trellis_hessian
from thermoq.weights import (
    MAX_MAGNITUDE,
    Matrix,
    QuantizedMatrix,
    Scheme,
    WeightError,
    check_range,
    dequantize,
    quantize,
    to_floats,
)

Floats = NDArray[np.float32]

_CHUNK_WEIGHTS: Final = 1 << 22


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
    source = _checked(matrix, threads)
    weights = source if rotation is None else rotation.forward(source, threads)
    if rotation is not None and rows is not None:
        rows = rotation.forward(rows, threads)
    if method == "hessian" and rows is not None:
        found = _hessian(weights, scheme, rows, rotation is not None, threads)
        used: Method = "hessian"
    else:
        found, used = _least_squares(weights, scheme, rows, threads), "lsq"
    found = replace(found, rotation=rotation)
    return QuantizedLayer(found, _error(source, found, threads), used)


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


def _least_squares(
    weights: Floats, scheme: Scheme, rows: Floats | None, threads: int
) -> QuantizedMatrix:
    """Fit rotated weights, which may lie beyond f16's range where the source did not."""
    matrix = _within_range(weights)
    moments = None if rows is None else np.square(rows).mean(axis=0)
    return quantize(matrix, scheme, method="lsq", importances=moments, threads=threads)[0]


def rotated(matrix: Matrix, rotation: Rotation, threads: int = 0) -> Matrix:
    """Return the weights as `lsq` gets them with a rotation; raises InputError as it would."""
    return _within_range(rotation.forward(_checked(matrix, threads), threads))


def _within_range(weights: Floats) -> Matrix:
    inside = np.clip(weights, -MAX_MAGNITUDE, MAX_MAGNITUDE).astype(np.float32)
    return Matrix(inside.reshape(-1).view(np.uint8), "F32", *inside.shape)


def _checked(matrix: Matrix, threads: int) -> Floats:
    """Return the weights in f32; raises InputError as the core's quantizers would."""
    values = to_floats(matrix, threads)
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    check_range(nan, infinite, float(np.abs(values).max(initial=0.0)))
    return values


def _error(source: Floats, quantized: QuantizedMatrix, threads: int) -> WeightError:
    decoded = dequantize(quantized, "F32", threads=threads).view(np.float32).reshape(source.shape)
    squared = energy = decoded_energy = largest = 0.0
    step = max(1, _CHUNK_WEIGHTS // max(1, source.shape[1]))
    for first in range(0, source.shape[0], step):
        w = source[first : first + step].astype(np.float64)
        d = decoded[first : first + step].astype(np.float64)
        squared += float(np.square(d - w).sum())
        energy += float(np.square(w).sum())
        decoded_energy += float(np.square(d).sum())
        largest = max(largest, float(np.abs(d - w).max(initial=0.0)))
    return WeightError(squared, energy, decoded_energy, largest)
