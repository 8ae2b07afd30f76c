"""The output correction's mathematics, against float64 by other means."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq.optimization.correction import (
    GAIN_RANGE,
    NUM_BLOCKS,
    PredictionMoments,
    TemperatureMoments,
    fit_bins,
    fit_temperatures,
    held_out_divergence,
    held_out_error,
    nearest_visited,
)

ALL = np.ones(NUM_BLOCKS, bool)
Floats = NDArray[np.float64]


def predictions(bins: int, units: int, *, seed: int = 0, noise: float = 0.1) -> list[list[Floats]]:
    """Pairs of predictions [block][bin] -> [2, elements, units], the quantized one first."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_BLOCKS):
        of_block = []
        for bin in range(bins):
            y = random.standard_normal((20, units)) + random.standard_normal(units)
            q = (y - 0.3 * np.arange(units)) / (1.1 + 0.05 * bin)
            of_block.append(np.stack([q + noise * random.standard_normal(q.shape), y]))
        found.append(of_block)
    return found


def moments_of(pairs: list[list[Floats]]) -> PredictionMoments:
    moments = PredictionMoments.empty(len(pairs[0]), pairs[0][0].shape[2])
    for block, of_block in enumerate(pairs):
        for bin, (q, y) in enumerate(of_block):
            moments.add(block, bin, q, y)
    return moments


def test_gain_and_biases_are_those_of_least_squares() -> None:
    pairs = predictions(bins=3, units=4)
    fit = fit_bins(moments_of(pairs), ALL, coupling=0.0)
    assert fit.bias is not None
    for bin in range(3):
        q, y = np.concatenate([of_block[bin] for of_block in pairs], axis=1)
        # Unknowns: the gain, then the bias of each unit.
        design = np.concatenate([q.T.reshape(-1, 1), np.repeat(np.eye(4), len(q), axis=0)], axis=1)
        expected = np.linalg.lstsq(design, y.T.ravel(), rcond=None)[0]
        assert fit.gain[bin] == pytest.approx(expected[0], rel=1e-3)
        assert fit.bias[bin] == pytest.approx(expected[1:], abs=3e-3)
    assert (fit.gain == fit.gain.astype(np.float16)).all()
    assert (fit.bias == fit.bias.astype(np.float16)).all()


def test_errors_are_those_of_the_corrected_predictions() -> None:
    pairs = predictions(bins=2, units=3)
    moments = moments_of(pairs).of(ALL)
    gain, bias = np.array([1.2, 0.9]), np.arange(6.0).reshape(2, 3)
    expected = [
        sum(np.square(gain[b] * one[b][0] + bias[b] - one[b][1]).sum() for one in pairs)
        for b in range(2)
    ]
    assert moments.squared_error(gain, bias) == pytest.approx(expected, rel=1e-9)


def test_a_held_out_error_is_of_samples_that_were_not_fitted() -> None:
    exact = held_out_error(moments_of(predictions(4, 2, noise=0.0)), coupling=0.0)
    assert exact < 1e-3  # what rounding to f16 leaves
    usual = held_out_error(moments_of(predictions(4, 2)), coupling=1.0)
    assert 0.01 < usual < 0.5
    random = np.random.default_rng(0)
    unrelated = [[random.standard_normal((2, 1, 30)) for _ in range(2)] for _ in range(NUM_BLOCKS)]
    fitted = fit_bins(moments_of(unrelated), ALL, coupling=0.0)
    own = moments_of(unrelated).of(ALL)
    assert fitted.bias is not None
    plain = own.squared_error(np.ones(2), np.zeros((2, 30)))
    own_error = (own.squared_error(fitted.gain, fitted.bias) / plain).mean()
    assert held_out_error(moments_of(unrelated), coupling=0.0) > own_error


def test_coupling_pools_what_differs_by_chance_alone() -> None:
    random = np.random.default_rng(3)
    same = []
    for _ in range(NUM_BLOCKS):
        y = random.standard_normal((6, 4, 1))
        q = (y + 0.5 * random.standard_normal(y.shape)) / 1.3
        same.append([np.stack(pair) for pair in zip(q, y, strict=True)])
    moments = moments_of(same)
    apart = fit_bins(moments, ALL, coupling=0.0).gain
    together = fit_bins(moments, ALL, coupling=1.0)
    assert np.ptp(together.gain) < 0.5 * np.ptp(apart)
    drifting = fit_bins(moments_of(predictions(6, 2)), ALL, coupling=1.0)
    assert drifting.tau_squared is not None
    assert drifting.tau_squared > 0
    assert np.ptp(drifting.gain) > 0.15


def test_bins_that_were_not_visited_take_the_nearest_ones() -> None:
    assert nearest_visited(np.array([False, True, False, False, True])).tolist() == [1, 1, 1, 4, 4]
    assert nearest_visited(np.zeros(3, bool)).tolist() == [0, 1, 2]
    pairs = predictions(bins=5, units=2)
    moments = PredictionMoments.empty(5, 2)
    for block, of_block in enumerate(pairs):
        for bin in (1, 3):
            moments.add(block, bin, *of_block[bin])
    fit = fit_bins(moments, ALL, coupling=1.0)
    assert fit.bias is not None
    assert fit.gain[[0, 2, 4]].tolist() == fit.gain[[1, 1, 3]].tolist()
    assert np.array_equal(fit.bias[4], fit.bias[3])
    nothing = fit_bins(PredictionMoments.empty(2, 3), ALL, coupling=1.0)
    assert nothing.bias is not None
    assert nothing.gain.tolist() == [1.0, 1.0]
    assert not nothing.bias.any()
    assert held_out_error(PredictionMoments.empty(2, 3), 1.0) == np.inf


def test_gains_are_clamped() -> None:
    pairs = [[np.stack([one[0][1] * 100, one[0][1]])] for one in predictions(1, 2)]
    assert fit_bins(moments_of(pairs), ALL, coupling=1.0).gain[0] == GAIN_RANGE[0]
    pairs = [[np.stack([-one[0][1], one[0][1]])] for one in predictions(1, 2)]
    assert fit_bins(moments_of(pairs), ALL, coupling=1.0).gain[0] == GAIN_RANGE[0]


def log_softmax(z: Floats) -> Floats:
    shifted = z - z.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def test_the_temperature_has_the_least_divergence() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from thermoq.evaluation.output_correction import divergences

    random = np.random.default_rng(0)
    moments, pairs = TemperatureMoments.empty(2), []
    for block in range(NUM_BLOCKS):
        full = 3 * random.standard_normal((10, 30))
        quantized = full / 1.25 + 0.3 * random.standard_normal(full.shape)
        pairs.append((quantized, full))
        both = (torch.from_numpy(one) for one in (quantized, full))
        moments.add(block, 0, 10, *divergences(*both))
    z, target = (np.concatenate(one) for one in zip(*pairs, strict=True))
    p = np.exp(log_softmax(target))

    def divergence(gain: float) -> float:
        return float((p * (log_softmax(target) - log_softmax(gain * z))).sum())

    gains = np.linspace(0.8, 1.6, 1601)
    expected = gains[np.argmin([divergence(gain) for gain in gains])]
    fit = fit_temperatures(moments, ALL, coupling=1.0)
    assert fit.gain == pytest.approx([expected, expected], rel=3e-3)
    assert fit.bias is None
    assert 0.0 < held_out_divergence(moments, 1.0) < 1.0
