"""Time groups at the edges of bins: uniform ones, and those that follow the change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from calibrations import example_calibration, statistics_of
from thermoq.calibration.grouping import (
    first_bins_of,
    groups_of_bins,
    range_change,
    split_evenly,
    time_groups_from,
)
from thermoq.errors import UsageError


def test_uniform_groups_are_the_formulas() -> None:
    for num_bins, groups in itertools.product((1, 5, 20, 37), range(1, 21)):
        if groups > num_bins:
            continue
        rows = {0: np.ones((1, 2), np.float32)}
        calibration = example_calibration({"a": statistics_of(rows, num_bins=num_bins)})
        first = first_bins_of(calibration, groups, "uniform", {})
        expected = [bin * groups // num_bins for bin in range(num_bins)]
        assert [expected.index(group) for group in range(groups)] == first
        starts = time_groups_from(calibration, first).starts
        assert starts == tuple(calibration.bins.starts[bin] for bin in first)
        assert starts[0] == 999


def test_more_groups_than_bins() -> None:
    with pytest.raises(UsageError) as raised:
        first_bins_of(example_calibration(), 21, "uniform", {})
    assert str(raised.value) == (
        "expected --num-time-groups between 1 and 20 (the calibration's bins), got 21"
    )


def cost_of(change: np.ndarray, first_bins: tuple[int, ...]) -> float:
    steps = np.concatenate([[0.0], change])
    reached = np.append(np.cumsum(steps) - steps / 2, change.sum())
    ends = (*first_bins[1:], len(change) + 1)
    return float(
        sum((reached[end] - reached[b]) ** 2 for b, end in zip(first_bins, ends, strict=True))
    )


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(5))
def test_adaptive_groups_are_the_best_of_all(groups: int, seed: int) -> None:
    change = np.random.default_rng(seed).exponential(1, 8) ** 2
    found = split_evenly(change, groups)
    every = [(0, *rest) for rest in itertools.combinations(range(1, 9), groups - 1)]
    least = min(cost_of(change, candidate) for candidate in every)
    assert cost_of(change, tuple(found)) == pytest.approx(least, rel=1e-5)
    assert len(found) == groups


def test_groups_are_short_where_ranges_change() -> None:
    change = np.array([0.0] * 10 + [1.0] * 9)
    assert min(split_evenly(change, 4)[1:]) >= 10
    assert split_evenly(np.zeros(19), 4) == [0, 5, 10, 15]
    assert split_evenly(np.zeros(0), 1) == [0]


def test_change_is_relative_and_weighted() -> None:
    """A layer counts by its weights, whatever its unit; one that never changes counts nothing."""
    rows = np.array([[-1.0, 1.0]], np.float32)
    grows = statistics_of({bin: rows * (1 + (bin >= 2)) for bin in range(4)}, num_bins=4)
    large = statistics_of({bin: rows * 1000 * (1 + (bin >= 3)) for bin in range(4)}, num_bins=4)
    still = statistics_of(dict.fromkeys(range(4), rows), num_bins=4)
    calibration = example_calibration({"grows": grows, "large": large, "still": still})
    change = range_change(calibration, {"grows": 300, "large": 100, "still": 100, "unknown": 0})
    np.testing.assert_allclose(change, [0, 0.3, 0.1])
    assert first_bins_of(calibration, 2, "adaptive", {"grows": 1}) == [0, 2]
    assert first_bins_of(calibration, 2, "adaptive", {"large": 1}) == [0, 3]


def test_a_narrow_range_that_doubles_counts_as_a_wide_one() -> None:
    rows = np.array([[-1.0, 1.0]], np.float32)
    widths = (1, 2, 4, 8)
    doubles = statistics_of({bin: rows * w for bin, w in enumerate(widths)}, num_bins=4)
    change = range_change(example_calibration({"a": doubles}), {"a": 1})
    np.testing.assert_allclose(change, [0.5, 0.5, 0.5])
    rises = statistics_of({2: rows * 0, 3: rows}, num_bins=4)
    change = range_change(example_calibration({"a": rises}), {"a": 1})
    np.testing.assert_allclose(change, [0, 0, 1])


def test_zero_inputs_change_nothing() -> None:
    zero = statistics_of({0: np.zeros((2, 2), np.float32)}, num_bins=4)
    assert not range_change(example_calibration({"a": zero}), {"a": 5}).any()


def test_bins_of_groups() -> None:
    assert groups_of_bins([0, 3, 4], 6) == [slice(0, 3), slice(3, 4), slice(4, 6)]
