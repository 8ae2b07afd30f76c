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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq.optimization.inputs import Floats, Rows, bootstrap_counts
from thermoq.terms import GainEstimator

LEAST_CORRELATION: Final = 0.45
LEAST_DISTINCT_ROWS: Final = 16
GAIN_RANGE: Final = (0.5, 2.0)

_F16_MAX = float(np.finfo(np.float16).max)
_NO_VARIANCE = 1e-12  # of the mean square: what rounding leaves of a constant


@dataclass(frozen=True)
class RowMoments:
    """Means, variances and covariance of y and y^ over `count` rows of input, each f64 [out]."""

    count: int
    mean: Floats
    quantized_mean: Floats
    variance: Floats
    quantized_variance: Floats
    covariance: Floats
    distinct: bool = True

    @property
    def correlation(self) -> Floats:
        """Of y and y^; 0 where one of them does not vary."""
        product = self.variance * self.quantized_variance
        return np.divide(
            self.covariance, np.sqrt(product), out=np.zeros_like(product), where=product > 0
        )


def moments_of(output: Rows, quantized: Rows, *, distinct: bool = True) -> RowMoments:
    """Return the moments of y and y^ [n, out]; `distinct`: at least 16 of the inputs differ.

    Raises ValueError for no rows.
    """
    count = len(output)
    if not count:
        raise ValueError("expected at least one row")
    mean = output.mean(axis=0, dtype=np.float64)
    quantized_mean = quantized.mean(axis=0, dtype=np.float64)
    y = output - mean.astype(np.float32)
    q = quantized - quantized_mean.astype(np.float32)
    return RowMoments(
        count,
        mean,
        quantized_mean,
        _variance(y, mean),
        _variance(q, quantized_mean),
        np.einsum("ij,ij->j", y, q, dtype=np.float64) / count,
        distinct,
    )


def _variance(centred: Rows, mean: Floats) -> Floats:
    found: Floats = np.einsum("ij,ij->j", centred, centred, dtype=np.float64) / len(centred)
    return np.where(found > _NO_VARIANCE * np.square(mean), found, 0.0)


def merged(parts: Sequence[RowMoments]) -> RowMoments:
    """Return the moments over all rows of several sets of them.

    Raises ValueError for no sets.
    """
    if not parts:
        raise ValueError("expected the moments of at least one time group")
    weight = np.array([part.count for part in parts], np.float64)
    weight /= weight.sum()
    mean = weight @ [part.mean for part in parts]
    quantized_mean = weight @ [part.quantized_mean for part in parts]
    apart = [part.mean - mean for part in parts]
    quantized_apart = [part.quantized_mean - quantized_mean for part in parts]
    return RowMoments(
        sum(part.count for part in parts),
        mean,
        quantized_mean,
        weight @ [p.variance + np.square(a) for p, a in zip(parts, apart, strict=True)],
        weight
        @ [
            p.quantized_variance + np.square(a) for p, a in zip(parts, quantized_apart, strict=True)
        ],
        weight
        @ [
            part.covariance + a * b
            for part, a, b in zip(parts, apart, quantized_apart, strict=True)
        ],
        any(part.distinct for part in parts),
    )


@dataclass(frozen=True)
class RowFit:
    """Gains and biases of one set of rows, f64 [out] with values of f16.

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
    fitted = (moments.correlation >= LEAST_CORRELATION) & moments.distinct
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


def gain_variance(output: Rows, quantized: Rows, estimator: GainEstimator, seed: int) -> Floats:
    """Return the sampling variance of the gains, f64 [out], by bootstrap over the rows.

    In each replicate as many of the rows y, y^ [n, out] are drawn with replacement; their moments
    are products with the matrix of how often each was drawn. Clamped as the gains are.
    """
    counts = bootstrap_counts(len(output), seed)
    share = counts / np.float32(len(output))
    largest = max(float(np.abs(output).max()), float(np.abs(quantized).max())) or 1.0
    y, q = output / np.float32(largest), quantized / np.float32(largest)  # squares stay finite
    y -= y.mean(axis=0)
    q -= q.mean(axis=0)
    mean_y, mean_q = share @ y, share @ q
    drawn = gains(
        share @ np.square(y) - np.square(mean_y),
        share @ np.square(q) - np.square(mean_q),
        share @ (y * q) - mean_y * mean_q,
        estimator,
    )
    return np.asarray(drawn.var(axis=0, dtype=np.float64, ddof=1))


def scaled(moments: RowMoments, rows: RowFit) -> RowMoments:
    """Return the moments of y and gain * y^ + bias."""
    return replace(
        moments,
        quantized_mean=rows.gain * moments.quantized_mean + rows.bias,
        quantized_variance=np.square(rows.gain) * moments.quantized_variance,
        covariance=rows.gain * moments.covariance,
    )


def squared_error(moments: RowMoments) -> float:
    """Return the mean over rows of input of ||y^ - y||^2."""
    spread = moments.variance + moments.quantized_variance - 2 * moments.covariance
    off = np.square(moments.quantized_mean - moments.mean)
    return float((np.maximum(spread, 0.0) + off).sum())
