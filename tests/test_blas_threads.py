"""NumPy's BLAS keeps to one thread while a small layer is at work, and only then."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.blas_threads import SMALL_WEIGHTS, _controller, blas_threads_for
from threadpoolctl import threadpool_limits


def blas_threads() -> set[int]:
    # Of the libraries that were there at the first use: NumPy's; others may have come since.
    return {library["num_threads"] for library in _controller().info()}


@pytest.mark.parametrize(("num_weights", "expected"), [(SMALL_WEIGHTS - 1, 1), (SMALL_WEIGHTS, 2)])
def test_small_layers_get_one_thread(num_weights: int, expected: int) -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("a BLAS whose threads nobody can set, or one of a single thread")
        with blas_threads_for(num_weights):
            assert blas_threads() == {expected}
        assert blas_threads() == {2}
        with pytest.raises(KeyError), blas_threads_for(1):
            raise KeyError
        assert blas_threads() == {2}
