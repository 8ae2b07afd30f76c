"""Codes in bytes: the bit order that docs/format.md draws."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thermoq import _core


def random_codes(rows: int, cols: int, bit_width: int) -> np.ndarray:
    return np.random.default_rng(cols).integers(0, 2**bit_width, (rows, cols), dtype=np.uint8)


def test_bit_order() -> None:
    two = np.array([[1, 2, 3, 0, 3]], np.uint8)
    assert _core.pack_codes(two, 1, 5, 2).tolist() == [[0b00_11_10_01, 0b11]]
    four = np.array([[1, 15, 7]], np.uint8)
    assert _core.pack_codes(four, 1, 3, 4).tolist() == [[0xF1, 0x07]]


@pytest.mark.parametrize("bit_width", [2, 4])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("cols", [0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 65, 100, 2049])
def test_packing_equals_the_reference(
    simd_level: str, bit_width: int, threads: int, cols: int
) -> None:
    for rows in (0, 1, 5, 130 if cols == 2049 else 2):
        codes = random_codes(rows, cols, bit_width)
        packed = _core.pack_codes(codes, rows, cols, bit_width, threads)
        assert packed.shape == (rows, -(-cols * bit_width // 8))
        assert np.array_equal(packed, reference.pack(codes, bit_width))
        unpacked = _core.unpack_codes(packed, rows, cols, bit_width, threads)
        assert np.array_equal(unpacked, codes)
        assert np.array_equal(unpacked, reference.unpack(packed, cols, bit_width))


@given(
    data=st.binary(max_size=400),
    bit_width=st.sampled_from([2, 4]),
    spare=st.integers(0, 3),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_unpack_as_the_reference_does(
    simd_level: str, data: bytes, bit_width: int, spare: int
) -> None:
    cols = max(0, len(data) * 8 // bit_width - min(spare, 8 // bit_width - 1))
    packed = np.frombuffer(data, np.uint8)[None, :]
    codes = _core.unpack_codes(packed, 1, cols, bit_width)
    assert np.array_equal(codes, reference.unpack(packed, cols, bit_width))
    # Back again, but for the spare bits, which packing leaves 0.
    whole = cols * bit_width // 8
    again = _core.pack_codes(codes, 1, cols, bit_width)
    assert np.array_equal(again[:, :whole], packed[:, :whole])


def test_codes_from_an_unaligned_address(simd_level: str) -> None:
    codes = random_codes(3, 100, 2)
    shifted = np.frombuffer(b"\0" + codes.tobytes(), np.uint8, offset=1)
    assert np.array_equal(_core.pack_codes(shifted, 3, 100, 2), reference.pack(codes, 2))
