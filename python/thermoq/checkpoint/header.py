"""The header of a safetensors file, read strictly.

A file is an unsigned 64-bit little-endian header length, that many bytes of JSON, and the tensors'
bytes laid end to end. The checks are those of the format's own reader (`safetensors/src/tensor.rs`
of huggingface/safetensors), plus the rules that it states and does not enforce: no key twice, the
header begins with `{`. It is read here, not through the safetensors package, because the package
hides the offsets, collapses duplicate names and has no errors that name the tensor.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermoq.checkpoint.strict_json import parse_json_object
from thermoq.checkpoint.untrusted import bad_file, bad_tensor, open_regular_file, reading, shown

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64  # as NumPy and PyTorch

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Every dtype name of safetensors 0.8 and the bits that one value takes."""

_LENGTH = struct.Struct("<Q")
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_LFS_POINTER = b"version "  # the first 8 bytes of "version https://git-lfs.github.com/spec/v1"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry; `start` and `end` count bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """A valid header: `tensors` in the order of their bytes, which begin at `data_start`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """Read and check the header of the safetensors file at `path`; tensor bytes are never touched.

    Raises InputError, naming the file and where possible the tensor, if the file cannot be read or
    breaks any rule of the format. Bytes may not overlap nor be left over, so a file that passes is
    as long as its tensors say. Empty tensors may lie anywhere.
    """
    with reading(path), open_regular_file(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        header_bytes = _header_length(path, file.read(_LENGTH.size), file_bytes)
        text = file.read(header_bytes)
    if not text.startswith(b"{"):
        raise bad_file(path, f"expected a header that begins with '{{', got {text[:8]!r}")
    entries = parse_json_object(text, path, part="header", strict=True)
    metadata = _checked_metadata(path, entries.pop("__metadata__", {}))
    tensors = [_checked_tensor(path, name, entry) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    data_start = _LENGTH.size + header_bytes
    _check_contiguous(path, tensors, data_start, file_bytes)
    return Header({tensor.name: tensor for tensor in tensors}, metadata, data_start, file_bytes)


def _header_length(path: Path, prefix: bytes, file_bytes: int) -> int:
    if len(prefix) < _LENGTH.size:
        raise bad_file(path, f"expected a safetensors file, got {len(prefix)} bytes, no header")
    if prefix == _LFS_POINTER:
        raise bad_file(path, "expected safetensors data, got a Git LFS pointer (git lfs pull?)")
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_HEADER_BYTES:
        limit = f"at most {MAX_HEADER_BYTES:,} bytes"
        raise bad_file(path, f"expected a header of {limit}, got a length of {length:,}")
    if length > file_bytes - _LENGTH.size:
        needed = _LENGTH.size + length
        raise bad_file(
            path, f"truncated: expected at least {needed} bytes for its header, got {file_bytes}"
        )
    return int(length)


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    # The keys of a JSON object are strings already.
    if isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values()):
        return metadata
    raise bad_file(path, f"expected __metadata__ to map strings to strings, got {shown(metadata)}")


def _checked_tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    """Check one entry by itself: its name, its keys, their types, its shape against its bytes."""
    if not name or not name.isprintable():
        raise bad_file(path, f"expected a tensor name of printable characters, got {shown(name)}")
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise bad_tensor(path, name, f"expected dtype, shape and data_offsets, got {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise bad_tensor(path, name, f"expected a safetensors dtype, got {shown(dtype)}")
    if not _is_list_of_sizes(shape):
        problem = f"expected a shape of non-negative integers, got {shown(shape)}"
        raise bad_tensor(path, name, problem)
    if not _is_list_of_sizes(offsets) or len(offsets) != 2:
        problem = f"expected data_offsets of two non-negative integers, got {shown(offsets)}"
        raise bad_tensor(path, name, problem)
    start, end = offsets
    if end < start:
        raise bad_tensor(path, name, f"expected data_offsets in order, got {shown(offsets)}")
    if len(shape) > MAX_DIMENSIONS:
        problem = f"expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}"
        raise bad_tensor(path, name, problem)
    # Empty dimensions too: an array library multiplies the others, and overflows.
    if math.prod(size or 1 for size in shape) * DTYPE_BITS[dtype] >= 2**63:
        raise bad_tensor(path, name, f"expected a shape below 2^63 bits, got {shown(shape)}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - start):
        needed = f"{bits // 8} bytes" if bits % 8 == 0 else f"whole bytes, not {bits} bits,"
        problem = f"expected {needed} for {dtype} {shown(shape)}, got {end - start} bytes"
        raise bad_tensor(path, name, problem)
    return TensorInfo(name, dtype, tuple(shape), start, end)


def _is_list_of_sizes(value: object) -> bool:
    # type(), since True is an instance of int.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_contiguous(
    path: Path, tensors: Iterable[TensorInfo], data_start: int, file_bytes: int
) -> None:
    """Check that `tensors`, sorted by offsets, lie end to end and fill the file exactly."""
    covered = last_offset = 0
    previous = ""
    for tensor in tensors:
        last_offset = max(last_offset, tensor.end)
        if tensor.nbytes == 0:
            continue  # owns no byte, so it can neither overlap nor leave a hole
        if tensor.start < covered:
            problem = f"its bytes {tensor.start} to {tensor.end} overlap those of {shown(previous)}"
            raise bad_tensor(path, tensor.name, problem)
        if tensor.start > covered:
            raise bad_tensor(
                path,
                tensor.name,
                f"expected its bytes to begin at {covered}, got {tensor.start}: a hole before it",
            )
        covered, previous = tensor.end, tensor.name
    if data_start + last_offset > file_bytes:
        needed = data_start + last_offset
        raise bad_file(path, f"truncated: expected {needed} bytes, got {file_bytes}")
    if data_start + covered < file_bytes:
        needed = data_start + covered
        left_over = f"a hole of {file_bytes - needed} bytes after the last tensor"
        raise bad_file(path, f"expected {needed} bytes, got {file_bytes}: {left_over}")
