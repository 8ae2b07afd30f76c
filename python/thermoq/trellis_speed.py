"""What an effort of `trellis` costs on the machine at hand, measured in a blink."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from thermoq.matrices import Matrix
from thermoq.trellis import WINDOW_BITS, quantize_trellis, trellis_scheme_for

_ROWS, _COLS = 256, 512  # columns are shared out among threads
_REPEATS: Final = 2
_BILLION: Final = 1e9


def minutes_per_billion(bit_width: int, threads: int = 0) -> dict[int, float]:
    """Return the minutes that encoding 10^9 weights takes, by effort.

    Of one random matrix, the faster of two runs; all efforts together take about a tenth of a
    second. What else a run does (reading, `hessian`'s matrix products) is not in it.
    """
    weights = np.random.default_rng(0).standard_normal((_ROWS, _COLS), np.float32)
    matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", _ROWS, _COLS)
    found = {}
    for effort, window_bits in WINDOW_BITS.items():
        scheme = trellis_scheme_for(_ROWS, _COLS, bit_width, window_bits)
        elapsed_s = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            quantize_trellis(matrix, scheme, threads=threads)
            elapsed_s.append(time.perf_counter() - started)
        found[effort] = min(elapsed_s) / 60 * _BILLION / weights.size
    return found
