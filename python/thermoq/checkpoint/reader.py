"""The bytes of tensors: memory-mapped, one tensor at a time, pages given back afterwards."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.header import read_header
from thermoq.checkpoint.strict_json import JsonObject
from thermoq.checkpoint.untrusted import bad_tensor, open_regular_file, reading

# Each mapping keeps a file descriptor, and a process often has only 1,024 of them.
MAX_MAPPED_FILES = 64


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `nbytes` bytes at `offset` (from the start of the file) of `path`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Component:
    """One model of a checkpoint: a folder's weights and their configuration.

    `name` is the folder's name, "" for the checkpoint's root. `config` is its config.json, None if
    it has none. `tensors` go by name, in the order of the files and of the bytes in them. `files`
    are the safetensors files that hold them, then their index if there is one. `stem` is what its
    loader calls the weights: "diffusion_pytorch_model" for `diffusion_pytorch_model.safetensors`,
    for its shards and for its variants.
    """

    directory: Path
    name: str
    config: JsonObject | None = field(repr=False)
    tensors: dict[str, StoredTensor] = field(repr=False)
    files: tuple[Path, ...]
    stem: str


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the safetensors file at `path`, by name, in the order of their bytes.

    Raises InputError as `read_header` does.
    """
    header = read_header(path)
    return {
        name: StoredTensor(
            name, info.dtype, info.shape, path, header.data_start + info.start, info.nbytes
        )
        for name, info in header.tensors.items()
    }


class MappedFiles:
    """Maps files when their first tensor is asked for and unmaps them on leaving the `with` block.

    A view that outlives the block stays valid: its file is unmapped with the last view. Not to be
    shared between threads. A file that another program shortens while it is mapped ends the process
    (SIGBUS), as with every reader that maps.
    """

    def __init__(self) -> None:
        self._mappings: dict[Path, mmap.mmap] = {}

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path in list(self._mappings):
            self._unmap(path)

    def bytes(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """The bytes of `tensor`, [nbytes]: a read-only view of the file, nothing is copied.

        The address is as unaligned as the offset in the file. Raises InputError if the file cannot
        be mapped or has become too short since its header was read.
        """
        if tensor.nbytes == 0:
            return np.frombuffer(b"", dtype=np.uint8)
        mapping = self._mapping(tensor)
        return np.frombuffer(mapping, np.uint8, count=tensor.nbytes, offset=tensor.offset)

    def release(self, tensor: StoredTensor) -> None:
        """Give the memory of the pages that hold `tensor` back; its views read them in again.

        Neighbours on the first and last page lose nothing either, since the file is never written.
        """
        mapping = self._mappings.get(tensor.path)
        if mapping is None or tensor.nbytes == 0 or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first_page = tensor.offset - tensor.offset % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, first_page, tensor.offset + tensor.nbytes - first_page)

    def _mapping(self, tensor: StoredTensor) -> mmap.mmap:
        path = tensor.path
        if path not in self._mappings:
            if len(self._mappings) >= MAX_MAPPED_FILES:
                self._unmap(next(iter(self._mappings)))
            with reading(path), open_regular_file(path) as file:
                # An empty file cannot be mapped, nor could it hold the tensor.
                if os.fstat(file.fileno()).st_size < tensor.offset + tensor.nbytes:
                    raise bad_tensor(path, tensor.name, "the file became shorter while in use")
                self._mappings[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mappings[path]

    def _unmap(self, path: Path) -> None:
        mapping = self._mappings.pop(path)
        # BufferError: a view is left; the last one to go takes the mapping with it.
        with contextlib.suppress(BufferError):
            mapping.close()
