"""A fingerprint of a model's weights: equal if and only if (but for chance) every tensor is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

from thermoq.checkpoint import StoredTensor


class Fingerprint:
    """XXH3 (128 bits) over each tensor's name, dtype, shape and bytes, in any order of adding.

    Components count without their folders' names, so a transformer has the same fingerprint inside
    its pipeline and on its own; of several, it is over theirs. Not cryptographic: it tells models
    apart, it does not defend against an adversary.
    """

    def __init__(self) -> None:
        self._components: dict[str, list[str]] = {}

    def add(self, component: str, tensor: StoredTensor, data: NDArray[np.uint8]) -> None:
        """Take in one tensor with its bytes."""
        digest = xxhash.xxh3_128_hexdigest(data.data)
        shape = ",".join(map(str, tensor.shape))
        lines = self._components.setdefault(component, [])
        lines.append(f"{tensor.name} {tensor.dtype} [{shape}] {digest}")

    def value(self) -> str:
        """Return the fingerprint of what was added."""
        digests = [_of_lines(lines) for lines in self._components.values()]
        return "xxh3-128:" + (digests[0] if len(digests) == 1 else _of_lines(digests))


def _of_lines(lines: Iterable[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(lines)).encode())
