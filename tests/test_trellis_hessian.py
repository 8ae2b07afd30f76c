"""Error-compensated trellis codes: the sweep bit for bit, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
import trellis_reference
from numpy.typing import NDArray
from reference import F32, Floats
from test_hessian import layer, output_error
from test_trellis import decoded, matrix_of
from thermoq import _core
from thermoq.hessian import quantize_hessian
from thermoq.rotation import Rotation
from thermoq.trellis import Parts, TrellisScheme, quantize_trellis, trellis_scheme_for
from thermoq.trellis_hessian import quantize_trellis_hessian
from thermoq.weights import Scheme, dequantize

Sweep = tuple[NDArray[np.uint8], Floats]


def plain_sweep(
    weights: Floats, factor: Floats, scale: Floats, group_of: NDArray[np.int32],
    b: int, window_bits: int, block_rows: int, table: NDArray[np.int16],
) -> Sweep:  # fmt: skip
    """The sweep in NumPy, one float32 operation at a time, block of rows after block."""
    left = weights.copy()
    streams = []
    for first in range(0, len(weights), block_rows):
        block = slice(first, first + block_rows)
        for j, group in enumerate(group_of):
            own = scale[block, group, None]
            values = trellis_reference.step_values(left[block, j, None], own)
            path = trellis_reference.windows(values, table, b, window_bits)
            streams.append(trellis_reference.streams(path, b, window_bits).reshape(-1))
            reached = own * (table[path].astype(F32) / F32(trellis_reference.UNIT))
            error = (left[block, j, None] - reached) / factor[j, j]
            left[block, j] = error[:, 0]
            left[block, j + 1 :] = left[block, j + 1 :] - error * factor[j, j + 1 :]
    return np.concatenate([np.empty(0, np.uint8), *streams]), left


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 7), (17, 40), (50, 64), (0, 4)])
@pytest.mark.parametrize(("b", "window_bits"), [(2, 8), (2, 12), (3, 9), (4, 8)])
def test_the_sweep_bit_for_bit(
    simd_level: str, rows: int, cols: int, b: int, window_bits: int
) -> None:
    random = np.random.default_rng(cols)
    groups = -(-cols // 16)
    scale = random.random((rows, groups)).astype(np.float16).astype(F32)
    arguments = (
        random.standard_normal((rows, cols)).astype(F32),
        np.triu(random.standard_normal((cols, cols)) * 0.1 + 2 * np.eye(cols)).astype(F32),
        np.where(random.random((rows, groups)) < 0.1, F32(0), scale),
        (random.permutation(cols) // 16).astype(np.int32),
        b,
        window_bits,
        16,
        trellis_reference.table(1, b, window_bits),
    )
    codes, errors = plain_sweep(*arguments)
    for threads in (1, 3):
        found = _core.sweep_trellis(*arguments, threads)
        assert found[0].tobytes() == codes.tobytes()
        assert found[1].tobytes() == errors.tobytes()


def test_wrong_sweeps_are_refused() -> None:
    one, groups, table = np.ones((2, 3), F32), np.zeros(3, np.int32), np.zeros(256, np.int16)
    good = (one, np.eye(3, dtype=F32), one[:, :1].copy(), groups, 2, 8, 8, table)
    _core.sweep_trellis(*good)
    for position, value, message in (
        (0, np.ones(6, F32), "weights, scale: expected 2 dimensions"),
        (1, np.eye(2, dtype=F32), "factor: expected 9 elements, got 4"),
        (2, np.ones((1, 1), F32), "scale: expected 2 elements, got 1"),
        (3, groups + 1, "group_of: expected groups below 1, got 1"),
        (3, groups - 1, "group_of: expected groups below 1, got -1"),
        (5, 7, "window_bits: expected 8 to 12, got 7"),
        (7, table[:-1].copy(), "table: expected 256 elements, got 255"),
        (7, table + np.int16(16385), r"table: expected entries within \+-16384, got 16385"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.sweep_trellis(*good[:position], value, *good[position + 1 :])
    wide = np.ones((1, 257), F32)
    with pytest.raises(ValueError, match="columns: expected at most 256, got 257"):
        _core.sweep_trellis(
            wide, np.eye(257, dtype=F32), wide[:, :1].copy(), np.zeros(257, np.int32), 2, 8, 8,
            table,
        )  # fmt: skip


def reached(parts: Parts, scheme: TrellisScheme, weights: Floats) -> Floats:
    return decoded(parts, scheme, *weights.shape)


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize(("rows", "cols", "group_size"), [(64, 128, 128), (40, 600, 248)])
def test_less_output_error(rows: int, cols: int, group_size: int, by_activation: bool) -> None:
    turned = Rotation(7, cols).forward
    weights, inputs = map(turned, layer(rows, cols, 4 * cols))
    inputs, fresh = inputs[::2].copy(), inputs[1::2]
    scheme = TrellisScheme(2, 8, group_size, 1024)
    parts = quantize_trellis_hessian(weights, scheme, inputs, by_activation=by_activation)
    plain, _ = quantize_trellis(matrix_of(weights), scheme)
    lost = output_error(weights, reached(parts, scheme, weights), fresh)
    assert lost < 0.7 * output_error(weights, reached(plain, scheme, weights), fresh)
    coded = quantize_hessian(
        weights, Scheme("coded", 2, 16, 256, 4, 4), inputs, by_activation=by_activation
    )
    other = dequantize(coded).view(F32).reshape(weights.shape)
    assert lost < (0.8 if by_activation else 1) * output_error(weights, other, fresh)


def test_the_fit_of_the_scales_is_the_best() -> None:
    weights, inputs = layer(16, 96, 300)
    scheme = TrellisScheme(2, 8, 48, 1024)
    parts = quantize_trellis_hessian(weights, scheme, inputs)
    best = output_error(weights, reached(parts, scheme, weights), inputs)
    for group in range(2):
        for factor in (0.98, 1.02):
            changed = parts["scale"].copy()
            changed[:, group] *= np.float16(factor)
            other = reached({**parts, "scale": changed}, scheme, weights)
            assert output_error(weights, other, inputs) > best


def test_threads_change_nothing() -> None:
    weights, inputs = layer(300, 1100, 40)
    scheme = trellis_scheme_for(300, 1100, 2, 8)
    one, many = (
        quantize_trellis_hessian(weights, scheme, inputs, by_activation=True, threads=threads)
        for threads in (1, 3)
    )
    assert {name: part.tobytes() for name, part in one.items()} == {
        name: part.tobytes() for name, part in many.items()
    }


@pytest.mark.parametrize(("rows", "cols", "samples"), [(1, 1, 1), (5, 9, 0), (3, 70, 4), (0, 8, 3)])
def test_small_and_empty_layers(rows: int, cols: int, samples: int) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((rows, cols)).astype(F32)
    weights[: rows // 2] = 0
    inputs = random.standard_normal((samples, cols)).astype(F32)
    scheme = trellis_scheme_for(rows, cols, 2, 10)
    parts = quantize_trellis_hessian(weights, scheme, inputs)
    found = reached(parts, scheme, weights)
    assert not found[: rows // 2].any()
    lost, energy = (np.square(x).sum() for x in (found - weights, weights))
    assert lost <= 0.5 * energy


def test_hard_rows_leave_the_others_as_they_are() -> None:
    weights, inputs = layer(24, 64, 200)
    scheme = trellis_scheme_for(24, 64, 2, 8)
    plain = reached(quantize_trellis_hessian(weights, scheme, inputs), scheme, weights)
    hard = weights.copy()
    hard[0] = 0
    hard[1] = 0.25  # constant
    hard[2, 5] = 60000  # one huge outlier
    hard[3] *= F32(1e-30)  # scales vanish in f16
    found = reached(quantize_trellis_hessian(hard, scheme, inputs), scheme, weights)
    assert np.isfinite(found).all()
    assert not found[[0, 3]].any()
    assert output_error(hard[1:2], found[1:2], inputs) < 0.2
    assert output_error(hard[2:3], found[2:3], inputs) < 1
    lost = output_error(hard[4:], found[4:], inputs)
    assert lost < 1.2 * output_error(weights[4:], plain[4:], inputs)


def test_weights_at_the_end_of_the_range() -> None:
    weights, inputs = layer(16, 64, 100)
    weights *= 65504 / np.abs(weights).max()
    weights[3] = 65504
    weights[4] *= F32(1e-12)
    scheme = trellis_scheme_for(16, 64, 2, 8)
    parts = quantize_trellis_hessian(weights, scheme, inputs)
    assert np.isfinite(parts["scale"]).all()
    assert np.isfinite(reached(parts, scheme, weights)).all()
