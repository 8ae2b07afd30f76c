"""What an input's statistics are, against plain NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq.calibration.statistics import (
    PERCENTILE_LEVELS,
    CalibratedInput,
    InputStatistics,
)
from thermoq.errors import InputError

ARRAYS = ("count", "minimum", "maximum", "percentiles", "rows")


def drawn(num_rows: int, num_columns: int, seed: int = 0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((num_rows, num_columns)) * draw.uniform(0.01, 30, num_columns)
    return (rows + draw.uniform(-5, 5, num_columns)).astype(np.float32)


def accumulated(
    rows: NDArray[np.float32], splits: list[int], *, rows_per_bin: int = 32, seed: int = 0
) -> CalibratedInput:
    statistics = InputStatistics(rows.shape[1], 3, rows_per_bin, seed, "layer")
    for part in np.split(rows, splits):
        statistics.add(1, part)
    return statistics.finish()


def test_they_equal_an_independent_computation() -> None:
    rows = drawn(3000, 70)
    rows[17, 3], rows[2999, 69] = -1e5, 7e4
    found = accumulated(rows, [1, 2, 900])
    wide = rows.astype(np.float64)
    assert found.count.tolist() == [0, 3000, 0]
    assert found.minimum[1] == rows.min()
    assert found.maximum[1] == rows.max()
    np.testing.assert_allclose(found.mean[1], wide.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.second_moment[1], (wide**2).mean(axis=0), rtol=1e-5)
    for unvisited in (0, 2):
        assert not any(np.any(getattr(found, name)[unvisited]) for name in ("mean", *ARRAYS))


def test_moments_do_not_cancel() -> None:
    """Values far from 0 in many batches: f32 sums would be off by far more than this."""
    rows = (1e4 + np.random.default_rng(1).standard_normal((40_000, 2))).astype(np.float32)
    found = accumulated(rows, list(range(100, 40_000, 100)))
    np.testing.assert_allclose(found.mean[1], rows.astype(np.float64).mean(axis=0), rtol=1e-7)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 3e4])
def test_percentiles_lie_within_a_bucket(spread: float) -> None:
    rows = drawn(4000, 16) * np.float32(spread)
    found = accumulated(rows, [10]).percentiles[1]
    true = np.percentile(rows.astype(np.float64), PERCENTILE_LEVELS)
    np.testing.assert_allclose(found, true, rtol=1 / 32, atol=1e-7)
    assert np.all(np.diff(found) >= 0)


def test_percentiles_of_one_value_are_that_value() -> None:
    found = accumulated(np.full((50, 4), 2.7, np.float32), []).percentiles[1]
    assert found.tolist() == [np.float32(2.7)] * len(PERCENTILE_LEVELS)
    assert not accumulated(np.zeros((50, 4), np.float32), []).percentiles.any()


def test_percentiles_reach_beyond_the_buckets() -> None:
    rows = np.array([[-1e12, 1e-12, 1e12, 1e13]], np.float32)
    found = accumulated(rows, []).percentiles[1]
    assert rows.min() <= found.min() <= found.max() <= rows.max()


@pytest.mark.parametrize("splits", [[1], [5, 6, 999], list(range(50, 1000, 50))])
def test_batches_change_nothing_but_the_last_digits_of_moments(splits: list[int]) -> None:
    rows = drawn(1000, 8)
    rows[700, 2] = 2e5  # a row that needs f32, after others were kept
    one, many = accumulated(rows, []), accumulated(rows, splits)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name), err_msg=name)
    np.testing.assert_allclose(one.mean, many.mean, rtol=1e-6)


def test_rows_are_a_seeded_sample() -> None:
    rows = np.arange(2000, dtype=np.float32).reshape(2000, 1)
    first = accumulated(rows, []).rows[1, :, 0]
    assert len(set(first.tolist())) == 32
    assert set(first.tolist()) <= set(range(2000))
    assert first.tolist() == accumulated(rows, [3]).rows[1, :, 0].tolist()
    assert first.tolist() != accumulated(rows, [], seed=1).rows[1, :, 0].tolist()


def test_every_row_is_as_likely_to_be_kept() -> None:
    rows = np.arange(100, dtype=np.float32).reshape(100, 1)
    times = np.zeros(100)
    for seed in range(400):
        kept = accumulated(rows, [50], rows_per_bin=10, seed=seed).rows[1, :, 0]
        times[kept.astype(int)] += 1
    # 400 draws of a tenth: 40 each, with a standard deviation of 6.
    assert times.min() > 15
    assert times.max() < 70
    assert abs(times[:50].sum() - 2000) < 150


def test_bins_and_inputs_have_samples_of_their_own() -> None:
    rows = np.arange(500, dtype=np.float32).reshape(500, 1)
    one = InputStatistics(1, 2, 8, 0, "one")
    other = InputStatistics(1, 2, 8, 0, "other")
    for statistics in (one, other):
        statistics.add(0, rows)
        statistics.add(1, rows)
    kept = [one.finish().rows[0], one.finish().rows[1], other.finish().rows[0]]
    assert len({array.tobytes() for array in kept}) == 3


def test_fewer_rows_than_asked_for_are_all_kept() -> None:
    rows = drawn(5, 3)
    found = accumulated(rows, [2])
    assert found.rows.shape == (3, 5, 3)
    assert found.num_rows.tolist() == [0, 5, 0]
    kept = np.sort(found.sample()[:, 0])
    np.testing.assert_array_equal(kept, np.sort(rows.astype(np.float16)[:, 0].astype(np.float32)))
    assert found.sample(slice(0, 1)).shape == (0, 3)
    assert accumulated(rows, [], rows_per_bin=0).rows.shape == (3, 0, 3)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(1.0, np.float16), (65504.0, np.float16), (7e4, np.float32), (1e-5, np.float32),
     (2.0**-10, np.float16), (0.0, np.float16)],
)  # fmt: skip
def test_rows_that_leave_f16_are_kept_in_f32(largest: float, dtype: type) -> None:
    rows = np.ones((6, 2), np.float32)
    rows[3] = largest
    found = accumulated(rows, [])
    assert found.rows.dtype == dtype
    assert np.any(found.sample() == np.float32(largest))


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "expected finite inputs, got 2 NaN and 0 infinite"),
     (-np.inf, "expected finite inputs, got 0 NaN and 2 infinite"),
     (2e18, "expected inputs within +-1e+18, got 2e+18")],
)  # fmt: skip
def test_what_is_not_a_number_is_refused(value: float, message: str) -> None:
    statistics = InputStatistics(2, 1, 4, 0, "layer")
    statistics.add(0, np.ones((2, 2), np.float32))
    with pytest.raises(InputError) as raised:
        statistics.add(0, np.array([[value, 1], [1, value]], np.float32))
    assert str(raised.value) == message
    assert statistics.count.tolist() == [2]  # nothing of it was taken in


def test_no_rows_are_nothing() -> None:
    statistics = InputStatistics(2, 1, 4, 0, "layer")
    statistics.add(0, np.empty((0, 2), np.float32))
    assert not statistics.finish().count.any()
    with pytest.raises(ValueError, match="2 columns"):
        statistics.add(0, np.ones((1, 3), np.float32))


@pytest.mark.parametrize("outlier", [False, True])
def test_it_goes_on_from_a_state(outlier: bool) -> None:
    rows = drawn(300, 5)
    rows[20, 0] = 1e6 if outlier else 1.0
    whole = accumulated(rows, [120])
    first = InputStatistics(5, 3, 32, 0, "layer")
    first.add(1, rows[:120])
    second = InputStatistics(5, 3, 32, 0, "layer")
    second.restore({key: array.copy() for key, array in first.state().items()})
    second.add(1, rows[120:])
    for name in ("mean", "second_moment", *ARRAYS):
        np.testing.assert_array_equal(getattr(whole, name), getattr(second.finish(), name))


def test_a_state_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="same shapes"):
        InputStatistics(5, 3, 8, 0, "layer").restore(InputStatistics(5, 2, 8, 0, "layer").state())


def test_importances_weigh_bins_by_their_rows() -> None:
    statistics = InputStatistics(2, 2, 4, 0, "layer")
    statistics.add(0, np.full((30, 2), 1, np.float32))
    statistics.add(1, np.array([[3, 0]] * 10, np.float32))
    assert statistics.finish().importances().tolist() == [3.0, 0.75]
