"""Rows of codes as streams of bits, low bits first: how `coded` stores group parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack(codes: Bytes, bits: int) -> Bytes:
    """Return codes [rows, n] of `bits` (1 to 8) as [rows, ceil(n * bits / 8)]; spare bits are 0."""
    single = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    packed: Bytes = np.packbits(single.reshape(len(codes), -1), axis=1, bitorder="little")
    return packed


def unpack(stream: Bytes, bits: int, count: int) -> Bytes:
    """Return the first `count` codes of each row of a bit stream: [rows, count]."""
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes: Bytes = (stream[:, :, None] >> shifts) & np.uint8(2**bits - 1)
        return codes.reshape(stream.shape[0], stream.shape[1] * len(shifts))[:, :count]
    single = np.unpackbits(stream, axis=1, count=count * bits, bitorder="little")
    single = single.reshape(stream.shape[0], count, bits)
    packed: Bytes = np.packbits(single, axis=2, bitorder="little")
    return packed[:, :, 0]
