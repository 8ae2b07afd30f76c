"""Small matrices are multiplied on one thread.

NumPy's BLAS gives a product to all cores, and waits for the last of them. On a machine with other
work that is a time slice, for a product of microseconds: a run of small layers took seconds where
one thread needs tenths. One thread also adds in the same order on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

SMALL_WEIGHTS: Final = 1 << 19
"""Layers with fewer weights are small: a tenth of a second on one thread, with all steps."""


@contextmanager
def blas_threads_for(num_weights: int) -> Iterator[None]:
    """Keep NumPy's BLAS to one thread within the block, for a layer with so many weights if small.

    Not for threads that run at the same time: the setting is the process's.
    """
    if num_weights >= SMALL_WEIGHTS:
        yield
        return
    with _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
