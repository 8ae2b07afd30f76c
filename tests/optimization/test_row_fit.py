"""Gains and biases against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq.optimization.row_fit import (
    GAIN_RANGE,
    RowFit,
    fit_rows,
    gain_variance,
    merged,
    moments_of,
    scaled,
    squared_error,
    with_gain,
)
from thermoq.terms import GainEstimator

ESTIMATORS: tuple[GainEstimator, ...] = ("unbiased", "variance", "least_squares")
Rows = NDArray[np.float32]


def outputs(num_rows: int = 200, num_outputs: int = 20, seed: int = 0) -> tuple[Rows, Rows]:
    """y with a mean, and a y^ that is shrunk, shifted and noisy."""
    draw = np.random.default_rng(seed)
    y = draw.standard_normal((num_rows, num_outputs)) * draw.uniform(0.1, 9, num_outputs)
    y += draw.uniform(-5, 5, num_outputs)
    noise = draw.standard_normal(y.shape) * y.std(axis=0) * draw.uniform(0.05, 0.6, num_outputs)
    q = draw.uniform(0.6, 1.1, num_outputs) * y + noise + draw.standard_normal(num_outputs)
    return y.astype(np.float32), q.astype(np.float32)


def plain_gain(y: Rows, q: Rows, estimator: GainEstimator) -> NDArray[np.float64]:
    y64, q64 = y.astype(np.float64), q.astype(np.float64)
    covariance = ((y64 - y64.mean(0)) * (q64 - q64.mean(0))).mean(0)
    if estimator == "unbiased":
        gain = y64.var(0) / covariance
    elif estimator == "variance":
        gain = np.sqrt(y64.var(0) / q64.var(0))
    else:
        gain = covariance / q64.var(0)
    return np.clip(gain, 0.5, 2.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gains_and_biases_are_those_of_float64(estimator: GainEstimator) -> None:
    y, q = outputs()
    found = fit_rows(moments_of(y, q), estimator)
    wanted = plain_gain(y, q, estimator).astype(np.float16)
    assert found.fitted.all()
    assert np.abs(found.gain - wanted).max() <= 2.0**-10  # one step of f16, where halves meet
    assert (found.gain == wanted).mean() > 0.9
    bias = y.astype(np.float64).mean(0) - found.gain * q.astype(np.float64).mean(0)
    assert np.allclose(found.bias, bias, rtol=2.0**-10, atol=1e-5)
    assert np.array_equal(found.bias, found.bias.astype(np.float16))


def test_each_estimator_does_what_it_is_named_for() -> None:
    y, q = outputs(2000)
    moments = moments_of(y, q)
    done = {e: scaled(moments, fit_rows(moments, e)) for e in ESTIMATORS}
    assert np.allclose(done["unbiased"].covariance / moments.variance, 1, atol=2e-3)
    assert np.allclose(done["variance"].quantized_variance / moments.variance, 1, atol=2e-3)
    errors = {e: squared_error(m) for e, m in done.items()}
    assert errors["least_squares"] < errors["variance"] < errors["unbiased"]
    assert errors["least_squares"] < squared_error(moments)


def test_groups_merge_to_the_moments_of_all_rows() -> None:
    y, q = outputs()
    whole = moments_of(y, q)
    found = merged([moments_of(y[:70], q[:70]), moments_of(y[70:], q[70:])])
    assert found.count == 200
    for name in ("mean", "quantized_mean", "variance", "quantized_variance", "covariance"):
        assert np.allclose(getattr(found, name), getattr(whole, name), rtol=1e-5), name
    with pytest.raises(ValueError, match="at least one time group"):
        merged([])


def test_what_cannot_be_estimated_is_left_alone() -> None:
    y, q = outputs()
    y[:, 0] = 7.0  # constant
    q[:, 1] = 3.0
    q[:, 2] = np.random.default_rng(5).standard_normal(200)  # not correlated
    q[:, 3] = -y[:, 3]
    y[:, 4] = q[:, 4] = 0.0
    found = fit_rows(moments_of(y, q), "unbiased")
    assert found.fitted.tolist() == [False] * 5 + [True] * 15
    assert (found.gain[:5] == 1).all()
    assert (found.bias[:5] == 0).all()
    few = fit_rows(moments_of(y, q, distinct=False), "unbiased")
    assert not few.fitted.any()
    assert (few.gain == 1).all()
    with pytest.raises(ValueError, match="at least one row"):
        moments_of(y[:0], q[:0])


def test_gains_are_clamped() -> None:
    y, _ = outputs()
    for factor, limit in ((0.1, GAIN_RANGE[1]), (10.0, GAIN_RANGE[0])):
        found = fit_rows(moments_of(y, (factor * y).astype(np.float32)), "variance")
        assert (found.gain == limit).all()


def test_a_bias_beyond_f16_leaves_its_row_without_both() -> None:
    y, q = outputs()
    y[:, 0] += 1e6
    moments = moments_of(y, q)
    found = with_gain(moments, np.full(20, 1.1), np.ones(20, np.bool_))
    assert found.fitted.tolist() == [False] + [True] * 19
    assert (found.gain[0], found.bias[0]) == (1.0, 0.0)
    assert isinstance(found, RowFit)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_bootstrap_finds_the_variance_of_the_estimate(estimator: GainEstimator) -> None:
    """Against the spread of the gains over fresh samples of the same size."""
    y, q = outputs(60 * 400, 6)
    parts = zip(np.split(y, 400), np.split(q, 400), strict=True)
    spread = np.var([plain_gain(a, b, estimator) for a, b in parts], axis=0)
    halves = zip(np.split(y, 400)[:40], np.split(q, 400)[:40], strict=True)
    found = np.mean([gain_variance(a, b, estimator, 1) for a, b in halves], axis=0)
    assert found == pytest.approx(spread, rel=0.35)
    assert np.array_equal(
        gain_variance(y[:60], q[:60], estimator, 1), gain_variance(y[:60], q[:60], estimator, 1)
    )


def test_an_estimate_without_noise_has_no_variance() -> None:
    y, _ = outputs()
    exact = gain_variance(y, (0.75 * y).astype(np.float32), "least_squares", 0)
    assert (exact < 1e-9).all()


def test_huge_outputs_stay_finite() -> None:
    y, q = outputs()
    huge = np.float32(1e24)
    assert np.allclose(
        gain_variance(y * huge, q * huge, "unbiased", 0),
        gain_variance(y, q, "unbiased", 0),
        rtol=1e-3,
    )
    assert np.isfinite(moments_of(y * huge, q * huge).covariance).all()
