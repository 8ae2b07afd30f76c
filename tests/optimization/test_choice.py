"""The choice of row parameters, and the errors that it goes by."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.optimization.choice import (
    choose,
    error_by_purpose,
    mean_error_by_purpose,
    mean_output_error,
    relative_error,
)
from thermoq.optimization.row_fit import RowFit, fit_rows, moments_of, scaled


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
    assert error_by_purpose(moments, rows, "least_squares") == pytest.approx(wanted, rel=1e-5)
    assert relative_error(scaled(moments, rows)) == pytest.approx(wanted, rel=1e-5)
    assert mean_output_error([moments, moments], [rows]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("estimator", ["unbiased", "variance", "least_squares"])
def test_no_estimator_is_better_than_its_own_fit(estimator: str) -> None:
    y, q = outputs()
    moments = moments_of(y, q)
    fit = fit_rows(moments, estimator)  # type: ignore[arg-type]
    least = error_by_purpose(moments, fit, estimator)  # type: ignore[arg-type]
    for gain, bias in ((0.95, 0.0), (1.05, 0.0), (1.0, 0.1)):
        other = RowFit(gain * fit.gain, fit.bias + bias, fit.fitted)
        assert error_by_purpose(moments, other, estimator) > least  # type: ignore[arg-type]
    assert error_by_purpose(moments, None, estimator) > least  # type: ignore[arg-type]


def test_errors_are_averaged_over_time_groups() -> None:
    y, q = outputs()
    first, second = moments_of(y, q), moments_of(y, y)
    fits = [fit_rows(first, "unbiased"), fit_rows(second, "unbiased")]
    found = mean_error_by_purpose([first, second], fits, "unbiased")
    assert found == pytest.approx(error_by_purpose(first, fits[0], "unbiased") / 2, rel=1e-3)
    nothing = moments_of(0 * y, 0 * q)
    assert mean_error_by_purpose([nothing], None, "unbiased") == 0.0
    assert mean_output_error([nothing], None) == 0.0
