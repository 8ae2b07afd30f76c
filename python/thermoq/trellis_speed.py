"""What an effort of `trellis` costs on the machine at hand, measured in a blink."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from thermoq import _core
from thermoq.matrices import Matrix
from thermoq.trellis import WINDOW_BITS, TrellisScheme, quantize_trellis, trellis_scheme_for

_ROWS, _COLS = 256, 512  # columns are shared out among threads
_SWEPT_ROWS, _SWEPT_COLS, _SWEPT_BLOCK = 1024, 64, 256  # and here blocks of rows
_REPEATS: Final = 2
_BILLION: Final = 1e9


def minutes_per_billion(
    bit_width: int, threads: int = 0, *, by_hessian: bool = False
) -> dict[int, float]:
    """Return the minutes that encoding 10^9 weights takes, by effort.

    Of one random matrix, the faster of two runs; all efforts together take about a tenth of a
    second. `by_hessian`: of its sweep from column to column, in large layers. What else a run does
    is not in it: reading, the rotation, the matrix products of `hessian`, alike for all efforts.
    """
    prepare = _sweep if by_hessian else _plain
    found = {}
    for effort, window_bits in WINDOW_BITS.items():
        action, num_weights = prepare(bit_width, window_bits, threads)
        elapsed_s = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            action()
            elapsed_s.append(time.perf_counter() - started)
        found[effort] = min(elapsed_s) / 60 * _BILLION / num_weights
    return found


def _plain(bit_width: int, window_bits: int, threads: int) -> tuple[Callable[[], object], int]:
    weights = np.random.default_rng(0).standard_normal((_ROWS, _COLS), np.float32)
    matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", _ROWS, _COLS)
    scheme = trellis_scheme_for(_ROWS, _COLS, bit_width, window_bits)
    return partial(quantize_trellis, matrix, scheme, threads=threads), weights.size


def _sweep(bit_width: int, window_bits: int, threads: int) -> tuple[Callable[[], object], int]:
    weights = np.random.default_rng(0).standard_normal((_SWEPT_ROWS, _SWEPT_COLS), np.float32)
    factor = np.eye(_SWEPT_COLS, dtype=np.float32)
    scale = np.ones((_SWEPT_ROWS, 1), np.float32)
    groups = np.zeros(_SWEPT_COLS, np.int32)
    scheme = TrellisScheme(bit_width, window_bits, _SWEPT_COLS, _SWEPT_BLOCK)
    action = partial(
        _core.sweep_trellis, weights, factor, scale, groups, bit_width, window_bits, _SWEPT_BLOCK,
        scheme.table, threads,
    )  # fmt: skip
    return action, weights.size
