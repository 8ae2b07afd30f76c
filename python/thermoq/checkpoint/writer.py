"""Safetensors files written as their tensors come, sharded, with everything planned beforehand."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.header import DTYPE_BITS

# What transformers and diffusers ask of a file before they read it.
_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class StoredPart:
    """One tensor of a safetensors file: `name`, safetensors `dtype`, `shape`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return DTYPE_BITS[self.dtype] * math.prod(self.shape) // 8

    def header_entry(self, start: int) -> dict[str, object]:
        """What the file's header says of it, `start` bytes after the header."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "data_offsets": [start, start + self.nbytes],
        }

    def most_header_bytes(self, file_bytes: int) -> int:
        """What it adds to the header of a file of up to `file_bytes`, at most."""
        return len(_json_text({self.name: self.header_entry(file_bytes)})) - len("{}") + len(",")


@dataclass(frozen=True)
class WrittenFiles:
    """What `CheckpointWriter` made: the safetensors files, their bytes, those of the headers."""

    paths: tuple[Path, ...]
    total_bytes: int
    header_bytes: int


@dataclass(frozen=True)
class _Shard:
    path: Path
    parts: tuple[StoredPart, ...]

    def layout(self) -> tuple[bytes, dict[str, int]]:
        """Return the file's beginning (length and header) and each part's offset in the file.

        Wider types lie first, so that every tensor is aligned to its element.
        """
        ordered = sorted(self.parts, key=lambda part: -DTYPE_BITS[part.dtype])
        header: dict[str, object] = {"__metadata__": _METADATA}
        starts: dict[str, int] = {}
        end = 0
        for part in ordered:
            starts[part.name] = end
            header[part.name] = part.header_entry(end)
            end += part.nbytes
        text = _json_text(header)
        text += b" " * (-len(text) % 8)
        beginning = struct.pack("<Q", len(text)) + text
        return beginning, {name: len(beginning) + start for name, start in starts.items()}


def planned_files(
    directory: Path,
    stem: str,
    tensors: Mapping[str, Sequence[StoredPart]],
    max_shard_bytes: int,
    late: Sequence[StoredPart] = (),
) -> WrittenFiles:
    """Return what a `CheckpointWriter` of these arguments will make, to the byte.

    `late` are the parts of its late shard, where it has one.
    """
    shards = _shards(directory, stem, tensors, max_shard_bytes, bool(late))
    if late:
        shards[-1] = _Shard(shards[-1].path, tuple(late))
    headers = sum(len(shard.layout()[0]) for shard in shards)
    data = sum(part.nbytes for shard in shards for part in shard.parts)
    return WrittenFiles(tuple(shard.path for shard in shards), headers + data, headers)


class CheckpointWriter:
    """Writes a component's safetensors files into `directory`, one tensor at a time.

    `tensors` maps each tensor to the parts it is stored as, in the order of writing; a tensor's
    parts share a shard, and a shard holds at most `max_shard_bytes` unless one tensor needs more.
    Everything lies at an offset fixed beforehand, so nothing is held back. One file is open at a
    time. Use as a context manager; `OSError` passes through.

    With `late_shard` there is one shard more, the last, for what is known at the end only:
    `write_late` keeps it until `finish`.
    """

    def __init__(
        self,
        directory: Path,
        stem: str,
        tensors: Mapping[str, Sequence[StoredPart]],
        max_shard_bytes: int,
        *,
        late_shard: bool = False,
    ) -> None:
        self._directory = directory
        self._stem = stem
        self._shards = _shards(directory, stem, tensors, max_shard_bytes, late_shard)
        self._late: list[tuple[StoredPart, NDArray[np.uint8]]] | None = [] if late_shard else None
        self._tensors = tensors
        self._shard_of = {part.name: shard for shard in self._shards for part in shard.parts}
        self._open: tuple[Path, int] | None = None  # one at a time: a model may have hundreds
        self._offsets: dict[Path, dict[str, int]] = {}
        self._sizes: dict[Path, int] = {}
        self._header_bytes = 0
        self._written: set[str] = set()

    def __enter__(self) -> CheckpointWriter:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def write(self, tensor: str, arrays: Sequence[NDArray[np.generic]]) -> str:
        """Write the parts of `tensor` and return the SHA-256 of their bytes, one after another."""
        digest = hashlib.sha256()
        for part, array in zip(self._tensors[tensor], arrays, strict=True):
            data = _bytes_of(part, array)
            digest.update(data.data)
            self._put(part, data)
        return digest.hexdigest()

    def write_late(self, parts: Sequence[StoredPart], arrays: Sequence[NDArray[np.generic]]) -> str:
        """Keep `parts` for the late shard and return the SHA-256 of their bytes."""
        if self._late is None:
            raise ValueError(f"{parts[0].name}: expected a late shard, got none")
        digest = hashlib.sha256()
        for part, array in zip(parts, arrays, strict=True):
            data = _bytes_of(part, array).copy()
            digest.update(data.data)
            self._late.append((part, data))
        return digest.hexdigest()

    def finish(self) -> WrittenFiles:
        """Write the late shard, and the index if there are several shards.

        Every tensor must have been written.
        """
        if self._late is not None:
            self._write_late_shard(self._late)
        missing = self._shard_of.keys() - self._written
        if missing:
            raise ValueError(f"never written: {min(missing)}")
        if len(self._shards) > 1:
            weight_map = {name: shard.path.name for name, shard in self._shard_of.items()}
            total = sum(part.nbytes for shard in self._shards for part in shard.parts)
            write_index(self._directory, self._stem, weight_map, total)
        for shard in self._shards:
            if not shard.parts:
                self._opened(shard)
        self._close()
        paths = tuple(shard.path for shard in self._shards)
        return WrittenFiles(paths, sum(self._sizes.values()), self._header_bytes)

    def _put(self, part: StoredPart, data: NDArray[np.uint8]) -> None:
        shard = self._shard_of[part.name]
        descriptor = self._opened(shard)
        _write_at(descriptor, data.data, self._offsets[shard.path][part.name])
        self._written.add(part.name)

    def _write_late_shard(self, kept: Sequence[tuple[StoredPart, NDArray[np.uint8]]]) -> None:
        """Fix the last shard's offsets, now that all of it is known, and write it."""
        shard = _Shard(self._shards[-1].path, tuple(part for part, _ in kept))
        self._shards[-1] = shard
        self._shard_of |= {part.name: shard for part in shard.parts}
        for part, data in kept:
            self._put(part, data)

    def _opened(self, shard: _Shard) -> int:
        """Return the descriptor of a shard's file, made when it is first asked for."""
        if self._open is not None and self._open[0] == shard.path:
            return self._open[1]
        self._close()
        is_new = shard.path not in self._offsets
        flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if is_new else 0)
        descriptor = os.open(shard.path, flags, 0o644)
        self._open = shard.path, descriptor
        if is_new:
            beginning, self._offsets[shard.path] = shard.layout()
            self._header_bytes += len(beginning)
            _write_at(descriptor, memoryview(beginning), 0)
        return descriptor

    def _close(self) -> None:
        """Close the open file, if any, and note its size."""
        if self._open is None:
            return
        path, descriptor = self._open
        self._open = None
        try:
            self._sizes[path] = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


def write_index(directory: Path, stem: str, weight_map: Mapping[str, str], nbytes: int) -> None:
    """Write the index of shards: which of them holds each tensor; `nbytes` of tensors in all."""
    index = {"metadata": {"total_size": nbytes}, "weight_map": dict(sorted(weight_map.items()))}
    text = json.dumps(index, indent=2, ensure_ascii=False)
    path = directory / f"{stem}.safetensors.index.json"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def rewrite_shard(
    path: Path, parts: Sequence[StoredPart], arrays: Sequence[NDArray[np.generic]]
) -> None:
    """Put a small shard in the place of the one at `path`, at once."""
    beginning, offsets = _Shard(path, tuple(parts)).layout()
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(beginning)
        for part, array in sorted(
            zip(parts, arrays, strict=True), key=lambda pair: offsets[pair[0].name]
        ):
            file.write(_bytes_of(part, array).data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _bytes_of(part: StoredPart, array: NDArray[np.generic]) -> NDArray[np.uint8]:
    data = array.reshape(-1).view(np.uint8)
    if data.nbytes != part.nbytes:
        raise ValueError(f"{part.name}: expected {part.nbytes} bytes, got {data.nbytes}")
    return data


def _shards(
    directory: Path,
    stem: str,
    tensors: Mapping[str, Sequence[StoredPart]],
    max_shard_bytes: int,
    late_shard: bool,
) -> list[_Shard]:
    """Fill shards in the order of the tensors; the late one comes last, and empty."""
    groups: list[list[StoredPart]] = [[]]
    size = 0
    for parts in tensors.values():
        nbytes = sum(part.nbytes for part in parts)
        if groups[-1] and size + nbytes > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].extend(parts)
        size += nbytes
    if late_shard:
        groups.append([])
    if len(groups) == 1:
        return [_Shard(directory / f"{stem}.safetensors", tuple(groups[0]))]
    names = (f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1))
    return [
        _Shard(directory / name, tuple(group)) for name, group in zip(names, groups, strict=True)
    ]


def _json_text(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """pwrite until done: one call writes at most 2 GiB, and less on a full disk."""
    while data.nbytes:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
