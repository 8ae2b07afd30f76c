"""Which row parameters a layer gets: none, pooled, or per time group (DESIGN section 3).

They cost 32 bits a row and set. The cheapest wins that comes within 1 % of the best error on rows
that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from thermoq.optimization.row_fit import RowFit, RowMoments, gains, scaled, squared_error
from thermoq.terms import GainEstimator, RowChoice

TOLERANCE: Final = 0.01
CHEAPEST_FIRST: Final[tuple[RowChoice, ...]] = ("none", "pooled", "per_time_group")


def choose(errors: Mapping[RowChoice, float]) -> RowChoice:
    """Return the cheapest choice within 1 % of the best of `errors`."""
    enough = (1 + TOLERANCE) * min(errors.values())
    return next(c for c in CHEAPEST_FIRST if c in errors and errors[c] <= enough)


def relative_error(moments: RowMoments) -> float:
    """Return ||y^ - y||^2 / ||y||^2; 0 for an output of nothing but 0."""
    energy = _energy(moments)
    return squared_error(moments) / energy if energy > 0 else 0.0


def error_by_purpose(moments: RowMoments, rows: RowFit | None, estimator: GainEstimator) -> float:
    """Return how far row parameters are from what their estimator is after, over ||y||^2.

    `moments` are of held-out rows. It is the output error of least squares: what no gain restores,
    `var(y) * (1 - corr^2)`, and the distance from the best gain and bias,
    `(gain - gain*)^2 * var(y^) + (mean(y) - gain * mean(y^) - bias)^2`, but with the gain* that
    the estimator would choose for these rows. By the plain error, a gain that restores what
    quantization shrank would look worse than none.
    """
    energy = _energy(moments)
    if energy <= 0:
        return 0.0
    gain = 1.0 if rows is None else rows.gain
    bias = 0.0 if rows is None else rows.bias
    wanted = gains(moments.variance, moments.quantized_variance, moments.covariance, estimator)
    lost = moments.variance * (1 - np.square(moments.correlation))
    off = np.square(gain - wanted) * moments.quantized_variance
    shift = np.square(moments.mean - gain * moments.quantized_mean - bias)
    return float((lost + off + shift).sum()) / energy


def mean_error_by_purpose(
    groups: Sequence[RowMoments], fits: Sequence[RowFit] | None, estimator: GainEstimator
) -> float:
    """Average `error_by_purpose` over time groups; `fits` are one or as many as groups."""
    return float(
        np.mean([error_by_purpose(m, _of(fits, g), estimator) for g, m in enumerate(groups)])
    )


def mean_output_error(groups: Sequence[RowMoments], fits: Sequence[RowFit] | None) -> float:
    """Average the relative output error over time groups."""
    found = []
    for g, moments in enumerate(groups):
        fit = _of(fits, g)
        found.append(relative_error(moments if fit is None else scaled(moments, fit)))
    return float(np.mean(found))


def _of(fits: Sequence[RowFit] | None, group: int) -> RowFit | None:
    return None if fits is None else fits[group if len(fits) > 1 else 0]


def _energy(moments: RowMoments) -> float:
    return float((moments.variance + np.square(moments.mean)).sum())
