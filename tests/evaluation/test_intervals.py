"""Intervals of confidence by bootstrap over samples."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.evaluation.intervals import (
    NUM_REPLICATES,
    draws,
    figure,
    ratio,
    ratio_replicates,
    rounded,
)


def test_each_replicate_draws_as_many_samples_as_there_are() -> None:
    drawn = draws(13, seed=4)
    assert drawn.shape == (NUM_REPLICATES, 13)
    assert (drawn.sum(axis=1) == 13).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(13), abs=0.15)
    assert np.array_equal(drawn, draws(13, seed=4))
    assert not np.array_equal(drawn, draws(13, seed=5))


def test_a_ratio_is_that_of_the_sums() -> None:
    above, below = np.array([1.0, 2.0, 3.0]), np.array([4.0, 0.0, 8.0])
    found = ratio(above, below, draws(3, seed=0))
    assert found.value == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high
    with pytest.raises(ValueError, match="positive sum"):
        ratio(above, np.zeros(3), draws(3, seed=0))


def test_intervals_cover_the_truth_and_shrink_with_the_number_of_samples() -> None:
    widths, covered = {}, 0
    for count in (32, 512):
        for seed in range(40):
            values = np.random.default_rng([count, seed]).exponential(2.0, count)
            found = ratio(values, np.ones(count), draws(count, seed))
            widths.setdefault(count, []).append(found.high - found.low)
            covered += found.low <= 2.0 <= found.high
    assert np.mean(widths[32]) / np.mean(widths[512]) == pytest.approx(4.0, rel=0.15)
    assert 68 <= covered <= 80


def test_pairs_have_a_narrower_difference_than_their_own_intervals() -> None:
    random = np.random.default_rng(0)
    common = random.exponential(1.0, 64)
    one, other = common + random.normal(0, 0.01, 64), common + 0.1 + random.normal(0, 0.01, 64)
    drawn, ones = draws(64, seed=0), np.ones(64)
    first, second = (ratio_replicates(x, ones, drawn) for x in (one, other))
    difference = figure(float((other - one).mean()), second - first)
    alone = ratio(one, ones, drawn)
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)
    assert difference.low < 0.1 < difference.high


def test_a_centred_interval_is_around_its_value() -> None:
    replicates = np.linspace(2.0, 4.0, 101)
    assert figure(1.0, replicates).low == 1.0
    found = figure(1.0, replicates, centred=True)
    assert (found.low, found.high) == pytest.approx((0.05, 1.95))


def test_rounding_keeps_the_shape() -> None:
    assert rounded(np.array([[1 / 3, 0.0], [12345678.9, -2e-9]])) == [
        [0.3333333, 0.0],
        [12345680.0, -2e-09],
    ]
