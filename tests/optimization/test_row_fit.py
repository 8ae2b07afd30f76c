"""Gains and biases against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq import _core
from thermoq.optimization.row_fit import (
    GAIN_RANGE,
    RowFit,
    fit_rows,
    gain_variance,
    merged,
    moments_by_group,
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
    groups = moments_by_group(y, q, np.array([70, 0, 130]), np.array([True, False, False]))
    assert np.array_equal(groups.of(0).variance, moments_of(y[:70], q[:70]).variance)
    assert not groups.mean[1].any()
    found = merged(groups)
    assert found.count == 200
    assert found.distinct
    for name in ("mean", "quantized_mean", "variance", "quantized_variance", "covariance"):
        assert np.allclose(getattr(found, name), getattr(whole, name), rtol=1e-5), name
    with pytest.raises(ValueError, match="at least one time group"):
        merged(groups.of(slice(1, 2)))


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
def test_the_jackknife_finds_the_variance_of_the_estimate(estimator: GainEstimator) -> None:
    """Against the spread of the gains over fresh samples of the same size."""
    y, q = outputs(60 * 400, 6)
    parts = zip(np.split(y, 400), np.split(q, 400), strict=True)
    spread = np.var([plain_gain(a, b, estimator) for a, b in parts], axis=0)
    groups = moments_by_group(y, q, np.full(400, 60), np.ones(400, np.bool_))
    found = gain_variance(groups, estimator)
    assert found.shape == (400, 6)
    assert found[:40].mean(axis=0) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_jackknife_is_how_far_rows_move_the_gain(estimator: GainEstimator) -> None:
    """Against the gains with a little more weight on one row at a time."""
    y, q = outputs(50, 4)
    more = 1e-5
    base = plain_gain(y, q, estimator)
    moved = []
    for row in range(50):
        weight = np.full(50, (1 - more) / 50)
        weight[row] += more
        a, b = (part - weight @ part for part in (y.astype(np.float64), q.astype(np.float64)))
        yy, qq, yq = (weight @ part for part in (a * a, b * b, a * b))
        gain = {"unbiased": yy / yq, "variance": np.sqrt(yy / qq), "least_squares": yq / qq}
        moved.append((gain[estimator] - base) / more)
    wanted = np.square(moved).mean(axis=0) / 49
    assert gain_variance(moments_of(y, q), estimator) == pytest.approx(wanted, rel=1e-2)


def test_variances_are_those_of_values_within_the_range() -> None:
    y, _ = outputs(20)
    draw = np.random.default_rng(2)
    q = (1e-3 * y + draw.standard_normal(y.shape)).astype(np.float32)
    found = gain_variance(moments_of(y, q), "unbiased")
    assert found.max() == ((GAIN_RANGE[1] - GAIN_RANGE[0]) / 2) ** 2
    assert not gain_variance(moments_of(y, -y), "unbiased").any()


def test_an_estimate_without_noise_has_no_variance() -> None:
    y, _ = outputs()
    exact = gain_variance(moments_of(y, (0.75 * y).astype(np.float32)), "least_squares")
    assert (exact < 1e-9).all()


def test_huge_outputs_stay_finite() -> None:
    y, q = outputs()
    huge = np.float32(1e24)
    assert np.allclose(
        gain_variance(moments_of(y * huge, q * huge), "unbiased"),
        gain_variance(moments_of(y, q), "unbiased"),
        rtol=1e-3,
    )
    assert np.isfinite(moments_of(y * huge, q * huge).covariance).all()


def test_moments_are_the_same_on_any_number_of_threads() -> None:
    y, q = outputs(900, 700)
    sizes = np.array([400, 500])
    one, two = (_core.paired_moments(y, q, sizes, threads) for threads in (1, 2))
    assert one.tobytes() == two.tobytes()
    with pytest.raises(ValueError, match="rows: expected 899 elements, got 900"):
        _core.paired_moments(y, q, np.array([399, 500]))
    with pytest.raises(ValueError, match="as many columns"):
        _core.paired_moments(y, q[:, 1:].copy(), sizes)
