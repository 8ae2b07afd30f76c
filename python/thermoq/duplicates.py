"""Tensors with identical bytes, which are stored once (the embedders that a DiT repeats per block).

Found before anything is written, because a file's header comes first. Only tensors that agree in
dtype, shape and treatment can be equal; a few sampled bytes rule most pairs out, and what is left
is compared whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint import MappedFiles, StoredTensor

_SAMPLE_BYTES = 64
_SAMPLES = 16
_COMPARED_AT_ONCE = 1 << 24


def find_duplicates(
    tensors: Mapping[str, StoredTensor], treatment: Mapping[str, Hashable], files: MappedFiles
) -> dict[str, str]:
    """Map each tensor that repeats an earlier one of the same `treatment` to that one."""
    candidates: dict[Hashable, list[StoredTensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.nbytes > 0:
            key = (tensor.dtype, tensor.shape, treatment[name])
            candidates[key].append(tensor)
    same_as: dict[str, str] = {}
    for alike in candidates.values():
        if len(alike) > 1:
            same_as.update(_among(alike, files))
    return same_as


def _among(alike: list[StoredTensor], files: MappedFiles) -> dict[str, str]:
    same_as: dict[str, str] = {}
    originals: dict[bytes, list[StoredTensor]] = defaultdict(list)
    for tensor in alike:
        earlier = originals[_sample(files.bytes(tensor))]
        files.release(tensor)  # a sampled byte may have mapped the 2 MB around it
        original = next((other for other in earlier if _equal(other, tensor, files)), None)
        if original is None:
            earlier.append(tensor)
        else:
            same_as[tensor.name] = original.name
    return same_as


def _sample(data: NDArray[np.uint8]) -> bytes:
    starts = np.linspace(0, max(0, data.size - _SAMPLE_BYTES), _SAMPLES).astype(np.int64)
    return b"".join(data[start : start + _SAMPLE_BYTES].tobytes() for start in starts)


def _equal(one: StoredTensor, other: StoredTensor, files: MappedFiles) -> bool:
    a, b = files.bytes(one), files.bytes(other)
    equal = all(
        np.array_equal(a[i : i + _COMPARED_AT_ONCE], b[i : i + _COMPARED_AT_ONCE])
        for i in range(0, a.size, _COMPARED_AT_ONCE)
    )
    files.release(one)
    files.release(other)
    return equal
