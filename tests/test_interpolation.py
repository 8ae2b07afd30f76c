"""Schedules over timesteps, and the values that they put in force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thermoq.errors import UsageError
from thermoq.interpolation import (
    TimeSchedule,
    clamped_boundaries,
    default_windows,
    group_widths,
    piecewise,
    shape,
    smoothed,
    window_limits,
)
from thermoq.schedule import TimeGroups, uniform_time_groups
from thermoq.terms import INTERPOLATIONS, Interpolation
from thermoq.time_parameters import RowParameters, activation_at

RAGGED = TimeGroups(1000, (999.0, 899.0, 400.5, 399.0))  # 100, 498.5, 1.5 and 400 timesteps


def logistic(u: float) -> float:
    return 1 / (1 + math.exp(-12 * (u - 0.5)))


def fraction_at(kind: str, u: float) -> float:
    """The formulas of the design, one number at a time."""
    if kind == "linear":
        return u
    if kind == "cubic":
        return u * u * (3 - 2 * u)
    return (logistic(u) - logistic(0)) / (logistic(1) - logistic(0))


def test_widths_and_limits() -> None:
    assert group_widths(RAGGED) == (100.0, 498.5, 1.5, 400.0)
    assert window_limits(RAGGED) == (50.0, 0.75, 0.75)
    assert window_limits(uniform_time_groups(1000, 4)) == (125.0, 125.0, 125.0)
    assert window_limits(uniform_time_groups(1000, 1)) == ()


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_values_between_two_groups(kind: Interpolation) -> None:
    schedule = smoothed(uniform_time_groups(1000, 4), kind, 100.0)
    assert schedule.windows == (100.0, 100.0, 100.0)
    for t in (649.0, 648.5, 600.0, 549.25, 499.0, 420.0, 399.5, 399.0):
        group, fraction = schedule.blend(t)
        u = (499.0 + 100.0 - t) / 200.0
        if 0 < u < 1:
            assert group == 1
            assert fraction == pytest.approx(fraction_at(kind, u), rel=1e-12)
        else:
            assert (group, fraction) == (1 if u <= 0 else 2, 0.0)
    group, fraction = schedule.blend(499.0)
    assert group == 1
    assert fraction == pytest.approx(0.5, rel=1e-15)


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_shapes_begin_at_0_end_at_1_and_rise(kind: Interpolation) -> None:
    u = np.linspace(0, 1, 1001)
    f = shape(kind, u)
    assert (f[0], f[-1]) == (0.0, 1.0)
    assert (np.diff(f) > 0).all()
    np.testing.assert_allclose(f + f[::-1], 1.0, atol=1e-15)


@pytest.mark.parametrize("groups", [RAGGED, uniform_time_groups(1000, 7), TimeGroups(1, (0.0,))])
def test_piecewise_constant_is_the_groups(groups: TimeGroups) -> None:
    end = groups.num_timesteps
    for t in np.arange(0, end, 0.25):
        assert piecewise(groups).blend(t) == (groups.group_of(t), 0.0)


@given(
    starts=st.sets(st.integers(0, 998), min_size=1, max_size=12),
    kind=st.sampled_from(INTERPOLATIONS),
    window=st.one_of(st.none(), st.floats(0, 2000)),
    t=st.floats(0, 1000, exclude_max=True),
)
@settings(deadline=None)
def test_any_schedule(
    starts: set[int], kind: Interpolation, window: float | None, t: float
) -> None:
    groups = TimeGroups(1000, (999.0, *sorted(map(float, starts), reverse=True)))
    schedule = smoothed(groups, kind, window)
    group, fraction = schedule.blend(t)
    assert 0 <= fraction < 1
    bounds = itertools.pairwise((math.inf, *groups.starts[1:], -math.inf))
    near = [
        i
        for i, b in enumerate(groups.starts[1:])
        if b - schedule.window(i) < t < b + schedule.window(i)
    ]
    if near and fraction:
        assert group in near
        b, w = groups.starts[group + 1], schedule.window(group)
        assert fraction == pytest.approx(fraction_at(kind, (b + w - t) / (2 * w)), abs=1e-9)
    elif not near:
        assert fraction == 0
        low, high = list(bounds)[group][::-1]
        assert low < t <= high


def test_arrays_give_what_numbers_give() -> None:
    schedule = smoothed(RAGGED, "sigmoid")
    t = np.linspace(0, 999.9, 5000).reshape(50, 100)
    group, fraction = schedule.blends(t)
    assert group.shape == fraction.shape == (50, 100)
    for at in itertools.product(range(0, 50, 7), range(100)):
        assert schedule.blend(t[at]) == (group[at], fraction[at])


@pytest.mark.parametrize("t", [-0.001, 1000.0, math.nan, math.inf])
@pytest.mark.parametrize("schedule", [piecewise(RAGGED), smoothed(RAGGED, "linear")])
def test_outside_the_trajectory(schedule: TimeSchedule, t: float) -> None:
    for error in (UsageError, ValueError):
        with pytest.raises(error, match=r"expected a timestep in \[0, 1000\), got"):
            schedule.blend(t)
    assert schedule.blend(999.999)[0] == 0
    assert schedule.blend(0.0)[0] == 3


def test_wide_windows_are_clamped_and_named() -> None:
    schedule = smoothed(RAGGED, "cubic", 20.0)
    assert schedule.windows == (20.0, 0.75, 0.75)
    assert clamped_boundaries(RAGGED, 20.0) == (1, 2)
    assert clamped_boundaries(RAGGED, 0.75) == ()
    assert clamped_boundaries(RAGGED, None) == ()
    assert smoothed(RAGGED, "cubic", 1e9).windows == window_limits(RAGGED)
    assert smoothed(RAGGED, "cubic").windows == default_windows(RAGGED) == (25.0, 0.375, 0.375)


def test_nothing_to_smooth() -> None:
    single = uniform_time_groups(1000, 1)
    assert smoothed(single, "linear") == piecewise(single)
    assert smoothed(RAGGED, "linear", 0.0) == piecewise(RAGGED)
    assert not piecewise(RAGGED).is_smoothed
    assert smoothed(RAGGED, "linear").is_smoothed


@pytest.mark.parametrize("window", [-1.0, math.inf, math.nan])
def test_windows_that_cannot_be(window: float) -> None:
    with pytest.raises(UsageError, match="expected --window of 0 timesteps or more, got"):
        smoothed(RAGGED, "linear", window)


@pytest.mark.parametrize(
    ("interpolation", "windows", "message"),
    [
        ("linear", (1.0,), "expected 3 windows, got 1"),
        ("linear", (50.5, 0.5, 0.5), "expected a window between 0 and 50, got 50.5"),
        ("linear", (1.0, math.nan, 0.5), "expected a window between 0 and 0.75, got nan"),
        ("spline", (1.0, 0.5, 0.5), "expected interpolation linear, cubic, sigmoid, got spline"),
        ("linear", (), "expected an interpolation where some window is above 0"),
        (None, (1.0, 0.5, 0.5), "expected an interpolation where some window is above 0"),
    ],
)
def test_schedules_that_cannot_be(
    interpolation: Interpolation | None, windows: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TimeSchedule(RAGGED, interpolation, windows)


# What is in force.


@pytest.mark.parametrize("bits", [4, 8])
def test_ranges_are_interpolated(bits: int) -> None:
    top = 2**bits - 1
    scale = np.array([0.5, 2.0, 0.0, 1.0])
    zero_point = np.array([3.0, top, 0.0, 0.0])
    minimum, maximum = -zero_point * scale, (top - zero_point) * scale
    for group, fraction in itertools.product(range(4), (0.0, 1e-6, 0.25, 0.5, 0.9, 1.0)):
        found, point = activation_at(scale, zero_point, bits, group, fraction)
        assert found.dtype == point.dtype == np.float32
        if fraction == 0.0:
            assert (found, point) == (scale[group], zero_point[group])
            continue
        after = min(group + 1, 3)
        low = (1 - fraction) * minimum[group] + fraction * minimum[after]
        high = (1 - fraction) * maximum[group] + fraction * maximum[after]
        assert found == pytest.approx((high - low) / top, rel=1e-6)
        if found:
            assert abs(point - np.clip(-low / found, 0, top)) <= 0.5 + 1e-4
            assert point == np.rint(point)


def test_arrays_of_places() -> None:
    scale, zero_point = np.array([0.5, 2.0]), np.array([3.0, 100.0])
    fractions = np.linspace(0, 1, 9)
    found = activation_at(scale, zero_point, 8, np.zeros(9, int), fractions)
    for i, fraction in enumerate(fractions):
        assert activation_at(scale, zero_point, 8, 0, fraction) == (found[0][i], found[1][i])


def test_a_group_without_a_range() -> None:
    scale, point = activation_at(np.zeros(2), np.array([7.0, 9.0]), 8, 0, 0.5)
    assert scale == point == 0.0


def test_rows_between_two_groups() -> None:
    gain = np.array([[1.0, 2.0], [0.5, 1.5]], np.float32)
    bias = np.array([[0.0, -1.0], [1.0, 1.0]], np.float32)
    rows = RowParameters(gain, bias)
    assert rows.num_groups == 2
    assert [part.tolist() for part in rows.at(0, 0.0)] == [[1.0, 2.0], [0.0, -1.0]]
    assert [part.tolist() for part in rows.at(0, 0.25)] == [[0.875, 1.875], [0.25, -0.5]]
    assert [part.tolist() for part in rows.at(1, 0.0)] == [[0.5, 1.5], [1.0, 1.0]]
    assert all(part.dtype == np.float32 for part in rows.at(0, 0.3))
    pooled = RowParameters(gain[:1], bias[:1])
    assert [part.tolist() for part in pooled.at(3, 0.7)] == [[1.0, 2.0], [0.0, -1.0]]


@pytest.mark.parametrize(
    ("gain", "bias", "message"),
    [
        (np.ones((2, 3), "f4"), np.ones((1, 3), "f4"), r"expected gain and bias \[k, out\], got"),
        (np.ones(3, "f4"), np.ones(3, "f4"), r"expected gain and bias \[k, out\], got"),
        (np.ones((0, 3), "f4"), np.ones((0, 3), "f4"), r"expected gain and bias \[k, out\], got"),
        (np.ones((1, 3), "f8"), np.ones((1, 3), "f4"), "expected gain in float32, got float64"),
        (np.full((1, 3), 0.1, "f4"), np.ones((1, 3), "f4"), "expected each gain to be a finite"),
        (np.ones((1, 3), "f4"), np.full((1, 3), 1e6, "f4"), "expected each bias to be a finite"),
        (np.full((1, 3), np.nan, "f4"), np.ones((1, 3), "f4"), "expected each gain to be a finite"),
    ],
)
def test_rows_that_cannot_be(
    gain: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    bias: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        RowParameters(gain, bias)
