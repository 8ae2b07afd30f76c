"""Rotations: orthogonal, undone bit for bit by anyone, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
import thermoq
from numpy.typing import NDArray
from reference import F32, encode_dtype
from safetensors_files import write_safetensors
from thermoq import _core, weights
from thermoq.checkpoint.quantized import open_quantized
from thermoq.errors import InputError
from thermoq.methods import quantize_layer
from thermoq.rotation import MAX_BLOCK, Rotation, rotation_for
from thermoq.terms import LayerClass
from thermoq.weights import FLOAT_TYPES, Matrix, Scheme, dequantize, quantize, to_floats

COLUMNS = [1, 2, 3, 8, 24, 70, 96, 128, 160, 384, 1000]
BLOCKS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def normal(rows: int, cols: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(F32)


def sylvester(size: int) -> NDArray[np.float64]:
    """The orthogonal Hadamard matrix, each twice as large as the one before."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)


def splitmix64(seed: int) -> Iterator[int]:
    """The published generator, in Python's own integers."""
    state, mask = seed, 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def matrix_of(seed: int, cols: int) -> NDArray[np.float64]:
    """R [cols, cols] with forward(w) = w R^T, from the document's sentences, in float64."""
    numbers = splitmix64(seed)
    keys = [next(numbers) for _ in range(2 * cols)]
    order = sorted(range(cols), key=lambda column: keys[column])
    signs = np.array([-1.0 if key >> 63 else 1.0 for key in keys[cols:]])
    block = max(size for size in BLOCKS if size <= 128 and cols % size == 0)
    blocks = np.kron(np.eye(cols // block), sylvester(block))
    return np.asarray(blocks @ np.diag(signs)[order])


def test_the_generator_is_the_published_one() -> None:
    """The first outputs for seed 1234567, as published implementations list them."""
    numbers = splitmix64(1234567)
    assert [next(numbers) for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("cols", COLUMNS)
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_rotation_is_the_matrix_that_the_format_specifies(cols: int, seed: int) -> None:
    weights, rotation, matrix = normal(5, cols), Rotation(seed, cols), matrix_of(seed, cols)
    turned = rotation.forward(weights)
    assert turned.dtype == np.float32
    np.testing.assert_allclose(turned, weights.astype("f8") @ matrix.T, rtol=0, atol=3e-6)
    np.testing.assert_allclose(
        rotation.backward(weights), weights.astype("f8") @ matrix, rtol=0, atol=3e-6
    )


@pytest.mark.parametrize("cols", COLUMNS)
def test_backward_undoes_forward(cols: int) -> None:
    weights, rotation = normal(9, cols), Rotation(3, cols)
    before = weights.copy()
    back = rotation.backward(rotation.forward(weights))
    np.testing.assert_allclose(back, weights, rtol=0, atol=3e-6)
    assert np.array_equal(weights, before)  # its argument is left alone
    if cols % 2:  # nothing but signs and order
        assert np.array_equal(back, weights)


def test_outputs_of_a_layer_are_kept() -> None:
    weights, inputs, rotation = normal(20, 384), normal(30, 384, 1), Rotation(0, 384)
    turned = rotation.forward(inputs).astype("f8") @ rotation.forward(weights).astype("f8").T
    np.testing.assert_allclose(turned, inputs.astype("f8") @ weights.T, rtol=0, atol=1e-4)


def test_an_outlier_is_spread_over_its_block() -> None:
    weights = np.zeros((1, 256), F32)
    weights[0, 17] = 1
    turned = Rotation(0, 256).forward(weights)[0]
    assert np.count_nonzero(turned) == 128
    assert np.allclose(np.abs(turned[turned != 0]), 128**-0.5)


@pytest.mark.parametrize(
    ("cols", "block"),
    [(1, 1), (3, 1), (2, 2), (6, 2), (24, 8), (96, 32), (64, 64), (128, 128), (192, 64),
     (256, 128), (384, 128), (3584, 128), (18944, 128)],
)  # fmt: skip
def test_block_sizes(cols: int, block: int) -> None:
    assert Rotation(0, cols).block == block <= MAX_BLOCK


def test_seed_and_columns_alone_decide() -> None:
    weights = normal(4, 96)
    assert np.array_equal(Rotation(5, 96).forward(weights), Rotation(5, 96).forward(weights))
    assert not np.array_equal(Rotation(5, 96).forward(weights), Rotation(6, 96).forward(weights))
    assert Rotation(5, 96).forward(weights[2:3]).tobytes() == (
        Rotation(5, 96).forward(weights)[2:3].tobytes()
    )


@pytest.mark.parametrize(
    ("shape", "layer_class", "bit_width", "rotated"),
    [
        ((8, 64), "body", 2, True),
        ((8, 64), "body", 4, True),
        ((8, 64), "modulation", 4, True),
        ((8, 2), "body", 2, True),
        ((8, 64), "sensitive", 8, False),
        ((8, 64), "table", 2, False),
        ((8, 64, 3, 3), "body", 2, False),
        ((64,), "body", 2, False),
        ((8, 63), "body", 2, False),
        ((8, 0), "body", 2, False),
    ],
)
def test_what_is_rotated(
    shape: tuple[int, ...], layer_class: LayerClass, bit_width: int, rotated: bool
) -> None:
    expected = Rotation(9, shape[-1]) if rotated else None
    assert rotation_for(shape, layer_class, bit_width, 9) == expected


@pytest.mark.parametrize("encoding", ["affine", "coded"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_decoding_undoes_the_rotation(encoding: str, dtype: str, simd_level: str) -> None:
    rotation = Rotation(1, 192)
    turned = rotation.forward(normal(6, 192))
    matrix = Matrix(turned.reshape(-1).view(np.uint8), "F32", *turned.shape)
    scheme = (
        Scheme("affine", 4, 64)
        if encoding == "affine"
        else Scheme("coded", 4, 32, super_block=192, scale_bits=6, minimum_bits=6)
    )
    found, _ = quantize(matrix, scheme, method="lsq")
    inner = dequantize(found).view(F32).reshape(6, 192)
    decoded = dequantize(replace(found, rotation=rotation), dtype)
    assert decoded.tobytes() == encode_dtype(rotation.backward(inner), dtype)


# The core's part.


def butterflies(rows: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """The document's order of additions, one pair of columns at a time."""
    out = rows.copy()
    half = 1
    while half < block:
        for i in range(out.shape[1]):
            if i // half % 2 == 0:
                a, b = out[:, i].copy(), out[:, i + half].copy()
                out[:, i], out[:, i + half] = a + b, a - b
        half *= 2
    return out * F32(1 / np.sqrt(block))


@pytest.mark.parametrize("block", BLOCKS)
def test_hadamard_against_sylvesters_matrix(block: int, simd_level: str) -> None:
    rows = normal(7, 512)
    expected = rows.astype("f8") @ np.kron(np.eye(512 // block), sylvester(block))
    for threads in (1, 2, 4):
        found = _core.hadamard(rows, block, threads)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
        assert found.tobytes() == butterflies(rows, block).tobytes()


def test_hadamard_is_the_same_at_any_number_of_threads(simd_level: str) -> None:
    rows = normal(700, 640)
    before = rows.copy()
    one = _core.hadamard(rows, 128, 1)
    assert one.tobytes() == butterflies(rows, 128).tobytes()
    for threads in (0, 2, 3, 8):
        assert _core.hadamard(rows, 128, threads).tobytes() == one.tobytes()
    assert np.array_equal(rows, before)


def test_hadamard_of_nothing() -> None:
    assert _core.hadamard(np.zeros((0, 8), F32), 8).shape == (0, 8)


@pytest.mark.parametrize(("block", "cols"), [(0, 8), (3, 9), (6, 12), (16, 8), (8, 12), (128, 192)])
def test_other_block_sizes_are_refused(block: int, cols: int) -> None:
    message = rf"^block: expected a power of two that divides {cols}, got {block}$"
    with pytest.raises(ValueError, match=message):
        _core.hadamard(np.zeros((2, cols), F32), block)


def test_arrays_that_are_no_rows_of_floats() -> None:
    with pytest.raises(ValueError, match="block: expected 0 or more, got -2"):
        _core.hadamard(np.zeros((2, 8), F32), -2)
    with pytest.raises(ValueError, match="data: expected 2 dimensions, got 1"):
        _core.hadamard(np.zeros(8, F32), 8)
    for wrong in (np.zeros((2, 8)), np.zeros((2, 16), F32)[:, ::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _core.hadamard(wrong, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("cols", [2, 24, 96, 384, 640])
def test_rotating_is_signs_then_order_then_hadamard(cols: int, simd_level: str) -> None:
    rotation, rows = Rotation(3, cols), normal(700, cols)
    turned = butterflies((rows * rotation.signs)[:, rotation.permutation], rotation.block)
    back = np.empty_like(rows)
    back[:, rotation.permutation] = butterflies(rows, rotation.block)
    for threads in (1, 2, 8):
        assert rotation.forward(rows, threads).tobytes() == turned.tobytes()
        assert rotation.backward(rows, threads).tobytes() == (back * rotation.signs).tobytes()


def test_an_order_that_is_none() -> None:
    rows, signs = np.zeros((2, 4), F32), np.ones(4, F32)
    for order, wrong in (([0, 1, 1, 3], "1 at place 2"), ([0, 1, 2, 4], "4 at place 3"),
                         ([-1, 1, 2, 3], "-1 at place 0")):  # fmt: skip
        for turn in (_core.rotate, _core.unrotate):
            with pytest.raises(ValueError, match=f"order: expected every column once, got {wrong}"):
                turn(rows, np.array(order), signs, 4)
    with pytest.raises(ValueError, match="signs: expected 4 elements, got 3"):
        _core.rotate(rows, np.arange(4), signs[:3], 4)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_error_of_decoding_is_that_of_float64(dtype: str, simd_level: str) -> None:
    source, decoded = encode_dtype(normal(37, 2100), dtype), normal(37, 2100, seed=1)
    data = np.frombuffer(source, np.uint8)
    w = to_floats(Matrix(data, dtype, 37, 2100)).astype("f8")
    errors = [
        _core.decoding_error(data, FLOAT_TYPES[dtype], decoded, threads) for threads in (1, 2, 8)
    ]
    for one in errors:
        lost = decoded - w
        assert one.squared_error == pytest.approx(np.square(lost).sum(), rel=1e-13)
        assert one.source_energy == pytest.approx(np.square(w).sum(), rel=1e-13)
        assert one.decoded_energy == pytest.approx(np.square(decoded.astype("f8")).sum(), rel=1e-13)
        assert one.max_error == np.abs(lost).max()
        assert one.squared_error == errors[0].squared_error


PIECES = [
    Scheme("affine", 2, 32),
    Scheme("coded", 2, 16, super_block=96, scale_bits=4, minimum_bits=4),
    Scheme("trellis", 2, 96, window_bits=8, block_rows=16, table_seed=1),
]


@pytest.mark.parametrize("scheme", PIECES, ids=lambda scheme: scheme.encoding)
def test_a_matrix_in_pieces(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, rotation = normal(70, 96), Rotation(2, 96)
    matrix = Matrix(rows.reshape(-1).view(np.uint8), "F32", 70, 96)
    whole = quantize_layer(matrix, scheme, "lsq", rotation=rotation)
    monkeypatch.setattr(weights, "_PIECE_WEIGHTS", 16 * 96)
    assert [count for _, count in weights.pieces(70, 96, scheme)] == [16, 16, 16, 16, 6]
    cut = quantize_layer(matrix, scheme, "lsq", rotation=rotation)
    if scheme.encoding != "trellis":  # it goes once more over a piece whose scales moved
        for suffix, part in whole.matrix.parts.items():
            assert np.array_equal(cut.matrix.parts[suffix], part)
    decoded = dequantize(cut.matrix).view(F32).reshape(70, 96)
    pieces = [values for _, values in weights.decoded_rows(cut.matrix)]
    monkeypatch.undo()
    assert np.concatenate(pieces).tobytes() == dequantize(cut.matrix).tobytes()
    assert decoded.tobytes() == dequantize(cut.matrix).tobytes()
    lost = decoded.astype("f8") - rows
    assert cut.error.squared_error == pytest.approx(np.square(lost).sum(), rel=1e-12)
    assert cut.error.max_error == np.abs(lost).max()


def test_what_is_wrong_in_a_later_piece_is_counted_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PIECE_WEIGHTS", 16 * 96)
    rows = normal(70, 96)
    rows[20, 3] = rows[69, 95] = np.nan
    rows[40, 0] = -np.inf
    matrix = Matrix(rows.reshape(-1).view(np.uint8), "F32", 70, 96)
    with pytest.raises(InputError, match="expected finite weights, got 2 NaN and 1 infinite"):
        quantize_layer(matrix, PIECES[0], "lsq", rotation=Rotation(2, 96))


def test_a_table_with_the_bytes_of_a_rotated_matrix_is_stored_by_itself(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.add("model.embed_tokens.weight", 64, 128)
    maker.repeat("blocks.0.attn.to_q.weight", "model.embed_tokens.weight")
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    rules = [{"match": "*embed*", "bit_width": 2}]
    thermoq.quantize(
        tmp_path / "in", tmp_path / "out", method="lsq", rotation="hadamard", layers=rules
    )
    thermoq.verify(tmp_path / "out")
    (component,) = open_quantized(tmp_path / "out")[1]
    assert [entry.same_as for entry in component.manifest.tensors.values()] == [None, None]


def test_a_matrix_without_columns() -> None:
    assert Rotation(0, 0).block == 1
    assert Rotation(0, 0).forward(np.empty((4, 0), np.float32)).shape == (4, 0)
