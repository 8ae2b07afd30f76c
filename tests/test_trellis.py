"""Trellis codes: the core's bits, how near its paths are to the best, and weights that are hard."""

from __future__ import annotations

import numpy as np
import pytest
import trellis_reference
from models import minilm, read_tensors
from reference import F32, Floats
from thermoq import _core
from thermoq.errors import InputError
from thermoq.trellis import (
    Parts,
    TrellisScheme,
    dequantize_trellis,
    first_scales,
    quantize_trellis,
    table_of,
    trellis_scheme_for,
)
from thermoq.weights import Matrix, WeightError

WIDTHS = [(b, bits) for b in (2, 3, 4) for bits in (8, 9, 10, 12)]
# What is lost of Gaussian weights, with some room; at b bits no code can lose less than 4^-b.
LIMITS = {
    (2, 8): 0.080,
    (2, 9): 0.077,
    (2, 10): 0.075,
    (2, 12): 0.071,
    (3, 8): 0.022,
    (4, 8): 0.0065,
}


def matrix_of(weights: Floats) -> Matrix:
    return Matrix(np.ascontiguousarray(weights).reshape(-1).view(np.uint8), "F32", *weights.shape)


def decoded(parts: Parts, scheme: TrellisScheme, rows: int, cols: int) -> Floats:
    return dequantize_trellis(parts, scheme, rows, cols).view(F32).reshape(rows, cols)


def halves(scale: np.ndarray) -> Floats:
    return scale.view(np.float16).astype(F32)


def stored(weights: Floats, scheme: TrellisScheme) -> tuple[Floats, WeightError]:
    """The decoded weights, and what the encoder says it lost."""
    parts, error = quantize_trellis(matrix_of(weights), scheme)
    rows, cols = weights.shape
    assert {name: (part.dtype.name, part.shape) for name, part in parts.items()} == {
        "scale": ("float16", (rows, scheme.groups(cols))),
        "codes": ("uint8", (scheme.codes_bytes(rows, cols),)),
    }
    found = decoded(parts, scheme, rows, cols)
    lost = np.square((found - weights).astype(np.float64)).sum()
    assert error.squared_error == pytest.approx(lost, rel=1e-5, abs=1e-30)
    return found, error


def real_rows() -> Floats:
    data = read_tensors(minilm())["encoder.layer.0.attention.self.query.weight"][2]
    return np.frombuffer(data, F32).reshape(384, 384)


DISTRIBUTIONS = {
    "gauss": lambda: np.random.default_rng(0).standard_normal((64, 48)).astype(F32),
    "laplace": lambda: np.random.default_rng(1).laplace(size=(64, 48)).astype(F32),
    "real": lambda: real_rows()[:64, 48:96].copy(),
}


@pytest.mark.parametrize(("b", "window_bits"), WIDTHS)
def test_the_table_follows_from_its_seed(b: int, window_bits: int) -> None:
    for seed in (0, 1, 2**64 - 1):
        found = table_of(seed, b, window_bits)
        assert np.array_equal(found, trellis_reference.table(seed, b, window_bits))
        assert np.abs(found).max() <= 1 << 14
    assert not np.array_equal(table_of(0, b, window_bits), table_of(1, b, window_bits))


@pytest.mark.parametrize(("b", "window_bits"), WIDTHS)
def test_windows_that_follow_one_another_have_unlike_values(b: int, window_bits: int) -> None:
    # Of the windows behind a state, and of those before it, each has a 2^b-th of all values.
    table = table_of(1, b, window_bits).astype(np.int64)
    part = np.argsort(np.argsort(table, kind="stable")) >> (window_bits - b)
    behind = np.sort(part.reshape(-1, 1 << b), axis=1)
    before = np.sort(part.reshape(1 << b, -1), axis=0)
    assert (behind == np.arange(1 << b)).all()
    assert (before == np.arange(1 << b)[:, None]).all()


@pytest.mark.parametrize(("b", "window_bits"), WIDTHS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 3), (13, 19), (40, 37)])
def test_the_paths_bit_for_bit(
    simd_level: str, b: int, window_bits: int, rows: int, cols: int
) -> None:
    weights = np.random.default_rng(rows).standard_t(3, (rows, cols)).astype(F32)
    scheme = TrellisScheme(b, window_bits, 40, 16)
    arguments = (matrix_of(weights).data, _core.FloatType.F32, rows, cols, b, window_bits, 40)
    begin = halves(_core.first_trellis_scales(*arguments))
    expected = []
    for first in range(0, rows, 16):
        block = slice(first, first + 16)
        values = trellis_reference.step_values(weights[block], begin[block])
        path = trellis_reference.windows(values, scheme.table, b, window_bits)
        expected.append(trellis_reference.streams(path, b, window_bits).reshape(-1))
    for threads in (1, 3):
        codes, scale, error = _core.quantize_trellis(
            *arguments, 16, scheme.table, passes=1, threads=threads
        )
        assert codes.tobytes() == np.concatenate(expected).tobytes()
        found = trellis_reference.decode(
            codes, halves(scale), cols, b, window_bits, 16, 40, scheme.table
        )
        parts: Parts = {"scale": scale, "codes": codes}
        assert found.tobytes() == decoded(parts, scheme, rows, cols).tobytes()
        lost = np.square((found - weights).astype(np.float64)).sum()
        assert error.squared_error == pytest.approx(lost, rel=1e-5)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("b", "window_bits"), [(2, 8), (2, 12), (3, 8), (4, 8)])
def test_paths_are_as_good_as_in_float64(name: str, b: int, window_bits: int) -> None:
    weights = DISTRIBUTIONS[name]()
    rows, cols = weights.shape
    scheme = trellis_scheme_for(rows, cols, b, window_bits)
    _, error = quantize_trellis(matrix_of(weights), scheme)
    scale = first_scales(weights, scheme).astype(np.float64)[:, None]
    steps = np.clip(weights / scale * trellis_reference.UNIT, -(1 << 14), 1 << 14)
    path = trellis_reference.windows(steps, scheme.table, b, window_bits, exact=True)
    values = scheme.table[path].astype(np.float64)
    fitted = (weights * values).sum(axis=1) / np.square(values).sum(axis=1)
    best = np.square(fitted[:, None] * values - weights).sum()
    assert error.squared_error <= 1.02 * best


@pytest.mark.parametrize(("b", "window_bits"), LIMITS)
def test_how_much_is_lost(b: int, window_bits: int) -> None:
    weights = 0.02 * np.random.default_rng(7).standard_normal((256, 256)).astype(F32)
    error = stored(weights, trellis_scheme_for(256, 256, b, window_bits))[1]
    assert 4.0**-b < error.relative_squared_error < LIMITS[b, window_bits]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_dtype(simd_level: str, dtype: str) -> None:
    random = np.random.default_rng(2)
    weights = random.standard_normal((24, 40)).astype(F32)
    data, _ = _core.convert(
        matrix_of(weights).data, _core.FloatType.F32, getattr(_core.FloatType, dtype)
    )
    scheme = trellis_scheme_for(24, 40, 2, 8)
    parts, _ = quantize_trellis(Matrix(data, dtype, 24, 40), scheme)
    full = dequantize_trellis(parts, scheme, 24, 40)
    assert full.size == 4 * weights.size
    rounded, _ = _core.convert(full, _core.FloatType.F32, getattr(_core.FloatType, dtype))
    assert dequantize_trellis(parts, scheme, 24, 40, dtype).tobytes() == rounded.tobytes()


@pytest.mark.parametrize("group_size", [8, 24, 40])
def test_groups_that_end_within_sixteen_columns_have_their_own_scales(group_size: int) -> None:
    weights = np.random.default_rng(5).standard_normal((64, 120)).astype(F32)
    sizes = 16.0 ** (np.arange(120) // group_size % 2)
    found, _ = stored(weights * sizes.astype(F32), TrellisScheme(2, 8, group_size, 64))
    lost = np.square(found / sizes - weights).sum(axis=0)
    assert np.square(weights).sum() * LIMITS[2, 8] > lost.sum()


def test_defaults_by_shape() -> None:
    def of(rows: int, cols: int) -> tuple[int, int]:
        scheme = trellis_scheme_for(rows, cols, 2, 8)
        return scheme.block_rows, scheme.group_size

    assert of(384, 1536) == (384, 1536)
    assert of(1, 1) == (8, 8)
    assert of(1025, 4097) == (520, 2056)
    assert of(3584, 18944) == (896, 3792)


@pytest.mark.parametrize(("b", "window_bits"), [(2, 8), (2, 12), (3, 9), (4, 8)])
def test_hard_weights(simd_level: str, b: int, window_bits: int) -> None:
    random = np.random.default_rng(3)
    weights = random.standard_normal((24, 33)).astype(F32)
    weights[0] = 0
    weights[1] = 0.25  # constant
    weights[2] = 0
    weights[2, 5] = 60000  # one huge outlier
    weights[3] *= 1e-30  # scales vanish in f16
    weights[4] = 65504 * np.sign(weights[4])  # and are at its end
    weights[5] = -0.0
    scheme = trellis_scheme_for(*weights.shape, b, window_bits)
    found, _ = stored(weights, scheme)
    assert np.isfinite(found).all()
    for zero in (0, 3, 5):
        assert not found[zero].any()
    lost = np.square((found - weights).astype(np.float64)).sum(axis=1)
    energy = np.square(weights.astype(np.float64)).sum(axis=1)
    assert (lost <= energy).all()
    assert (lost[6:] < 0.2 * energy[6:]).all()
    assert lost[1] < 0.2 * energy[1]


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 5), (3, 8), (0, 4), (4, 0), (17, 9)])
def test_sequences_shorter_than_the_window(rows: int, cols: int) -> None:
    weights = np.random.default_rng(4).standard_normal((rows, cols)).astype(F32)
    for b, window_bits in WIDTHS:
        found, error = stored(weights, TrellisScheme(b, window_bits, 8, 8))
        assert error.relative_squared_error < 0.2
        assert found.shape == weights.shape


def test_importances_weigh_the_scales() -> None:
    weights = np.random.default_rng(5).laplace(size=(64, 64)).astype(F32)
    importances = np.where(np.arange(64) < 8, 100.0, 1e-3).astype(F32)
    scheme = trellis_scheme_for(64, 64, 2, 8)

    def lost(given: Floats | None) -> float:
        parts, _ = quantize_trellis(matrix_of(weights), scheme, importances=given)
        return float((np.square(decoded(parts, scheme, 64, 64) - weights) * importances).sum())

    assert lost(importances) < lost(None)
    assert lost(np.zeros(64, F32)) == lost(None) == lost(np.full(64, 3, F32))
    assert np.isfinite(lost(np.array([1e-38, *[0] * 62, 3e38], F32)))


def test_wrong_weights_and_importances() -> None:
    scheme = trellis_scheme_for(2, 8, 2, 8)
    for value, message in ((np.nan, "1 NaN"), (np.inf, "1 infinite"), (70000, "within")):
        weights = np.ones((2, 8), F32)
        weights[1, 3] = value
        with pytest.raises(InputError, match=message):
            quantize_trellis(matrix_of(weights), scheme)
    with pytest.raises(InputError, match="for each of 8 columns"):
        quantize_trellis(matrix_of(np.ones((2, 8), F32)), scheme, importances=np.ones(7, F32))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (TrellisScheme(5, 8, 8, 8), "bit_width: expected 2, 3 or 4, got 5"),
        (TrellisScheme(2, 13, 8, 8), "window_bits: expected 8 to 12, got 13"),
        (TrellisScheme(2, 8, 12, 8), "group_size: expected a multiple of 8, got 12"),
        (TrellisScheme(2, 8, 8, 12), "block_rows: expected a multiple of 8 up to 4096, got 12"),
    ],
)
def test_wrong_schemes(scheme: TrellisScheme, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.quantize_trellis(
            np.zeros(32, np.uint8), _core.FloatType.F32, 1, 8, scheme.bit_width,
            scheme.window_bits, scheme.group_size, scheme.block_rows, np.zeros(256, np.int16),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"table: expected entries within \+-16384, got 16385"):
        _core.quantize_trellis(
            np.zeros(32, np.uint8), _core.FloatType.F32, 1, 8, 2, 8, 8, 8,
            np.full(256, 16385, np.int16),
        )  # fmt: skip
