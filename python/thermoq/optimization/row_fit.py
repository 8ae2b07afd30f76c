"""Row gains and biases: y ~ gain * y^ + bias, with y = W x and y^ = W^ x~ (DESIGN section 7).

    unbiased        gain = var(y) / cov(y, y^)
    variance        gain = sqrt(var(y) / var(y^))
    least_squares   gain = cov(y, y^) / var(y^)
    bias = mean(y) - gain * mean(y^)

Low-bit weights shrink a layer's output, and least squares shrinks it further: it gives the smallest
error, and weakens what the next layers hear. The other two restore the response to y, or its
spread. Gains are clamped to [0.5, 2].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.optimization.inputs import Floats, Rows
from thermoq.terms import GainEstimator

LEAST_CORRELATION: Final = 0.45
LEAST_DISTINCT_ROWS: Final = 16
GAIN_RANGE: Final = (0.5, 2.0)

_F16_MAX = float(np.finfo(np.float16).max)
_NO_VARIANCE = 1e-12  # of the mean square: what rounding leaves of a constant
_MOST_VARIANCE = ((GAIN_RANGE[1] - GAIN_RANGE[0]) / 2) ** 2  # of a value within the range

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class RowMoments:
    """Moments of y and y^ over rows of input: f64 [out], or [groups, out].

    `count` i64 [] or [groups] rows; 0 of them leave all moments 0. `fourth` [5, ...] are those of
    yyyy, yyyy^, yyy^y^, yy^y^y^ and y^y^y^y^ about the means. `distinct` [] or [groups]: at least
    16 of the inputs differ.
    """

    count: Counts
    mean: Floats
    quantized_mean: Floats
    variance: Floats
    quantized_variance: Floats
    covariance: Floats
    fourth: Floats
    distinct: NDArray[np.bool_]

    @cached_property
    def correlation(self) -> Floats:
        """Of y and y^; 0 where one of them does not vary."""
        product = self.variance * self.quantized_variance
        return np.divide(
            self.covariance, np.sqrt(product), out=np.zeros_like(product), where=product > 0
        )

    @cached_property
    def energy(self) -> Floats:
        """The mean over rows of ||y||^2, [] or [groups]."""
        return np.asarray((self.variance + np.square(self.mean)).sum(axis=-1))

    def of(self, groups: int | slice | NDArray[np.bool_]) -> RowMoments:
        """Return the moments of some groups, or of one."""
        return RowMoments(
            np.asarray(self.count[groups]),
            self.mean[groups],
            self.quantized_mean[groups],
            self.variance[groups],
            self.quantized_variance[groups],
            self.covariance[groups],
            self.fourth[:, groups],
            np.asarray(self.distinct[groups]),
        )


def moments_of(
    output: Rows, quantized: Rows, *, distinct: bool = True, threads: int = 0
) -> RowMoments:
    """Return the moments of y and y^ [n, out] over all rows.

    Raises ValueError for no rows.
    """
    if not len(output):
        raise ValueError("expected at least one row")
    sizes = np.array([len(output)], np.int64)
    return moments_by_group(output, quantized, sizes, np.array([distinct]), threads).of(0)


def moments_by_group(
    output: Rows, quantized: Rows, sizes: Counts, distinct: NDArray[np.bool_], threads: int = 0
) -> RowMoments:
    """Return the moments of y and y^ [n, out] by group: the first `sizes[0]` rows, and so on."""
    found = _core.paired_moments(
        np.ascontiguousarray(output), np.ascontiguousarray(quantized), sizes, threads
    )
    mean, quantized_mean, variance, quantized_variance, covariance = found[:5]
    variance[variance <= _NO_VARIANCE * np.square(mean)] = 0.0
    quantized_variance[quantized_variance <= _NO_VARIANCE * np.square(quantized_mean)] = 0.0
    return RowMoments(
        sizes, mean, quantized_mean, variance, quantized_variance, covariance, found[5:], distinct
    )


def merged(groups: RowMoments) -> RowMoments:
    """Return the moments over the rows of all groups; `fourth` are left out, and 0.

    Raises ValueError for no rows.
    """
    total = np.asarray(groups.count.sum())
    if not total:
        raise ValueError("expected rows of at least one time group")
    weight = groups.count / total
    mean, quantized_mean = weight @ groups.mean, weight @ groups.quantized_mean
    apart, quantized_apart = groups.mean - mean, groups.quantized_mean - quantized_mean
    return RowMoments(
        total,
        mean,
        quantized_mean,
        weight @ (groups.variance + np.square(apart)),
        weight @ (groups.quantized_variance + np.square(quantized_apart)),
        weight @ (groups.covariance + apart * quantized_apart),
        np.zeros((5, *mean.shape)),
        np.asarray(groups.distinct.any()),
    )


@dataclass(frozen=True)
class RowFit:
    """Gains and biases, f64 [out] or [groups, out], with values of f16.

    `fitted` tells which could be estimated; the others have gain 1 and bias 0.
    """

    gain: Floats
    bias: Floats
    fitted: NDArray[np.bool_]


def fit_rows(moments: RowMoments, estimator: GainEstimator) -> RowFit:
    """Estimate gains and biases.

    Rows with a correlation below 0.45, without variance, or of fewer than 16 distinct inputs get
    gain 1 and bias 0: what they would be given is noise.
    """
    fitted = (moments.correlation >= LEAST_CORRELATION) & moments.distinct[..., None]
    gain = gains(moments.variance, moments.quantized_variance, moments.covariance, estimator)
    return with_gain(moments, gain, fitted)


def with_gain(moments: RowMoments, gain: Floats, fitted: NDArray[np.bool_]) -> RowFit:
    """Round gains to f16 and find the biases that belong to them, where `fitted`.

    A bias that f16 cannot hold leaves its row without both.
    """
    rounded = np.where(fitted, gain, 1.0).astype(np.float16).astype(np.float64)
    bias = moments.mean - rounded * moments.quantized_mean
    fitted = fitted & (np.abs(bias) <= _F16_MAX)
    bias = np.where(fitted, bias, 0.0).astype(np.float16).astype(np.float64)
    return RowFit(np.where(fitted, rounded, 1.0), bias, fitted)


def gains(
    variance: Floats, quantized_variance: Floats, covariance: Floats, estimator: GainEstimator
) -> Floats:
    """Return clamped gains; 1 where the moments do not allow one."""
    if estimator == "variance":
        over, under = variance, quantized_variance
    elif estimator == "unbiased":
        over, under = variance, covariance
    else:
        over, under = covariance, quantized_variance
    allowed = (variance > 0) & (quantized_variance > 0) & (covariance > 0)
    found = np.divide(over, under, out=np.ones_like(over), where=allowed)
    if estimator == "variance":
        found = np.sqrt(found)
    return np.minimum(np.maximum(found, GAIN_RANGE[0]), GAIN_RANGE[1])


def gain_variance(moments: RowMoments, estimator: GainEstimator) -> Floats:
    """Return the sampling variance of the gains that `fit_rows` finds, f64 like them.

    The infinitesimal jackknife (Jaeckel 1972), what a bootstrap over the rows comes to without its
    noise: the mean square of how a row moves the estimate, over the rows. A row with y and y^, both
    about their means, moves it by

        unbiased        (y^2 - gain y y^) / cov(y, y^)
        variance        gain / 2 (y^2 / var(y) - y^^2 / var(y^))
        least_squares   (y y^ - gain y^^2) / var(y^)

    No more than a value within the range of gains can have, and 0 where there is no estimate.
    """
    y, q, both = moments.variance, moments.quantized_variance, moments.covariance
    allowed = (y > 0) & (q > 0) & (both > 0)
    y, q, both = (np.where(allowed, part, 1.0) for part in (y, q, both))
    # of y^2, y y^ and y^^2 in what a row moves
    if estimator == "unbiased":
        a, b, c = 1 / both, -y / np.square(both), None
    elif estimator == "variance":
        half = np.sqrt(y / q) / 2
        a, b, c = half / y, None, -half / q
    else:
        a, b, c = None, 1 / q, -both / np.square(q)
    coefficients = [np.zeros_like(y) if part is None else part for part in (a, b, c)]
    spread = _mean_square(moments.fourth, *coefficients)
    rows = np.maximum(moments.count - 1, 1)[..., None]
    found = np.minimum(np.maximum(spread, 0.0) / rows, _MOST_VARIANCE)
    return np.where(allowed, found, 0.0)


def _mean_square(fourth: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    """Return the mean of (a y^2 + b y y^ + c y^^2)^2."""
    yyyy, yyyq, yyqq, yqqq, qqqq = fourth
    return np.asarray(
        a * (a * yyyy + 2 * b * yyyq) + (b * b + 2 * a * c) * yyqq + c * (2 * b * yqqq + c * qqqq)
    )


def scaled(moments: RowMoments, rows: RowFit) -> RowMoments:
    """Return the moments of y and gain * y^ + bias."""
    return replace(
        moments,
        quantized_mean=rows.gain * moments.quantized_mean + rows.bias,
        quantized_variance=np.square(rows.gain) * moments.quantized_variance,
        covariance=rows.gain * moments.covariance,
    )


def squared_error(moments: RowMoments) -> Floats:
    """Return the mean over rows of input of ||y^ - y||^2, [] or [groups]."""
    spread = moments.variance + moments.quantized_variance - 2 * moments.covariance
    off = np.square(moments.quantized_mean - moments.mean)
    return np.asarray((np.maximum(spread, 0.0) + off).sum(axis=-1))
