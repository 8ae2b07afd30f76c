"""Quantization and its way back: every kernel against the NumPy reference, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from thermoq import _core
from thermoq.errors import InputError
from thermoq.weights import (
    Matrix,
    QuantizedMatrix,
    Scheme,
    WeightError,
    as_matrix,
    dequantize,
    from_matrix,
    matrix_shape,
    quantize,
)

DTYPES = ("F32", "F16", "BF16")
Q8 = Scheme("q8", 8, 32)
SCHEMES = [
    *(Scheme("affine", bits, group) for bits in (2, 4) for group in (8, 24, 40, 64, 128, 8192)),
    Q8,
]
# Around the vector widths 8 and 32, the groups, and the stretches of 2,048 that a row is worked in.
COLS = (1, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100, 130, 2047, 2048, 2049, 4111)


def random_matrix(rows: int, cols: int, seed: int = 0) -> reference.Floats:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def matrix_of(values: NDArray[np.floating], dtype: str = "F32", offset: int = 0) -> Matrix:
    """`values` as bytes of `dtype` that begin at an address `offset` bytes after an aligned one."""
    data = bytes(offset) + reference.encode_dtype(values, dtype)
    return Matrix(np.frombuffer(data, np.uint8, offset=offset), dtype, *values.shape)


def floats(matrix: Matrix) -> reference.Floats:
    return reference.decode_dtype(matrix.data.tobytes(), matrix.dtype).reshape(
        matrix.rows, matrix.cols
    )


def assert_equals_reference(
    matrix: Matrix, scheme: Scheme, threads: Sequence[int] = (1,), tolerance: float = 1e-6
) -> None:
    source = floats(matrix)
    expected: dict[str, NDArray[np.generic]]
    if scheme.encoding == "q8":
        codes, scale = reference.quantize_q8(source)
        expected = {"scale": scale, "codes": codes}
        decoded = reference.dequantize_q8(codes, scale)
    else:
        codes, scale, minimum = reference.quantize_affine(
            source, scheme.bit_width, scheme.group_size
        )
        packed = reference.pack(codes, scheme.bit_width)
        expected = {"scale": scale, "minimum": minimum, "codes": packed}
        decoded = reference.dequantize_affine(codes, scale, minimum, scheme.group_size)
    truth = reference.error_figures(source, decoded)
    for count in threads:
        quantized, error = quantize(matrix, scheme, threads=count)
        assert list(quantized.parts) == list(expected)
        for suffix, part in quantized.parts.items():
            assert part.dtype == expected[suffix].dtype
            assert part.shape == expected[suffix].shape
            assert part.tobytes() == expected[suffix].tobytes(), suffix
        assert dequantize(quantized, "F32", threads=count).tobytes() == decoded.tobytes()
        assert_error_figures(error, truth, tolerance)


def assert_error_figures(
    error: WeightError, truth: reference.ErrorFigures, tolerance: float
) -> None:
    # Squares far below the largest weight's vanish in f32; nobody sees them in the sum.
    negligible = 1e-20 * truth.source_energy
    for figure in ("squared_error", "source_energy", "decoded_energy"):
        expected = pytest.approx(getattr(truth, figure), rel=tolerance, abs=negligible)
        assert getattr(error, figure) == expected, figure
    assert error.max_error == pytest.approx(truth.max_error, rel=tolerance)
    assert error.cosine_similarity == pytest.approx(truth.cosine_similarity, abs=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_random_matrices(simd_level: str, scheme: Scheme, dtype: str) -> None:
    for cols in COLS:
        matrix = matrix_of(random_matrix(5, cols, cols), dtype)
        assert_equals_reference(matrix, scheme, threads=(1, 4))


# Enough weights for the core to start a team of threads.
@pytest.mark.parametrize("shape", [(300, 1000), (3, 100_001), (100_001, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads(simd_level: str, shape: tuple[int, int], dtype: str) -> None:
    matrix = matrix_of(random_matrix(*shape), dtype)
    for scheme in (Scheme("affine", 2, 64), Scheme("affine", 4, 40), Scheme("q8", 8, 32)):
        assert_equals_reference(matrix, scheme, threads=(1, 2, 4, 7))


def special_matrices() -> dict[str, reference.Floats]:
    """Matrices [4, 70] whose groups are unusual."""
    noise = random_matrix(4, 70)
    signs = np.where(noise < 0, np.float32(-0.0), np.float32(0.0))
    lone = np.zeros_like(noise)
    lone[1, 3], lone[2, 69] = 1.0, -1.0
    return {
        "zero": np.zeros_like(noise),
        "negative zero": np.full_like(noise, -0.0),
        "signed zeros": signs,
        "zeros of both signs and noise": np.where(noise < 0, signs, noise),
        "constant": np.full_like(noise, 0.25),
        "constant that float16 lacks": np.full_like(noise, 1 / 3),
        "constant below float16": np.full_like(noise, -1e-10),
        "constant rows": np.repeat(noise[:, :1], 70, axis=1),
        "denormal": noise * np.float32(1e-41),
        "tiny": noise * np.float32(1e-20),
        "subnormal in float16": noise * np.float32(1e-6),
        "smallest float16 apart": np.float32(2.0**-24) * (np.arange(280).reshape(4, 70) % 3),
        "far from zero": 1000 + noise / 100,
        "far below zero": -30000 + noise,
        "far and nearly constant": np.float32(2049) + np.float32(2.0**-12) * (noise > 0),
        "one large": np.where(np.arange(70) == 64, 1000, noise),
        "large": np.clip(noise * 30000, -65280, 65280),
        "lone weights": lone,
        "positive": np.abs(noise) + 1,
        "negative": -np.abs(noise) - 1,
        "ties": np.float32(0.5) * (np.arange(280).reshape(4, 70) % 7),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", special_matrices())
def test_special_matrices(simd_level: str, name: str, dtype: str) -> None:
    matrix = matrix_of(special_matrices()[name].astype(np.float32), dtype)
    for scheme in SCHEMES:
        assert_equals_reference(matrix, scheme)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_the_largest_weights(simd_level: str, dtype: str) -> None:
    values = np.full((2, 70), 65504.0, np.float32)
    values[1, ::2] *= -1
    for scheme in SCHEMES:
        assert_equals_reference(matrix_of(values, dtype), scheme)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", range(1, 8))
def test_unaligned_bytes(simd_level: str, dtype: str, offset: int) -> None:
    matrix = matrix_of(random_matrix(3, 203), dtype, offset)
    for scheme in (Scheme("affine", 2, 64), Scheme("affine", 4, 40), Scheme("q8", 8, 32)):
        assert_equals_reference(matrix, scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(0, 0), (0, 70), (3, 0), (1, 1), (1, 70), (70, 1)])
def test_empty_and_smallest(simd_level: str, scheme: Scheme, shape: tuple[int, int]) -> None:
    matrix = matrix_of(random_matrix(*shape))
    quantized, error = quantize(matrix, scheme)
    for suffix, (_, expected) in scheme.stored_parts(*shape).items():
        assert quantized.parts[suffix].shape == expected
    if 0 in shape:
        assert dequantize(quantized).size == 0
        assert (error.relative_squared_error, error.cosine_similarity) == (0.0, 1.0)
    else:
        assert_equals_reference(matrix, scheme)


WEIGHTS = st.one_of(
    st.floats(-65504, 65504, width=32, allow_subnormal=True),
    st.sampled_from([0.0, -0.0, 65504.0, -65504.0, 1e-40, 2.0**-24, 0.5, 1.5]),
)
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=150), elements=WEIGHTS
)


@given(values=MATRICES, scheme=st.sampled_from(SCHEMES), threads=st.sampled_from([1, 2, 4]))
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_matrix(
    simd_level: str, values: reference.Floats, scheme: Scheme, threads: int
) -> None:
    # A sum of 32 equal terms in f32 may be off by 32 roundings.
    assert_equals_reference(matrix_of(values), scheme, (threads,), tolerance=32 * 2.0**-23)


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_to_each_dtype_rounds_half_to_even(simd_level: str, dtype: str) -> None:
    for scheme in SCHEMES:
        for rows, cols in ((3, 7), (3, 70), (3, 2100), (130, 2100)):
            quantized, _ = quantize(matrix_of(random_matrix(rows, cols)), scheme)
            expected = reference.encode_dtype(dequantize(quantized).view(np.float32), dtype)
            for threads in (1, 4):
                assert dequantize(quantized, dtype, threads=threads).tobytes() == expected


def test_codes_are_rounded_half_to_even(simd_level: str) -> None:
    steps = np.array([[0, 0.5, 1.5, 2.5, 3, 1, 2, 0.25]], np.float32)
    quantized, _ = quantize(matrix_of(steps), Scheme("affine", 2, 8))
    assert quantized.parts["scale"].item() == 1.0
    codes = _core.unpack_codes(quantized.parts["codes"].view(np.uint8), 1, 8, 2)
    assert codes.tolist() == [[0, 0, 2, 2, 3, 1, 2, 0]]
    signed, _ = quantize(matrix_of(np.array([[127, -0.5, 1.5, -2.5, -127]])), Q8)
    assert signed.parts["codes"].tolist() == [[127, 0, 2, -2, -127]]


def test_no_group_is_clamped() -> None:
    """Outward rounding covers a group's range, so no weight is further off than half a step."""
    for scheme in SCHEMES:
        for values in special_matrices().values():
            source = values.astype(np.float32)
            quantized, error = quantize(matrix_of(source), scheme)
            scale = np.asarray(quantized.parts["scale"])
            step = reference.per_weight(scale, source.shape, scheme.group_size)
            decoded = dequantize(quantized).view(np.float32).reshape(source.shape)
            constant = step == 0
            distance = np.abs(decoded - source)
            # The sums around the code cost a few roundings of the largest term.
            slack = 4 * np.spacing(np.abs(source).max())
            assert (distance[~constant] <= step[~constant] / 2 + slack).all()
            relative = np.abs(source[constant]) * 2.0**-11 + 2.0**-25
            assert (distance[constant] <= relative).all()
            assert error.max_error == pytest.approx(distance.max(), rel=1e-6)


# How NaN, +infinity and -infinity look in each dtype.
NOT_FINITE = {
    "F32": ("<u4", 0x7FC00000, 0x7F800000, 0xFF800000),
    "F16": ("<u2", 0x7E00, 0x7C00, 0xFC00),
    "BF16": ("<u2", 0x7FC0, 0x7F80, 0xFF80),
}


@pytest.mark.parametrize("scheme", [SCHEMES[0], SCHEMES[-1]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_counted(simd_level: str, scheme: Scheme, dtype: str) -> None:
    word, nan, plus, minus = NOT_FINITE[dtype]
    bits = np.frombuffer(reference.encode_dtype(random_matrix(3, 100), dtype), word).copy()
    bits[[0, 150, 299]] = nan
    bits[[64, 65]] = plus
    bits[[200, 201]] = minus
    matrix = Matrix(bits.view(np.uint8), dtype, 3, 100)
    with pytest.raises(InputError, match=r"^expected finite weights, got 3 NaN and 4 infinite;"):
        quantize(matrix, scheme)


@pytest.mark.parametrize(
    "bad", [[math.nan], [math.inf], [-math.inf], [math.nan, math.inf, -math.inf, 1.0]]
)
def test_a_single_bad_weight_anywhere(simd_level: str, bad: list[float]) -> None:
    for scheme in (SCHEMES[0], SCHEMES[-1]):
        for position in (0, 7, 8, 31, 69):
            values = random_matrix(1, 70 + len(bad))
            values[0, position : position + len(bad)] = bad
            data = values.reshape(-1).view(np.uint8)
            with pytest.raises(InputError, match="expected finite weights"):
                quantize(Matrix(data, "F32", 1, values.size), scheme)


@pytest.mark.parametrize("scheme", [SCHEMES[0], SCHEMES[-1]], ids=str)
@pytest.mark.parametrize("value", [65505.0, -7e4, 3e38])
def test_weights_beyond_float16_are_refused(simd_level: str, scheme: Scheme, value: float) -> None:
    values = random_matrix(2, 70)
    values[1, 33] = value
    message = (
        r"^expected weights within \+-65504 \(scales are float16\), got .*; "
        r"a `layers` rule with skip: true copies the tensor$"
    )
    with pytest.raises(InputError, match=message):
        quantize(matrix_of(values), scheme)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (4, 3, 3, 3), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("row_dimension", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_kernel(shape: tuple[int, ...], row_dimension: int, dtype: str) -> None:
    values = random_matrix(1, math.prod(shape)).reshape(shape)
    data = np.frombuffer(reference.encode_dtype(values, dtype), np.uint8)
    matrix = as_matrix(data, dtype, shape, row_dimension)
    assert (matrix.rows, matrix.cols) == matrix_shape(shape, row_dimension)
    rows = np.moveaxis(values, row_dimension, 0).reshape(matrix.rows, matrix.cols)
    assert matrix.data.tobytes() == reference.encode_dtype(rows, dtype)
    assert from_matrix(matrix.data, shape, row_dimension).tobytes() == data.tobytes()


def test_stored_parts() -> None:
    assert Scheme("affine", 2, 64).stored_parts(3, 65) == {
        "scale": ("F16", (3, 2)),
        "minimum": ("F16", (3, 2)),
        "codes": ("U8", (3, 17)),
    }
    assert Scheme("q8", 8, 32).stored_parts(3, 65) == {
        "scale": ("F16", (3, 3)),
        "codes": ("I8", (3, 65)),
    }


def test_error_of_nothing() -> None:
    assert WeightError(0, 0, 0, 0).relative_squared_error == 0.0
    assert WeightError(0, 0, 0, 0).cosine_similarity == 1.0
    assert WeightError(1, 1, 0, 1).cosine_similarity == 0.0  # everything became 0
    assert WeightError(1, 1, 0, 1).relative_squared_error == 1.0


def test_threads_change_no_bit_of_the_errors() -> None:
    matrix = matrix_of(random_matrix(300, 1000))
    for scheme in SCHEMES:
        one, one_error = quantize(matrix, scheme, threads=1)
        for threads in (0, 2, 3, 7):
            many, many_error = quantize(matrix, scheme, threads=threads)
            assert many_error == one_error
            assert all(np.array_equal(many.parts[part], one.parts[part]) for part in one.parts)


def test_levels_agree_on_every_bit_of_the_errors() -> None:
    matrix = matrix_of(random_matrix(9, 2500))
    before = _core.simd_level()
    try:
        for scheme in SCHEMES:
            errors = set()
            for level in _core.available_simd_levels():
                _core.set_simd_level(level)
                errors.add(quantize(matrix, scheme)[1])
            assert len(errors) == 1
    finally:
        _core.set_simd_level(before)


def test_a_quantized_matrix_decodes_by_itself() -> None:
    """Stored parts come back from a file as plain arrays."""
    scheme = Scheme("affine", 4, 24)
    quantized, _ = quantize(matrix_of(random_matrix(3, 50)), scheme)
    copied = {name: np.array(part) for name, part in quantized.parts.items()}
    again = QuantizedMatrix(scheme, 3, 50, copied)
    assert np.array_equal(dequantize(again), dequantize(quantized))
