"""Error-compensated rounding: the sweep bit for bit, the factors, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import F32, Floats
from thermoq import _core, inverse_gram
from thermoq.blas_threads import SMALL_WEIGHTS
from thermoq.calibration.statistics import InputStatistics
from thermoq.errors import InputError
from thermoq.hessian import quantize_hessian
from thermoq.inverse_gram import (
    DENSE_COLUMNS,
    Compensation,
    Dense,
    LowRank,
    compensation,
    damping_of,
)
from thermoq.methods import quantize_layer
from thermoq.rotation import Rotation
from thermoq.weights import Matrix, QuantizedMatrix, Scheme, dequantize, quantize

SCHEMES = [
    Scheme("affine", 2, 64),
    Scheme("affine", 4, 24),
    Scheme("affine", 2, 512),
    Scheme("coded", 2, 16, 96, 4, 4),
    Scheme("coded", 4, 32, 256, 6, 6),
    Scheme("q8", 8, 32),
]


def matrix_of(weights: Floats) -> Matrix:
    return Matrix(np.ascontiguousarray(weights).reshape(-1).view(np.uint8), "F32", *weights.shape)


def layer(rows: int, cols: int, samples: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Weights [rows, cols], and inputs [samples, cols] that are correlated and have outliers."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((cols, cols)) * np.exp(-np.arange(cols) / (cols / 6))
    inputs = random.standard_normal((samples, cols)) @ mixing.T
    inputs[:, random.integers(0, cols, 2)] *= 8
    weights = 0.05 * random.standard_t(5, (rows, cols))
    return weights.astype(F32), (inputs / np.sqrt(cols)).astype(F32)


def decoded(quantized: QuantizedMatrix) -> Floats:
    return dequantize(quantized).view(F32).reshape(quantized.rows, quantized.cols)


def output_error(weights: Floats, other: Floats, inputs: Floats) -> float:
    lost = (other - weights).astype(np.float64) @ inputs.T.astype(np.float64)
    return float(np.square(lost).sum() / np.square(weights @ inputs.T.astype(np.float64)).sum())


def plain_sweep(
    weights: Floats,
    factor: Floats,
    scale: Floats,
    minimum: Floats,
    group_of: NDArray[np.int32],
    lowest: int,
    highest: int,
) -> tuple[NDArray[np.uint8], Floats]:
    """The sweep in NumPy, one float32 operation at a time."""
    left = weights.copy()
    codes = np.empty(weights.shape, np.int32)
    for j, group in enumerate(group_of):
        s, m = scale[:, group], minimum[:, group]
        inverse = np.divide(F32(1), s, out=np.zeros_like(s), where=s > 0)
        steps = np.fmin(np.fmax((left[:, j] - m) * inverse, F32(lowest)), F32(highest))
        code = np.rint(steps)
        codes[:, j] = code
        error = (left[:, j] - (code * s + m)) / factor[j, j]
        left[:, j] = error
        left[:, j + 1 :] = left[:, j + 1 :] - error[:, None] * factor[j, j + 1 :]
    return codes.astype(np.uint8), left


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 7), (8, 128), (17, 40), (64, 256)])
@pytest.mark.parametrize(("lowest", "highest"), [(0, 3), (0, 15), (-127, 127)])
def test_the_sweep_bit_for_bit(
    simd_level: str, rows: int, cols: int, lowest: int, highest: int
) -> None:
    random = np.random.default_rng(cols)
    groups = -(-cols // 16)
    arguments = (
        random.standard_normal((rows, cols)).astype(F32),
        np.triu(random.standard_normal((cols, cols)) * 0.1 + 2 * np.eye(cols)).astype(F32),
        np.where(random.random((rows, groups)) < 0.1, 0, random.random((rows, groups))).astype(F32),
        random.standard_normal((rows, groups)).astype(F32),
        (random.permutation(cols) // 16).astype(np.int32),
        lowest,
        highest,
    )
    codes, errors = plain_sweep(*arguments)
    for threads in (1, 3):
        found = _core.sweep(*arguments, threads)
        assert np.array_equal(found[0], codes)
        assert found[1].tobytes() == errors.tobytes()


def test_wrong_sweeps_are_refused() -> None:
    one = np.ones((2, 3), F32)
    square = np.eye(3, dtype=F32)
    groups = np.zeros(3, np.int32)
    good = (one, square, one[:, :1].copy(), one[:, :1].copy(), groups, 0, 3)
    _core.sweep(*good)
    wide = np.ones((1, 257), F32)
    for position, value, message in (
        (1, np.eye(2, dtype=F32), "factor: expected 9 elements, got 4"),
        (2, np.ones((1, 1), F32), "scale: expected 2 elements, got 1"),
        (4, groups + 1, "group_of: expected groups below 1, got 1"),
        (4, groups - 1, "group_of: expected groups below 1, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.sweep(*good[:position], value, *good[position + 1 :])
    with pytest.raises(ValueError, match="columns: expected at most 256, got 257"):
        _core.sweep(
            wide, np.eye(257, dtype=F32), wide[:, :1].copy(), wide[:, :1].copy(),
            np.zeros(257, np.int32), 0, 3,
        )  # fmt: skip


@pytest.mark.parametrize("way", ["dense", "dense, in f32", "low rank"])
@pytest.mark.parametrize("samples", [5, 40, 200])
def test_compensation(way: str, samples: int) -> None:
    weights, inputs = layer(12, 90, samples)
    damping = damping_of(inputs, 0.01)
    gram = inputs.T.astype(np.float64) @ inputs + samples * damping * np.eye(90)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    largest = np.abs(upper).max()
    blocks = [slice(0, 24), slice(24, 80), slice(80, 90)]
    found: Compensation = (
        LowRank(inputs, damping, blocks, len(weights))
        if way == "low rank"
        else Dense(inputs, damping, blocks, len(weights) if way == "dense" else SMALL_WEIGHTS)
    )
    for number, block in enumerate(blocks):
        own, change = found.before(number, weights[:, : block.start])
        assert np.abs(own - upper[block, block]).max() < 1e-4 * largest  # sums in f32
        # What minimizes the loss of `lost` and of what is added behind it.
        left = slice(block.start, None)
        best = np.linalg.solve(
            gram[left, left], gram[left, : block.start] @ weights[:, : block.start].T
        )
        expected = best[: len(own)].T
        assert np.abs(change - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
        found.after(number, weights[:, block])


def test_what_f32_makes_indefinite_is_factored_in_f64(monkeypatch: pytest.MonkeyPatch) -> None:
    _, inputs = layer(1, 64, 200)
    blocks = [slice(0, 32), slice(32, 64)]
    expected, _ = inverse_gram._factor(inputs.astype(np.float64), 1.0, blocks)
    plain = inverse_gram._factor

    def refusing(rows: NDArray[np.float64], scale: float, parts: list[slice]) -> object:
        if rows.dtype == F32:
            raise np.linalg.LinAlgError
        return plain(rows, scale, parts)

    monkeypatch.setattr(inverse_gram, "_factor", refusing)
    found = Dense(inputs, 1.0 / 200, blocks, SMALL_WEIGHTS)
    for number, block in enumerate(blocks):
        own, change = found.before(number, np.ones((3, block.start), F32))
        assert np.allclose(own, expected[number], rtol=1e-12)
        assert change.dtype == F32


def test_many_columns_and_few_rows_take_the_low_rank_way() -> None:
    _, inputs = layer(1, 64, 8)
    wide = np.tile(inputs, (1, DENSE_COLUMNS // 64 + 1))
    blocks = [slice(0, 64), slice(64, wide.shape[1])]
    assert isinstance(compensation(wide, 0.1, blocks, 1), LowRank)
    assert isinstance(compensation(inputs, 0.1, blocks[:1], 1), Dense)


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_output_is_better_than_least_squares(scheme: Scheme, by_activation: bool) -> None:
    weights, inputs = layer(96, 328, 1200)
    seen, held_out = inputs[:800], inputs[800:]
    plain = decoded(quantize(matrix_of(weights), scheme, method="lsq")[0])
    found = decoded(quantize_hessian(weights, scheme, seen, by_activation=by_activation))
    ratio = output_error(weights, found, held_out) / output_error(weights, plain, held_out)
    assert ratio < (0.5 if scheme.bit_width < 8 else 0.9)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_stored(scheme: Scheme) -> None:
    weights, inputs = layer(9, 200, 300)
    quantized = quantize_hessian(weights, scheme, inputs)
    for suffix, (_, shape) in scheme.stored_parts(9, 200).items():
        assert quantized.parts[suffix].shape == shape, suffix
    assert set(quantized.parts) == set(scheme.stored_parts(9, 200))


def test_beside_the_published_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, groups of 64 columns as GPTQ has them, the cheaper of two grids a row."""
    monkeypatch.setattr("thermoq.hessian._REFITS", 0)
    weights, inputs = layer(64, 192, 800)
    scheme = Scheme("affine", 4, 64)
    gram = inputs.T.astype(np.float64) @ inputs
    gram += len(inputs) * damping_of(inputs, 0.01) * np.eye(192)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    left, rounded = weights.astype(np.float64), np.empty((64, 192))
    for first in range(0, 192, 64):
        part = np.ascontiguousarray(left[:, first : first + 64], F32)
        costs = (1 / np.diag(upper)[first : first + 64] ** 2).astype(F32)
        tries = []
        for method, importances in (("lsq", costs), ("minmax", None)):
            grid, _ = quantize(matrix_of(part), scheme, method=method, importances=importances)  # type: ignore[arg-type]
            tries.append(gptq_group(left, first, upper, grid))
        cheaper = tries[1][2] < tries[0][2]
        left, values = (np.where(cheaper[:, None], tries[1][i], tries[0][i]) for i in range(2))
        rounded[:, first : first + 64] = values
    found = decoded(quantize_hessian(weights, scheme, inputs))
    assert np.mean(np.isclose(found, rounded, atol=1e-6)) > 0.95
    ours, theirs = (output_error(weights, w, inputs) for w in (found, rounded.astype(F32)))
    assert ours == pytest.approx(theirs, rel=0.02)


def gptq_group(
    left: NDArray[np.float64], first: int, upper: NDArray[np.float64], grid: QuantizedMatrix
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Round 64 columns: the weights that are left, the rounded ones, and what they cost a row."""
    scale, minimum = (grid.parts[k][:, 0].astype(np.float64) for k in ("scale", "minimum"))
    left, rounded, cost = left.copy(), np.empty((len(left), 64)), np.zeros(len(left))
    for j in range(first, first + 64):
        value = np.clip(np.rint((left[:, j] - minimum) / scale), 0, 15) * scale + minimum
        error = (left[:, j] - value) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
        rounded[:, j - first] = value
        cost += error**2
    return left, rounded, cost


@pytest.mark.parametrize("scheme", SCHEMES[:-1], ids=str)
def test_refits_pay(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, inputs = layer(64, 192, 800)
    refitted = decoded(quantize_hessian(weights, scheme, inputs))
    monkeypatch.setattr("thermoq.hessian._REFITS", 0)
    without = decoded(quantize_hessian(weights, scheme, inputs))
    assert output_error(weights, refitted, inputs) < output_error(weights, without, inputs)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", ["one row", "zeros", "dead columns", "constant"])
def test_poor_samples(scheme: Scheme, kind: str) -> None:
    weights, inputs = layer(16, 130, 50)
    if kind == "one row":
        inputs = inputs[:1]
    elif kind == "zeros":
        inputs = np.zeros_like(inputs)
    elif kind == "dead columns":
        inputs[:, ::2] = 0
    else:
        inputs[:] = 1
    found = decoded(quantize_hessian(weights, scheme, inputs, by_activation=True))
    assert np.isfinite(found).all()
    assert np.square(found - weights).sum() < np.square(weights).sum()


def test_threads_and_levels_agree(simd_level: str) -> None:
    weights, inputs = layer(33, 200, 100)
    for scheme in SCHEMES:
        one, many = (quantize_hessian(weights, scheme, inputs, threads=n) for n in (1, 3))
        assert all(np.array_equal(one.parts[k], many.parts[k]) for k in one.parts)


# A layer with what is known of it.


def calibrated(inputs: Floats) -> object:
    statistics = InputStatistics(inputs.shape[1], 2, 10_000, 0, "input")
    half = len(inputs) // 2
    statistics.add(0, inputs[:half])
    statistics.add(1, inputs[half:])
    return statistics.finish()


def error_of(weights: Floats, inputs: Floats, method: str, rotation: Rotation | None) -> float:
    found = quantize_layer(
        matrix_of(weights), Scheme("affine", 2, 64), method,  # type: ignore[arg-type]
        calibrated=calibrated(inputs), rotation=rotation,  # type: ignore[arg-type]
    )  # fmt: skip
    values = decoded(found.matrix)
    w, d = weights.astype(np.float64), values.astype(np.float64)
    assert found.method == method
    assert found.error.squared_error == pytest.approx(np.square(d - w).sum(), rel=1e-5)
    assert found.error.source_energy == pytest.approx(np.square(w).sum(), rel=1e-5)
    assert found.error.max_error == pytest.approx(np.abs(d - w).max(), rel=1e-5)
    return output_error(weights, values, inputs)


def test_methods_by_what_they_know() -> None:
    weights, inputs = layer(64, 256, 2000, seed=3)
    minmax, lsq, hessian = (
        error_of(weights, inputs, m, None) for m in ("minmax", "lsq", "hessian")
    )
    rotated = error_of(weights, inputs, "hessian", Rotation(0, 256))
    assert hessian < 0.5 * lsq
    assert lsq < minmax
    assert rotated < minmax
    assert error_of(weights, inputs, "lsq", Rotation(0, 256)) < minmax


def test_hessian_without_rows_is_least_squares() -> None:
    weights, inputs = layer(8, 64, 20)
    scheme = Scheme("affine", 2, 64)
    expected, _ = quantize(matrix_of(weights), scheme, method="lsq")
    for known in (None, calibrated(inputs[:, :32].copy()), calibrated(inputs[:0])):
        found = quantize_layer(matrix_of(weights), scheme, "hessian", calibrated=known)  # type: ignore[arg-type]
        assert found.method == "lsq"
        assert np.array_equal(found.matrix.parts["codes"], expected.parts["codes"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.nan, "got 1 NaN and 0 infinite"), (np.inf, "0 NaN and 1 infinite"), (7e4, "got 70000")],
)
def test_wrong_weights(bad: float, message: str) -> None:
    weights, inputs = layer(8, 64, 20)
    weights[3, 4] = bad
    with pytest.raises(InputError, match=message):
        quantize_layer(
            matrix_of(weights), Scheme("affine", 2, 64), "hessian",
            calibrated=calibrated(inputs),  # type: ignore[arg-type]
        )  # fmt: skip
