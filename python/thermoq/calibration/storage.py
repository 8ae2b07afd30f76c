"""Where the sampled rows lie: in memory, or in files if there are too many of them."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARE_OF_MEMORY = 0.125


class RowStorage:
    """Allocates arrays of zeros: in memory up to a limit, then in files beside the output.

    The files have no name, so nothing is left of them however the process ends. What an array holds
    does not depend on where it lies.
    """

    def __init__(self, directory: Path, limit_bytes: int | None = None) -> None:
        self._directory = directory
        self._left = (
            limit_bytes if limit_bytes is not None else int(_SHARE_OF_MEMORY * physical_memory())
        )

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array of zeros. Raises OSError if the disk is full."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes <= self._left or nbytes == 0:
            self._left -= nbytes
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self._directory) as file:
            os.posix_fallocate(
                file.fileno(), 0, nbytes
            )  # a full disk is told here, not by a signal
            return np.memmap(file, dtype, "r+", shape=shape)


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
