"""NumPy's BLAS keeps to one thread while a small layer is at work, and only then."""

from __future__ import annotations

import os
import subprocess
import sys

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


CODES = """
import sys, numpy as np
from thermoq.encodings import EncodingChoice, scheme_for
from thermoq.hessian import quantize_hessian
from thermoq.trellis_hessian import quantize_trellis_hessian
rng = np.random.default_rng(0)
weights = rng.standard_normal((96, 320)).astype(np.float32)
inputs = (rng.standard_normal((200, 320)) @ rng.standard_normal((320, 320))).astype(np.float32)
for encoding in ("affine", "coded", "trellis"):
    scheme = scheme_for(2, 320, EncodingChoice("hessian", encoding, effort=1), 96)
    if encoding == "trellis":
        parts = quantize_trellis_hessian(weights, scheme.trellis, inputs, by_activation=True)
    else:
        parts = quantize_hessian(weights, scheme, inputs, by_activation=True).parts
    sys.stdout.write(parts["codes"].tobytes().hex())
"""


def test_small_layers_have_the_same_codes_with_the_kernels_of_other_cpus() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", CODES],
            env={**os.environ, "OPENBLAS_CORETYPE": kernel},
            capture_output=True,
            check=True,
        ).stdout
        for kernel in ("Sandybridge", "Haswell", "Zen")
    }
    assert len(found) == 1
    assert len(found.pop()) > 3 * 96 * 320 // 4
