"""Types of one value an element: which holds a tensor without loss, and the way there."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

PlainType = Literal["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"]
Bytes = NDArray[np.uint8]

PLAIN_BYTES: Final[dict[PlainType, int]] = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F64": 8,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
}

WIDENED: Final[dict[str, PlainType]] = {
    "BOOL": "I8",
    "U8": "I16",
    "U16": "I32",
    "U32": "I64",
    "F8_E4M3": "F16",
    "F8_E5M2": "F16",
}
"""Safetensors dtypes that ggml lacks, and the smallest of its types that has all their values."""

_NUMPY = {"BOOL": "u1", "U8": "u1", "U16": "<u2", "U32": "<u4"}
_NUMPY_TARGETS = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_CHUNK = 1 << 22


def floats(data: Bytes, dtype: str) -> NDArray[np.float32]:
    """Return F32, F16 or BF16 bytes (at any address) as f32 values, [n]."""
    if dtype == "F32":
        aligned = np.array(data) if data.ctypes.data % 4 else data
        return aligned.view(np.float32)
    words = np.array(data).view(np.uint16)
    if dtype == "F16":
        return words.view(np.float16).astype(np.float32)
    wide: NDArray[np.uint32] = words.astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32)


def fits_f16(data: Bytes, dtype: str) -> bool:
    """Whether f16 has every value of F32 or BF16 bytes; NaN may change its payload."""
    itemsize = 4 if dtype == "F32" else 2
    for start in range(0, data.size, _CHUNK * itemsize):
        values = floats(data[start : start + _CHUNK * itemsize], dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            back = values.astype(np.float16).astype(np.float32)
        same = (back.view(np.uint32) == values.view(np.uint32)) | (
            np.isnan(back) & np.isnan(values)
        )
        if not same.all():
            return False
    return True


def convert_plain(data: Bytes, dtype: str, target: PlainType) -> Bytes:
    """Return the bytes of a tensor of safetensors dtype `dtype` in a type that has its values."""
    if dtype == target:
        return data
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _FLOAT8[dtype][data].view(np.uint8)
    if dtype in _NUMPY:
        return np.array(data).view(_NUMPY[dtype]).astype(_NUMPY_TARGETS[target]).view(np.uint8)
    wanted = {"F16": "<f2", "F32": "<f4"}[target]
    with np.errstate(over="ignore", invalid="ignore"):
        return floats(data, dtype).astype(wanted).view(np.uint8)


def _float8(exponent_bits: int) -> NDArray[np.float16]:
    """The 256 values of float8: sign, exponent, mantissa; E4M3 has no infinities."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = codes >> mantissa_bits & (2**exponent_bits - 1)
    fraction = (codes & (2**mantissa_bits - 1)) / 2**mantissa_bits
    normal = (1 + fraction) * 2.0 ** (exponent - bias)
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), normal)
    special = exponent == 2**exponent_bits - 1
    if exponent_bits == 5:
        values = np.where(special, np.where(fraction == 0, np.inf, np.nan), values)
    else:
        values = np.where(codes & 127 == 127, np.nan, values)
    return np.where(codes >> 7, -values, values).astype("<f2")


_FLOAT8 = {"F8_E4M3": _float8(4), "F8_E5M2": _float8(5)}
