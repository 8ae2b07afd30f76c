"""Blocks against the decoder of the `gguf` package and the formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq.gguf.blocks import BLOCK_BYTES, BLOCK_WEIGHTS, encode, exact_type, unpack
from thermoq.weights import QuantizedMatrix, Scheme

gguf = pytest.importorskip("gguf")

Parts = dict[str, NDArray[np.generic]]


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [rows, n] as the rows' bit streams, low bits first."""
    single = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(single.reshape(len(codes), codes.shape[1] * bits), axis=1, bitorder="little")


def halves(rng: np.random.Generator, *shape: int, signed: bool = True) -> NDArray[np.float16]:
    """Finite f16 numbers of every size, subnormal ones and zeros included."""
    bits = rng.integers(0, 0x7C00, shape, dtype=np.uint16)
    bits[rng.random(shape) < 0.1] = 0
    if signed:
        bits |= rng.integers(0, 2, shape, dtype=np.uint16) << 15
    return bits.view(np.float16)


def random_matrix(scheme: Scheme, rows: int, cols: int) -> QuantizedMatrix:
    """Stored parts of random bits: every code and every parameter occurs."""
    rng = np.random.default_rng(cols + 7 * rows)
    groups = -(-cols // scheme.group_size)
    parts: Parts
    if scheme.encoding == "q8":
        codes = rng.integers(-127, 128, (rows, cols), dtype=np.int8)
        parts = {"scale": halves(rng, rows, groups, signed=False), "codes": codes}
        return QuantizedMatrix(scheme, rows, cols, parts)
    codes = rng.integers(0, 2**scheme.bit_width, (rows, cols), dtype=np.uint8)
    if scheme.encoding == "affine":
        parts = {
            "scale": halves(rng, rows, groups, signed=False),
            "minimum": halves(rng, rows, groups),
        }
    else:
        supers = -(-cols // scheme.super_block)
        scale = rng.integers(0, 2**scheme.scale_bits, (rows, groups), dtype=np.uint8)
        minimum = rng.integers(0, 2**scheme.minimum_bits, (rows, groups), dtype=np.uint8)
        parts = {
            "super_scale": halves(rng, rows, supers, signed=False),
            "super_minimum": halves(rng, rows, supers),
            "scale_codes": packed(scale, scheme.scale_bits),
            "minimum_codes": packed(minimum, scheme.minimum_bits),
        }
    parts["codes"] = packed(codes, scheme.bit_width)
    return QuantizedMatrix(scheme, rows, cols, parts)


def decoded(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """The values, as docs/format.md has them."""
    scheme, cols, parts = matrix.scheme, matrix.cols, matrix.parts
    column = np.arange(cols)
    group = column // scheme.group_size
    if scheme.encoding == "q8":
        return parts["scale"].astype("f4")[:, group] * parts["codes"].astype("f4")
    codes = bits_of(parts["codes"], scheme.bit_width, cols).astype("f4")
    if scheme.encoding == "affine":
        return (
            parts["scale"].astype("f4")[:, group] * codes + parts["minimum"].astype("f4")[:, group]
        )
    owner = column // scheme.super_block
    groups = -(-cols // scheme.group_size)
    scale = bits_of(parts["scale_codes"], scheme.scale_bits, groups).astype("f4")
    minimum = bits_of(parts["minimum_codes"], scheme.minimum_bits, groups).astype("f4")
    super_scale = parts["super_scale"].astype("f4")[:, owner]
    super_minimum = parts["super_minimum"].astype("f4")[:, owner]
    return (super_scale * scale[:, group]) * codes - super_minimum * minimum[:, group]


def bits_of(stream: NDArray[np.generic], bits: int, count: int) -> NDArray[np.int64]:
    """The codes of a bit stream, one by one."""
    rows = []
    for row in stream.view(np.uint8):
        number = int.from_bytes(row.tobytes(), "little")
        rows.append([number >> i * bits & (2**bits - 1) for i in range(count)])
    return np.array(rows, dtype=np.int64).reshape(len(rows), count)


Q2_K = Scheme("coded", 2, 16, 256, 4, 4)
Q4_K = Scheme("coded", 4, 32, 256, 6, 6)
CASES = {
    # The value sets of llama.cpp's own types.
    "Q2_K": (Q2_K, 512, "Q2_K"),
    "Q4_K": (Q4_K, 512, "Q4_K"),
    "Q8_0": (Scheme("q8", 8, 32), 96, "Q8_0"),
    # What fits into them all the same: parameters that more weights share, narrower codes.
    "shared by more": (Scheme("coded", 2, 64, 512, 3, 2), 1024, "Q2_K"),
    "a super-block as long as the row": (Scheme("coded", 2, 16, 4096, 4, 4), 768, "Q2_K"),
    "a group as long as the row": (Scheme("coded", 2, 2048, 2048, 4, 4), 256, "Q2_K"),
    "ragged groups": (Scheme("coded", 2, 48, 768, 4, 4), 256, "Q2_K"),
    "wide minima": (Scheme("coded", 2, 32, 512, 4, 6), 512, "Q4_K"),
    "narrow codes": (Scheme("coded", 4, 64, 256, 5, 1), 512, "Q4_K"),
    "affine 4": (Scheme("affine", 4, 64), 192, "Q4_1"),
    "affine 2": (Scheme("affine", 2, 64), 96, "Q4_1"),
    "affine, one group": (Scheme("affine", 2, 1000), 96, "Q4_1"),
    # What fits into none.
    "rows of 384": (Scheme("coded", 2, 16, 384, 4, 4), 384, None),
    "super-blocks across": (Scheme("coded", 2, 16, 384, 4, 4), 768, None),
    "wide scales": (Scheme("coded", 2, 16, 256, 6, 4), 512, None),
    "very wide scales": (Scheme("coded", 4, 32, 256, 8, 8), 512, None),
    "groups across": (Scheme("coded", 4, 16, 256, 6, 6), 512, None),
    "small groups": (Scheme("affine", 4, 8), 64, None),
    "ragged rows": (Scheme("q8", 8, 32), 70, None),
}


@pytest.mark.parametrize("case", CASES)
def test_which_type_holds_a_scheme(case: str) -> None:
    scheme, cols, expected = CASES[case]
    assert exact_type(scheme, cols) == expected


@pytest.mark.parametrize("case", [case for case, (_, _, name) in CASES.items() if name])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_package_decodes_the_same_bits(case: str, rows: int) -> None:
    scheme, cols, _ = CASES[case]
    block_type = exact_type(scheme, cols)
    assert block_type is not None
    matrix = random_matrix(scheme, rows, cols)
    blocks = encode(matrix, block_type)
    assert blocks.shape == (rows, cols // BLOCK_WEIGHTS[block_type] * BLOCK_BYTES[block_type])
    if rows == 0:  # the package divides by the number of blocks
        return
    values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[block_type])
    assert np.array_equal(values.view("u4"), decoded(matrix).view("u4"))


def test_matrices_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(Q2_K, 7, 512)
    whole = encode(matrix, "Q2_K")
    monkeypatch.setattr("thermoq.gguf.blocks._CHUNK_WEIGHTS", 1024)
    assert np.array_equal(encode(matrix, "Q2_K"), whole)


@pytest.mark.parametrize("name", BLOCK_WEIGHTS)
def test_the_sizes_are_those_of_the_package(name: str) -> None:
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert sizes == (BLOCK_WEIGHTS[name], BLOCK_BYTES[name])  # type: ignore[index]


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_may_straddle_bytes(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 13), dtype=np.uint8)
    assert np.array_equal(unpack(packed(codes, bits), bits, 13), codes)
