"""What a layer's output loses: W^ x beside W x on the rows that a calibration kept.

The rows are those that `hessian` was fitted to, where it was used, so its figures are a little
better than those of rows it has not seen; all methods are measured on the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq.blas_threads import blas_threads_for
from thermoq.calibration.statistics import CalibratedInput

Floats = NDArray[np.float32]

_MOST_ROWS: Final = 256


@dataclass(frozen=True)
class OutputError:
    """||W^ X - W X||^2, ||W X||^2 and <W^ X, W X> over rows X of the layer's input."""

    squared_error: float
    source_energy: float
    decoded_energy: float

    @property
    def relative_squared_error(self) -> float:
        """Squared error over energy; 0 for an output of nothing but 0 that stays so."""
        if self.source_energy > 0.0:
            return self.squared_error / self.source_energy
        return 0.0 if self.squared_error == 0.0 else math.inf

    @property
    def cosine_similarity(self) -> float:
        """Of all outputs as one vector; 1 where both are 0, 0 where one is."""
        norms = math.sqrt(self.source_energy) * math.sqrt(self.decoded_energy)
        if norms == 0.0:
            return 1.0 if self.source_energy == self.decoded_energy else 0.0
        dot = (self.source_energy + self.decoded_energy - self.squared_error) / 2.0
        return min(1.0, max(-1.0, dot / norms))


def sampled_rows(calibrated: CalibratedInput) -> Floats:
    """Return at most 256 of the kept rows, evenly from all bins: [n, in]."""
    rows = calibrated.sample()
    places = np.linspace(0, max(0, len(rows) - 1), min(_MOST_ROWS, len(rows))).astype(np.intp)
    return rows[places]


def output_error(weights: Floats, decoded: Floats, rows: Floats) -> OutputError:
    """Measure what the output of `weights` [out, in] loses on `rows` [n, in]."""
    with blas_threads_for(weights.size):
        source = rows @ weights.T
        other = rows @ decoded.T
    return OutputError(
        float(np.square(other - source, dtype=np.float64).sum()),
        float(np.square(source, dtype=np.float64).sum()),
        float(np.square(other, dtype=np.float64).sum()),
    )
