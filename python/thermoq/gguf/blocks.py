"""Stored parts of a matrix as the blocks of a ggml type that holds the same values.

Layouts: `block_q2_K`, `block_q4_K`, `block_q4_1` and `block_q8_0` of ggml-org/ggml,
src/ggml-common.h. All blocks run along a row, low codes in low bits:

    Q2_K  256 weights, 84 bytes   16 x (scale code | minimum code << 4), 64 of codes, d, dmin
    Q4_K  256 weights, 144 bytes  d, dmin, 12 with 8 + 8 codes of 6 bits, 128 of codes
    Q4_1  32 weights, 20 bytes    scale, minimum, 16 of codes
    Q8_0  32 weights, 34 bytes    scale, 32 codes with sign

The decoders there compute what docs/format.md says: for K-quants (d * scale code) * code -
(dmin * minimum code), else scale * code + minimum or scale * code. Nothing is rounded on the way.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from thermoq.bit_streams import unpack
from thermoq.weights import QuantizedMatrix, Scheme

BlockType = Literal["Q2_K", "Q4_K", "Q4_1", "Q8_0"]
Bytes = NDArray[np.uint8]

BLOCK_WEIGHTS: Final[dict[BlockType, int]] = {"Q2_K": 256, "Q4_K": 256, "Q4_1": 32, "Q8_0": 32}
BLOCK_BYTES: Final[dict[BlockType, int]] = {"Q2_K": 84, "Q4_K": 144, "Q4_1": 20, "Q8_0": 34}

_CHUNK_WEIGHTS = 1 << 22  # unpacked at once


def exact_type(scheme: Scheme, cols: int) -> BlockType | None:
    """Return the smallest ggml type that holds every matrix of `cols` columns in `scheme`.

    Parameters that more weights share than in the type are repeated, codes may be narrower than the
    type's fields. None if no type fits: ragged rows, other groups, wider codes.
    """
    if scheme.encoding == "q8":
        return "Q8_0" if cols % 32 == 0 else None
    if scheme.encoding == "affine":
        return "Q4_1" if cols % 32 == 0 and _covers(scheme.group_size, 32, cols) else None
    if scheme.encoding == "trellis":
        return None
    if cols % 256 or not _covers(scheme.super_block, 256, cols):
        return None
    bits = max(scheme.scale_bits, scheme.minimum_bits)
    if scheme.bit_width == 2 and bits <= 4 and _covers(scheme.group_size, 16, cols):
        return "Q2_K"
    return "Q4_K" if bits <= 6 and _covers(scheme.group_size, 32, cols) else None


def encode(matrix: QuantizedMatrix, block_type: BlockType) -> Bytes:
    """Return the blocks of `matrix`, [rows, bytes of a row]; `block_type` is its `exact_type`."""
    rows, cols = matrix.rows, matrix.cols
    size = cols // BLOCK_WEIGHTS[block_type] * BLOCK_BYTES[block_type]
    blocks = np.empty((rows, size), np.uint8)
    step = max(1, _CHUNK_WEIGHTS // max(1, cols))
    for start in range(0, rows, step):
        parts = {name: part[start : start + step] for name, part in matrix.parts.items()}
        chunk = _ENCODERS[block_type](matrix.scheme, cols, parts)
        blocks[start : start + step] = chunk.reshape(chunk.shape[0], size)
    return blocks


def _covers(stored: int, needed: int, cols: int) -> bool:
    """Whether runs of `needed` weights never see two of the runs of `stored` weights in a row."""
    return stored % needed == 0 or stored >= cols


def _q8_0(scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]) -> Bytes:
    codes = parts["codes"].view(np.uint8)
    shape = (codes.shape[0], cols // 32)
    return _joined(shape, _half(parts["scale"]), codes)


def _q4_1(scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]) -> Bytes:
    group = _owner(cols, 32, scheme.group_size)
    codes = _codes(scheme, cols, parts)
    shape = (codes.shape[0], cols // 32)
    halves = codes.reshape(*shape, 2, 16)
    packed = halves[:, :, 0] | halves[:, :, 1] << 4
    return _joined(
        shape, _half(parts["scale"])[:, group], _half(parts["minimum"])[:, group], packed
    )


def _q2_k(scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]) -> Bytes:
    scale, minimum = _parameter_codes(scheme, cols, parts, 16)
    codes = _codes(scheme, cols, parts)
    shape = (codes.shape[0], cols // 256)
    lanes = codes.reshape(*shape, 2, 4, 32)  # four runs of 32 weights share 32 bytes
    packed = (
        lanes[..., 0, :] | lanes[..., 1, :] << 2 | lanes[..., 2, :] << 4 | lanes[..., 3, :] << 6
    )
    return _joined(shape, scale | minimum << 4, packed, *_super_pair(scheme, cols, parts))


def _q4_k(scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]) -> Bytes:
    scale, minimum = _parameter_codes(scheme, cols, parts, 32)
    codes = _codes(scheme, cols, parts)
    shape = (codes.shape[0], cols // 256)
    lanes = codes.reshape(*shape, 4, 2, 32)
    packed = lanes[..., 0, :] | lanes[..., 1, :] << 4
    # The first four of each take the low 6 bits of a byte; the others' low halves share a byte,
    # their two high bits stand above the first ones.
    low_s, high_s = np.split(scale.reshape(*shape, 8), 2, axis=-1)
    low_m, high_m = np.split(minimum.reshape(*shape, 8), 2, axis=-1)
    parameters = (
        low_s | high_s >> 4 << 6,
        low_m | high_m >> 4 << 6,
        (high_s & 15) | (high_m & 15) << 4,
    )
    return _joined(shape, *_super_pair(scheme, cols, parts), *parameters, packed)


_ENCODERS = {"Q8_0": _q8_0, "Q4_1": _q4_1, "Q2_K": _q2_k, "Q4_K": _q4_k}


def _joined(shape: tuple[int, int], *fields: NDArray[Any]) -> Bytes:
    """The fields of each block side by side, [rows, blocks, bytes]."""
    rows, blocks = shape
    return np.concatenate(
        [field.reshape(rows, blocks, field.size // max(1, rows * blocks)) for field in fields], -1
    )


def _owner(cols: int, run: int, stored: int) -> NDArray[np.intp]:
    """Which run of `stored` weights each run of `run` weights lies in."""
    return np.arange(0, cols, run) // stored


def _half(values: NDArray[np.generic]) -> Bytes:
    """The bytes of f16 values [rows, n], as [rows, n, 2]."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 2)


def _super_pair(
    scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]
) -> tuple[Bytes, Bytes]:
    owner = _owner(cols, 256, scheme.super_block)
    return _half(parts["super_scale"])[:, owner], _half(parts["super_minimum"])[:, owner]


def _parameter_codes(
    scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]], run: int
) -> tuple[Bytes, Bytes]:
    """The scale and minimum code of each run of `run` weights, [rows, cols / run]."""
    groups = -(-cols // scheme.group_size)
    owner = _owner(cols, run, scheme.group_size)
    scale = unpack(parts["scale_codes"].view(np.uint8), scheme.scale_bits, groups)
    minimum = unpack(parts["minimum_codes"].view(np.uint8), scheme.minimum_bits, groups)
    return scale[:, owner], minimum[:, owner]


def _codes(scheme: Scheme, cols: int, parts: dict[str, NDArray[np.generic]]) -> Bytes:
    return unpack(parts["codes"].view(np.uint8), scheme.bit_width, cols)
