"""A fingerprint of a model's weights: equal if and only if (but for chance) every tensor is."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from thermoq.checkpoint import StoredTensor


class Fingerprint:
    """XXH3 (128 bits) over each tensor's name, dtype, shape and bytes, in any order of adding.

    Not cryptographic: it tells models apart, it does not defend against an adversary.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, component: str, tensor: StoredTensor, data: NDArray[np.uint8]) -> None:
        """Take in one tensor with its bytes."""
        digest = xxhash.xxh3_128_hexdigest(data.data)
        shape = ",".join(map(str, tensor.shape))
        self._lines.append(f"{component}/{tensor.name} {tensor.dtype} [{shape}] {digest}")

    def value(self) -> str:
        """Return the fingerprint of what was added."""
        return "xxh3-128:" + xxhash.xxh3_128_hexdigest("\n".join(sorted(self._lines)).encode())
