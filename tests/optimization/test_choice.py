"""The choice of row parameters, and the errors that it goes by."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.optimization.choice import Purpose, choose, output_error, relative_error
from thermoq.optimization.row_fit import RowFit, fit_rows, moments_by_group, moments_of, scaled
from thermoq.terms import GainEstimator


def test_the_cheapest_within_one_percent_wins() -> None:
    assert choose({"none": 1.009, "pooled": 1.0, "per_time_group": 1.0}) == "none"
    assert choose({"none": 1.011, "pooled": 1.009, "per_time_group": 1.0}) == "pooled"
    assert choose({"none": 2.0, "pooled": 1.5, "per_time_group": 1.0}) == "per_time_group"
    assert choose({"none": 0.0, "pooled": 0.0}) == "none"


def outputs() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    draw = np.random.default_rng(0)
    y = draw.standard_normal((500, 8)) + 2
    return y.astype(np.float32), (0.8 * y + 0.3 * draw.standard_normal(y.shape)).astype(np.float32)


def test_least_squares_goes_by_the_plain_error() -> None:
    y, q = outputs()
    moments = moments_of(y, q)
    rows = RowFit(np.full(8, 1.125), np.full(8, 0.25), np.ones(8, np.bool_))
    wanted = np.square(1.125 * q + 0.25 - y).sum() / np.square(y).sum()
    assert Purpose(moments, "least_squares").error(rows) == pytest.approx(wanted, rel=1e-5)
    assert relative_error(scaled(moments, rows)) == pytest.approx(wanted, rel=1e-5)
    assert output_error(moments, rows) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("estimator", ["unbiased", "variance", "least_squares"])
def test_no_estimator_is_better_than_its_own_fit(estimator: GainEstimator) -> None:
    y, q = outputs()
    moments = moments_of(y, q)
    fit, purpose = fit_rows(moments, estimator), Purpose(moments, estimator)
    least = purpose.error(fit)
    for gain, bias in ((0.95, 0.0), (1.05, 0.0), (1.0, 0.1)):
        other = RowFit(gain * fit.gain, fit.bias + bias, fit.fitted)
        assert purpose.error(other) > least
    assert purpose.error(None) > least


def test_errors_go_by_time_group() -> None:
    y, q = outputs()
    both = np.concatenate([y, y]), np.concatenate([q, y])
    groups = moments_by_group(*both, np.array([500, 500]), np.ones(2, np.bool_))
    fits = fit_rows(groups, "unbiased")
    found = Purpose(groups, "unbiased").error(fits)
    first = fit_rows(moments_of(y, q), "unbiased")
    assert found[0] == pytest.approx(Purpose(moments_of(y, q), "unbiased").error(first))
    assert found[1] < 1e-3 * found[0]
    pooled = RowFit(fits.gain[0], fits.bias[0], fits.fitted[0])
    assert output_error(groups, pooled)[1] > output_error(groups, fits)[1]
    nothing = moments_of(0 * y, 0 * q)
    assert Purpose(nothing, "unbiased").error(None) == 0.0
    assert output_error(nothing, None) == 0.0
