"""The output correction: `y ~ gain[j] * y_q + bias[j]` in fine time bin `j` (DESIGN section 7).

y is the full-precision model's prediction and y_q the quantized one's. Least squares over all
passes of a bin, one gain for all channels and a bias for each unit, a channel or a position:

    gain[j]    = sum_u cov_u(y_q, y) / sum_u var_u(y_q)
    bias[j, u] = mean_u(y) - gain[j] mean_u(y_q)

A language model's logits get an inverse temperature: the gain with the least KL of full precision's
distribution to the quantized model's. Neighbouring bins are coupled as time groups are. Samples are
kept in eight blocks, for the sampling variance (jackknife: Efron 1979) and held-out errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq.optimization.coupling import couple

Floats = NDArray[np.float64]

NUM_BLOCKS: Final = 8
GAIN_RANGE: Final = (0.5, 2.0)
TEMPERATURE_GRID: Final[Floats] = np.exp2(np.linspace(-1.0, 1.0, 17))
"""Gains on logits at which derivatives are taken; between them they are nearly straight."""

_F16_MAX = float(np.finfo(np.float16).max)


@dataclass
class PredictionMoments:
    """Sums over elements of predictions, by block of samples and bin.

    `weight` [blocks, bins] counts elements of a unit; `quantized` and `full` [blocks, bins, units]
    are sums; the squares and the product [blocks, bins] are over all units.
    """

    weight: Floats
    quantized: Floats
    full: Floats
    quantized_square: Floats
    full_square: Floats
    product: Floats

    @classmethod
    def empty(cls, num_bins: int, num_units: int) -> PredictionMoments:
        """Return sums over nothing."""
        flat, deep = (NUM_BLOCKS, num_bins), (NUM_BLOCKS, num_bins, num_units)
        return cls(*(np.zeros(shape) for shape in (flat, deep, deep, flat, flat, flat)))

    def add(self, block: int, bin: int, quantized: Floats, full: Floats) -> None:
        """Add predictions [elements, units] of samples of one block in one bin."""
        at = block, bin
        self.weight[at] += len(full)
        self.quantized[at] += quantized.sum(axis=0)
        self.full[at] += full.sum(axis=0)
        self.quantized_square[at] += np.square(quantized).sum()
        self.full_square[at] += np.square(full).sum()
        self.product[at] += (quantized * full).sum()

    def of(self, blocks: NDArray[np.bool_]) -> BinMoments:
        """Return the moments over some blocks, by bin."""
        parts = (
            self.weight,
            self.quantized,
            self.full,
            self.quantized_square,
            self.full_square,
            self.product,
        )
        return BinMoments(*(part[blocks].sum(axis=0) for part in parts))


@dataclass(frozen=True)
class BinMoments:
    """`PredictionMoments` over blocks: [bins], sums [bins, units]."""

    weight: Floats
    quantized: Floats
    full: Floats
    quantized_square: Floats
    full_square: Floats
    product: Floats

    def gain(self) -> Floats:
        """Return the least-squares gain of each bin, clamped; 1 where nothing varies."""
        weight = np.maximum(self.weight, 1.0)
        variance = self.quantized_square - np.square(self.quantized).sum(1) / weight
        covariance = self.product - (self.quantized * self.full).sum(1) / weight
        able = variance > 1e-12 * self.quantized_square
        found = np.divide(covariance, variance, out=np.ones_like(variance), where=able)
        return np.asarray(np.clip(found, *GAIN_RANGE))

    def bias(self, gain: Floats) -> Floats:
        """Return the biases [bins, units] that belong to gains [bins]."""
        weight = np.maximum(self.weight, 1.0)[:, None]
        return np.asarray((self.full - gain[:, None] * self.quantized) / weight)

    def squared_error(self, gain: Floats, bias: Floats) -> Floats:
        """Return `||gain * y_q + bias - y||^2` of each bin."""
        found = (
            np.square(gain) * self.quantized_square
            + self.full_square
            - 2.0 * gain * self.product
            + self.weight * np.square(bias).sum(1)
            + 2.0 * (bias * (gain[:, None] * self.quantized - self.full)).sum(1)
        )
        return np.asarray(np.maximum(found, 0.0))


@dataclass(frozen=True)
class FittedBins:
    """Gains [bins] and biases [bins, units] (None: logits), with values that f16 holds."""

    gain: Floats
    bias: Floats | None
    tau_squared: float | None


def fit_bins(moments: PredictionMoments, blocks: NDArray[np.bool_], coupling: float) -> FittedBins:
    """Fit gains and biases to some blocks of samples.

    Bins that none of them came to take what the nearest one has.
    """
    whole = moments.of(blocks)
    visited = whole.weight > 0
    left_out = [moments.of(one) for one in _leave_one_out(blocks & (moments.weight.sum(1) > 0))]
    gain, tau_squared = _coupled(whole.gain(), [one.gain() for one in left_out], visited, coupling)
    gain = _as_f16(gain)
    bias = _as_f16(whole.bias(gain))  # of the coupled gain; coupling biases, too, gains nothing
    near = nearest_visited(visited)
    return FittedBins(gain[near], bias[near], tau_squared)


def held_out_error(moments: PredictionMoments, coupling: float) -> float:
    """Return the error on each half of the blocks, fitted on the other, over that of y_q itself.

    The mean over bins: the last ones would outweigh all others in a sum.
    """
    ratios = []
    for fitted in _halves(moments.weight.sum(1) > 0):
        fit = fit_bins(moments, fitted, coupling)
        other = moments.of(~fitted)
        assert fit.bias is not None
        ratios.append(_ratios(other, fit.gain, fit.bias))
    return float(np.concatenate(ratios).mean()) if ratios else np.inf


def _ratios(moments: BinMoments, gain: Floats, bias: Floats) -> Floats:
    plain = moments.squared_error(np.ones_like(gain), np.zeros_like(bias))
    found = moments.squared_error(gain, bias)
    counted = plain > 1e-12 * moments.full_square
    return np.asarray(found[counted] / plain[counted])


# Logits.


@dataclass
class TemperatureMoments:
    """KL of full precision's distribution to softmax(gain * logits), and its derivative.

    Sums over masked tokens at the gains of `TEMPERATURE_GRID`, [blocks, bins, gains]; `tokens`
    [blocks, bins].
    """

    tokens: Floats
    divergence: Floats
    derivative: Floats

    @classmethod
    def empty(cls, num_bins: int) -> TemperatureMoments:
        """Return sums over nothing."""
        deep = NUM_BLOCKS, num_bins, len(TEMPERATURE_GRID)
        return cls(np.zeros(deep[:2]), np.zeros(deep), np.zeros(deep))

    def add(
        self, block: int, bin: int, tokens: int, divergence: Floats, derivative: Floats
    ) -> None:
        """Add the sums over `tokens` tokens, each [gains]."""
        self.tokens[block, bin] += tokens
        self.divergence[block, bin] += divergence
        self.derivative[block, bin] += derivative


def fit_temperatures(
    moments: TemperatureMoments, blocks: NDArray[np.bool_], coupling: float
) -> FittedBins:
    """Fit the gain of each bin to some blocks of samples: the zero of a derivative that rises."""
    visited = moments.tokens[blocks].sum(0) > 0
    filled = blocks & (moments.tokens.sum(1) > 0)
    gain, tau_squared = _coupled(
        _zeros(moments.derivative[blocks].sum(0)),
        [_zeros(moments.derivative[one].sum(0)) for one in _leave_one_out(filled)],
        visited,
        coupling,
    )
    return FittedBins(_as_f16(gain)[nearest_visited(visited)], None, tau_squared)


def held_out_divergence(moments: TemperatureMoments, coupling: float) -> float:
    """Return the KL on each half of the blocks, fitted on the other, over that without a gain."""
    found = plain = 0.0
    one = np.ones(moments.tokens.shape[1])
    for fitted in _halves(moments.tokens.sum(1) > 0):
        gain = fit_temperatures(moments, fitted, coupling).gain
        found += float(_divergences(moments, ~fitted, gain).sum())
        plain += float(_divergences(moments, ~fitted, one).sum())
    return found / plain if plain > 0 else np.inf


def _zeros(derivative: Floats) -> Floats:
    """Return where the derivative [bins, gains] is 0, linear between the gains of the grid."""
    result = np.ones(len(derivative))
    for bin, row in enumerate(derivative):
        if row.any():
            rising = np.maximum.accumulate(row)
            result[bin] = np.interp(0.0, rising, TEMPERATURE_GRID)
    return result


def _divergences(moments: TemperatureMoments, blocks: NDArray[np.bool_], gain: Floats) -> Floats:
    """Return the KL of each bin at its gain: the cubic through values and slopes of the grid."""
    values, slopes = moments.divergence[blocks].sum(0), moments.derivative[blocks].sum(0)
    grid = TEMPERATURE_GRID
    right = np.clip(np.searchsorted(grid, gain), 1, len(grid) - 1)
    bins, width = np.arange(len(gain)), grid[right] - grid[right - 1]
    u = (gain - grid[right - 1]) / width
    a, b = values[bins, right - 1], values[bins, right]
    da, db = slopes[bins, right - 1] * width, slopes[bins, right] * width
    rise = b - a
    at_gain: Floats = a + u * (da + u * ((3 * rise - 2 * da - db) + u * (da + db - 2 * rise)))
    return at_gain


# What both have in common.


def nearest_visited(visited: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each bin the nearest one that was visited, the noisier of two; itself if none."""
    places = np.flatnonzero(visited)
    if not len(places):
        return np.arange(len(visited))
    distance = np.abs(places[None] - np.arange(len(visited))[:, None])
    found: NDArray[np.int64] = places[distance.argmin(1)]
    return found


def _coupled(
    values: Floats, left_out: list[Floats], visited: NDArray[np.bool_], coupling: float
) -> tuple[Floats, float | None]:
    """Couple values [bins] over the bins that were visited."""
    if len(left_out) < 2 or len(values) < 2:
        return values, None
    variance = _jackknife(np.stack(left_out))
    linked = np.ones(len(values) - 1, bool)
    coupled = couple(values[None], variance[None], coupling, linked, visited[None])
    return np.clip(coupled.values[0], *GAIN_RANGE), coupled.tau_squared


def _jackknife(left_out: Floats) -> Floats:
    """Return the sampling variance of an estimate from those without one block, [blocks, ...]."""
    blocks = len(left_out)
    apart = left_out - left_out.mean(axis=0)
    return np.asarray((blocks - 1) / blocks * np.square(apart).sum(axis=0))


def _leave_one_out(blocks: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    chosen = np.flatnonzero(blocks)
    if len(chosen) < 2:
        return []
    return [blocks & (np.arange(len(blocks)) != one) for one in chosen]


def _halves(filled: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the two sets of blocks to fit to in turn; none with too few of them."""
    places = np.flatnonzero(filled)
    if len(places) < 2:
        return []
    first = np.zeros(len(filled), bool)
    first[places[::2]] = True
    return [first, ~first]


def _as_f16(values: Floats) -> Floats:
    clipped = np.clip(values, -_F16_MAX, _F16_MAX)
    return np.asarray(clipped.astype(np.float16).astype(np.float64))
