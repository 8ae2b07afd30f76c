"""Least squares: every level against the NumPy reference, bit for bit, and what importances do."""

from __future__ import annotations

from collections.abc import Iterator

import lsq_reference
import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import F32, Floats
from thermoq import _core
from thermoq.errors import InputError
from thermoq.weights import Matrix, QuantizedMatrix, Scheme, dequantize, quantize

DTYPES = ("F32", "F16", "BF16")
Q8 = Scheme("q8", 8, 32)
CODED = [
    Scheme("coded", 2, 16, 256, 4, 4),
    Scheme("coded", 4, 32, 256, 6, 6),
    Scheme("coded", 2, 8, 40, 3, 5),
    Scheme("coded", 2, 24, 24, 1, 8),
    Scheme("coded", 4, 64, 640, 7, 2),
]
SCHEMES = [
    *(Scheme("affine", bits, group) for bits in (2, 4) for group in (8, 24, 64, 4096)),
    *CODED,
    Q8,
]
COLS = (1, 7, 8, 9, 31, 33, 64, 100, 257)
KINDS = ("normal", "heavy", "sparse", "constant", "steps", "tiny", "far", "outlier", "limits")


def values_of(kind: str, rows: int, cols: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, cols))
    shaped = {
        "normal": lambda: 0.02 * x,
        "heavy": lambda: random.standard_t(2, (rows, cols)),
        "sparse": lambda: x * (random.random((rows, cols)) < 0.2),
        "constant": lambda: np.full_like(x, -0.3),
        "steps": lambda: np.repeat(x, 24, axis=1)[:, :cols],  # groups of equal weights
        "tiny": lambda: x * 1e-40,
        "far": lambda: 100 + x,
        "outlier": lambda: np.where(random.random((rows, cols)) < 0.02, 6e4, 1e-4 * x),
        "limits": lambda: np.sign(x) * 65504,
    }
    return np.clip(shaped[kind](), -65504, 65504).astype(F32)


def matrix_of(values: NDArray[np.floating], dtype: str = "F32", offset: int = 0) -> Matrix:
    data = bytes(offset) + reference.encode_dtype(values, dtype)
    return Matrix(np.frombuffer(data, np.uint8, offset=offset), dtype, *values.shape)


def floats(matrix: Matrix) -> Floats:
    values = reference.decode_dtype(matrix.data.tobytes(), matrix.dtype)
    return values.reshape(matrix.rows, matrix.cols)


def expected_parts(
    source: Floats, scheme: Scheme, importances: Floats | None
) -> tuple[dict[str, NDArray[np.generic]], Floats]:
    """What is stored, and what it decodes to."""
    if scheme.encoding == "q8":
        codes, scale = lsq_reference.lsq_q8(source, importances)
        return {"scale": scale, "codes": codes}, reference.dequantize_q8(codes, scale)
    if scheme.encoding == "affine":
        codes, scale, minimum = lsq_reference.lsq_affine(
            source, scheme.bit_width, scheme.group_size, importances
        )
        packed = reference.pack(codes, scheme.bit_width)
        decoded = reference.dequantize_affine(codes, scale, minimum, scheme.group_size)
        return {"scale": scale, "minimum": minimum, "codes": packed}, decoded
    coded = lsq_reference.lsq_coded(
        source,
        scheme.bit_width,
        scheme.group_size,
        scheme.super_block,
        scheme.scale_bits,
        scheme.minimum_bits,
        importances,
    )
    parts = {
        "super_scale": coded.super_scale,
        "super_minimum": coded.super_minimum,
        "scale_codes": reference.pack_stream(coded.scale_codes, scheme.scale_bits),
        "minimum_codes": reference.pack_stream(coded.minimum_codes, scheme.minimum_bits),
        "codes": reference.pack(coded.codes, scheme.bit_width),
    }
    return parts, lsq_reference.decode_coded(coded, scheme.group_size, scheme.super_block)


def assert_equals_reference(
    matrix: Matrix, scheme: Scheme, importances: Floats | None = None
) -> None:
    source = floats(matrix)
    expected, decoded = expected_parts(source, scheme, importances)
    shapes = scheme.stored_parts(matrix.rows, matrix.cols)
    truth = reference.error_figures(source, decoded)
    for threads in (1, 3):
        quantized, error = quantize(
            matrix, scheme, method="lsq", importances=importances, threads=threads
        )
        assert list(quantized.parts) == list(expected) == list(shapes)
        for suffix, part in quantized.parts.items():
            assert part.shape == expected[suffix].shape == shapes[suffix][1], suffix
            assert part.tobytes() == expected[suffix].tobytes(), suffix
        assert dequantize(quantized, "F32", threads=threads).tobytes() == decoded.tobytes()
        if truth.max_magnitude > 1e-15:  # squares of what is smaller leave f32's range
            assert error.squared_error == pytest.approx(
                truth.squared_error, rel=1e-5, abs=1e-12 * truth.source_energy
            )
            assert error.source_energy == pytest.approx(truth.source_energy, rel=1e-5)
            assert error.decoded_energy == pytest.approx(truth.decoded_energy, rel=1e-5, abs=1e-30)
            assert error.max_error == pytest.approx(truth.max_error, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_sizes_and_tails(simd_level: str, scheme: Scheme) -> None:
    for rows, cols, dtype in zip((1, 3, 7, 8, 9, 17, 2, 8, 5), COLS, DTYPES * 3, strict=True):
        matrix = matrix_of(values_of("normal", rows, cols, cols), dtype, offset=cols % 4)
        assert_equals_reference(matrix, scheme)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_kinds_of_weights(simd_level: str, scheme: Scheme, kind: str) -> None:
    assert_equals_reference(matrix_of(values_of(kind, 4, 70)), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_importances(simd_level: str, scheme: Scheme) -> None:
    random = np.random.default_rng(1)
    importances = random.random(90).astype(F32) ** 6
    importances[random.random(90) < 0.3] = 0
    importances[24:64] = 0  # whole groups of nothing
    for scale in (F32(1), F32(1e-30), F32(1e30)):
        assert_equals_reference(matrix_of(values_of("heavy", 5, 90)), scheme, importances * scale)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 10), st.integers(1, 90)),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-8, 3),
    layout=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8)),
    bit_width=st.sampled_from([2, 4]),
)
def test_any_coded_scheme(
    simd_level: str,
    shape: tuple[int, int],
    seed: int,
    exponent: int,
    layout: tuple[int, int, int, int],
    bit_width: int,
) -> None:
    group, groups, scale_bits, minimum_bits = layout
    scheme = Scheme("coded", bit_width, 8 * group, 8 * group * groups, scale_bits, minimum_bits)
    values = values_of("heavy", *shape, seed) * F32(10.0**exponent)
    assert_equals_reference(matrix_of(np.clip(values, -65504, 65504)), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_levels_and_threads_agree_on_every_bit(scheme: Scheme) -> None:
    matrix = matrix_of(values_of("heavy", 531, 501), "BF16")
    importances = np.random.default_rng(2).random(501).astype(F32)
    found = set()
    for level in levels():
        for threads in (1, 2, 5) if level != "scalar" else (1,):
            for given_importances in (None, importances):
                quantized, error = quantize(
                    matrix, scheme, method="lsq", importances=given_importances, threads=threads
                )
                parts = tuple(part.tobytes() for part in quantized.parts.values())
                found.add((given_importances is None, parts, error))
    assert len(found) == 2


def levels() -> Iterator[str]:
    before = _core.simd_level()
    for level in _core.available_simd_levels():
        _core.set_simd_level(level)
        yield level
    _core.set_simd_level(before)


@pytest.mark.parametrize("scheme", CODED, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_coded_decodes_from_plain_arrays(scheme: Scheme, dtype: str) -> None:
    quantized, _ = quantize(matrix_of(values_of("normal", 3, 100)), scheme, method="lsq")
    copied = {name: np.array(part) for name, part in quantized.parts.items()}
    exact = dequantize(QuantizedMatrix(scheme, 3, 100, copied), "F32").view(F32)
    decoded = dequantize(quantized, dtype)
    assert decoded.tobytes() == reference.encode_dtype(exact, dtype)


def weighted_error(matrix: Matrix, scheme: Scheme, given: Floats | None, by: Floats) -> float:
    quantized, _ = quantize(matrix, scheme, method="lsq", importances=given)
    decoded = dequantize(quantized).view(F32).reshape(matrix.rows, matrix.cols)
    return float((by * (decoded - floats(matrix)).astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_importances_buy_a_lower_weighted_error(scheme: Scheme) -> None:
    matrix = matrix_of(values_of("normal", 64, 256))
    importances = np.random.default_rng(3).random(256).astype(F32) ** 8
    with_them = weighted_error(matrix, scheme, importances, importances)
    without = weighted_error(matrix, scheme, None, importances)
    # One scale for eight bits of a group leaves little to choose.
    assert with_them < (0.9 if scheme.bit_width < 8 else 1.0) * without


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_only_ratios_of_importances_matter(scheme: Scheme) -> None:
    matrix = matrix_of(values_of("normal", 9, 100))
    equal, _ = quantize(matrix, scheme, method="lsq")
    for value in (1.0, 0.0):
        same, _ = quantize(
            matrix, scheme, method="lsq", importances=np.full(100, value, np.float32)
        )
        decoded, expected = (dequantize(q).view(F32) for q in (same, equal))
        # Not the same bits: sums of weights that are not 1 round otherwise.
        assert np.mean(decoded == expected) > 0.9


@pytest.mark.parametrize(
    ("importances", "message"),
    [
        (np.ones(99, F32), r"importances: expected one for each of 100 columns, got \[99\]"),
        (np.ones((100, 1), F32), r"got \[100, 1\]"),
        (np.where(np.arange(100) == 7, np.nan, 1), "at least 0, got nan for column 7"),
        (np.where(np.arange(100) == 8, -1e-9, 1), "at least 0, got -1e-09 for column 8"),
        (np.where(np.arange(100) == 9, np.inf, 1), "finite numbers of at least 0, got inf"),
    ],
)
def test_wrong_importances(importances: NDArray[np.floating], message: str) -> None:
    matrix = matrix_of(values_of("normal", 2, 100))
    with pytest.raises(InputError, match=message):
        quantize(matrix, Q8, method="lsq", importances=importances.astype(F32))


@pytest.mark.parametrize("values", [np.full(100, 1e300), np.full(100, 1e39, np.longdouble)])
def test_importances_beyond_single_precision(values: NDArray[np.floating]) -> None:
    matrix = matrix_of(values_of("normal", 2, 100))
    with pytest.raises(InputError, match="finite numbers of at least 0, got inf for column 0"):
        quantize(matrix, Q8, method="lsq", importances=values)  # type: ignore[arg-type]


def test_importances_are_for_lsq_alone() -> None:
    matrix = matrix_of(values_of("normal", 2, 100))
    with pytest.raises(ValueError, match="expected lsq with importances, got minmax"):
        quantize(matrix, Q8, importances=np.ones(100, F32))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(simd_level: str, scheme: Scheme, bad: float) -> None:
    values = values_of("normal", 9, 70)
    values[3, 5] = bad
    with pytest.raises(InputError, match="expected finite weights"):
        quantize(matrix_of(values), scheme, method="lsq")


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_weights_beyond_half_precision(simd_level: str, scheme: Scheme) -> None:
    values = values_of("normal", 9, 70)
    values[8, 69] = 65505
    with pytest.raises(InputError, match=r"expected weights within \+-65504"):
        quantize(matrix_of(values), scheme, method="lsq")


@pytest.mark.parametrize("kind", ["limits", "outlier"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_parameters_stay_finite_at_the_limits(scheme: Scheme, kind: str) -> None:
    quantized, error = quantize(matrix_of(values_of(kind, 9, 300)), scheme, method="lsq")
    for suffix, part in quantized.parts.items():
        assert np.isfinite(part.astype(np.float64)).all(), suffix
    for suffix in ("scale", "super_scale"):
        assert (quantized.parts.get(suffix, np.zeros(1)).astype(np.float64) >= 0).all()
    assert error.relative_squared_error < 1


def test_a_super_block_longer_than_the_row_is_the_row() -> None:
    matrix = matrix_of(values_of("normal", 5, 90))
    whole, _ = quantize(matrix, Scheme("coded", 2, 16, 96, 4, 4), method="lsq")
    longer, _ = quantize(matrix, Scheme("coded", 2, 16, 256, 4, 4), method="lsq")
    assert longer.parts["super_scale"].shape == (5, 1)
    assert all(np.array_equal(whole.parts[name], longer.parts[name]) for name in whole.parts)


def test_coded_is_for_lsq_alone() -> None:
    with pytest.raises(ValueError, match="expected lsq with the encoding coded, got minmax"):
        quantize(matrix_of(values_of("normal", 2, 100)), CODED[0])


def test_stored_parts_of_coded() -> None:
    assert Scheme("coded", 4, 16, 48, 6, 3).stored_parts(3, 100) == {
        "super_scale": ("F16", (3, 3)),
        "super_minimum": ("F16", (3, 3)),
        "scale_codes": ("U8", (3, 6)),
        "minimum_codes": ("U8", (3, 3)),
        "codes": ("U8", (3, 50)),
    }
