"""Small matrices are multiplied on one thread, and where it decides on codes in f64.

NumPy's BLAS gives a product to all cores, and waits for the last of them. On a machine with other
work that is a time slice, for a product of microseconds: a run of small layers took seconds where
one thread needs tenths. One thread also adds in the same order whatever the machine's cores are.
How its vector kernels add goes by the CPU; in f64 that is all but never seen in a sum rounded to
f32, so that small layers get the same codes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float32]

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


def product_for(num_weights: int) -> Callable[[Floats, Floats], Floats]:
    """Return how matrices are multiplied on behalf of a layer with so many weights: f32 to f32.

    For small layers in f64, rounded once.
    """
    return _in_f32 if num_weights >= SMALL_WEIGHTS else _by_f64


def _in_f32(a: Floats, b: Floats) -> Floats:
    product: Floats = a @ b
    return product


def _by_f64(a: Floats, b: Floats) -> Floats:
    product: Floats = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    return product


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
