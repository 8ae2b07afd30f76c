"""Trellis codes in plain NumPy: the table, the paths of least squared error, streams, decoding."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from reference import F32, Floats

UNIT = 4096
MOST = 1 << 14
MAX_COST = 0xFFFF

Integers = NDArray[np.int64]
Streams = NDArray[np.uint8]


def splitmix64(seed: int, count: int) -> list[int]:
    """The sequence, one number at a time."""
    numbers, state, mask = [], seed, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def table(seed: int, b: int, window_bits: int) -> NDArray[np.int16]:
    """The values of all windows, as docs/format.md has them."""
    count = 1 << window_bits
    keys = splitmix64(seed, count + (1 << (window_bits - 2 * b)))

    def place(window: int) -> tuple[int, int]:
        middle = (window >> b) % (1 << (window_bits - 2 * b))
        turn = keys[count + middle] >> (64 - b)
        return (window ^ (window >> (window_bits - b)) ^ turn) % (1 << b), keys[window]

    result = np.empty(count, np.int16)
    for i, window in enumerate(sorted(range(count), key=place)):
        result[window] = round(UNIT * NormalDist().inv_cdf((i + 0.5) / count))
    return result


def step_values(weights: Floats, scale: Floats) -> Integers:
    """Weights [rows, cols] in units of the table, each row over its scale [rows, 1]."""
    factor = np.divide(F32(UNIT), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.rint(np.clip(weights * factor, -MOST, MOST)).astype(np.int64)


def windows(
    values: NDArray[np.float64] | Integers,
    entries: NDArray[np.int16],
    b: int,
    window_bits: int,
    exact: bool = False,
) -> Integers:
    """The best paths [rows, cols] for the rows of each column, from the last row to the first.

    In the core's integers, or in float64 without rounding or a largest cost (`exact`).
    """
    rows, cols = values.shape
    elder, fan = window_bits - b, 1 << b
    costs = np.zeros((cols, 1 << window_bits), np.float64 if exact else np.int64)
    base = np.zeros((cols, 1), costs.dtype)
    reached = []  # by step: what it cost to get to the elder bits of a window

    def after(low: NDArray[np.generic], step: int, of: slice | Integers) -> NDArray[np.generic]:
        distance = values[rows - 1 - step][:, None] - entries[of].astype(np.int64)
        if exact:
            return low + distance * distance / 2.0**15
        return np.minimum(low + ((distance * distance + 0x4000) >> 15), MAX_COST)

    for step in range(rows):
        low = costs.reshape(cols, fan, 1 << elder).min(axis=1)
        low = low if exact else np.maximum(low - base, 0)
        base = np.minimum(low.min(axis=1, keepdims=True), MAX_COST)
        reached.append(low)
        costs = after(np.repeat(low, fan, axis=1), step, slice(None))
    found = np.empty((rows, cols), np.int64)
    found[0] = costs.argmin(axis=1)
    every = np.arange(cols)[:, None]
    for step in range(rows - 1, 0, -1):
        known = found[rows - 1 - step] >> b
        before = (np.arange(fan) << elder) | known[:, None]
        cost = after(reached[step - 1][every, before >> b], step - 1, before)
        found[rows - step] = before[np.arange(cols), cost.argmin(axis=1)]
    return found


def streams(paths: Integers, b: int, window_bits: int) -> Streams:
    """The streams [cols, bytes] of the paths [rows, cols] of a block."""
    rows, cols = paths.shape
    bits = np.zeros((cols, b * rows + window_bits - b), np.uint8)
    for row in range(rows):
        for i in range(window_bits):
            bits[:, b * row + i] = (paths[row] >> i) & 1
    return np.packbits(bits, axis=1, bitorder="little")


def decode(
    codes: Streams, scale: Floats, cols: int, b: int, window_bits: int, block_rows: int,
    group_size: int, entries: NDArray[np.int16],
) -> Floats:  # fmt: skip
    """The decoded matrix: scale [rows, groups] times the values of the windows."""
    rows, start = len(scale), 0
    result = np.empty((rows, cols), F32)
    for first in range(0, rows, block_rows):
        n = min(block_rows, rows - first)
        size = (b * n + window_bits - b + 7) // 8
        own = codes[start : start + cols * size].reshape(cols, size)
        start += cols * size
        bits = np.unpackbits(own, axis=1, bitorder="little").astype(np.int64)
        for row in range(n):
            window = bits[:, b * row : b * row + window_bits] @ (1 << np.arange(window_bits))
            result[first + row] = entries[window].astype(F32) / F32(UNIT)
    return result * np.repeat(scale, group_size, axis=1)[:, :cols]
