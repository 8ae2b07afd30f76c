"""Which row parameters a layer gets: none, pooled, or per time group (DESIGN section 3).

They cost 32 bits a row and set. The cheapest wins that comes within 1 % of the best error on rows
that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from thermoq.optimization.inputs import Floats
from thermoq.optimization.row_fit import RowFit, RowMoments, gains, scaled, squared_error
from thermoq.terms import GainEstimator, RowChoice

TOLERANCE: Final = 0.01
CHEAPEST_FIRST: Final[tuple[RowChoice, ...]] = ("none", "pooled", "per_time_group")


def choose(errors: Mapping[RowChoice, float]) -> RowChoice:
    """Return the cheapest choice within 1 % of the best of `errors`."""
    enough = (1 + TOLERANCE) * min(errors.values())
    return next(c for c in CHEAPEST_FIRST if c in errors and errors[c] <= enough)


def relative_error(moments: RowMoments) -> Floats:
    """Return ||y^ - y||^2 / ||y||^2, [] or [groups]; 0 for an output of nothing but 0."""
    return _over_energy(squared_error(moments), moments)


class Purpose:
    """How far row parameters are from what their estimator is after, over ||y||^2.

    On moments of held-out rows. It is the output error of least squares: what no gain restores,
    `var(y) * (1 - corr^2)`, and the distance from the best gain and bias,
    `(gain - gain*)^2 * var(y^) + (mean(y) - gain * mean(y^) - bias)^2`, but with the gain* that
    the estimator would choose for these rows. By the plain error, a gain that restores what
    quantization shrank would look worse than none.
    """

    def __init__(self, moments: RowMoments, estimator: GainEstimator) -> None:
        self._moments = moments
        self._wanted = gains(
            moments.variance, moments.quantized_variance, moments.covariance, estimator
        )
        lost = moments.variance * (1 - np.square(moments.correlation))
        self._lost = lost.sum(axis=-1)

    def error(self, rows: RowFit | None) -> Floats:
        """Return the error with these gains and biases, or none; [] or [groups]."""
        moments = self._moments
        gain, bias = (1.0, 0.0) if rows is None else (rows.gain, rows.bias)
        off = np.square(gain - self._wanted) * moments.quantized_variance
        off += np.square(moments.mean - gain * moments.quantized_mean - bias)
        return _over_energy(self._lost + off.sum(axis=-1), moments)


def output_error(moments: RowMoments, rows: RowFit | None) -> Floats:
    """Return the relative output error with these gains and biases, or none; [] or [groups]."""
    return relative_error(moments if rows is None else scaled(moments, rows))


def _over_energy(error: Floats, moments: RowMoments) -> Floats:
    energy = moments.energy
    return np.divide(error, energy, out=np.zeros_like(energy), where=energy > 0)
