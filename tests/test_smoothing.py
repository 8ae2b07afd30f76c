"""Jumps of smoothed schedules against brute force over timesteps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq.interpolation import TimeSchedule, piecewise, smoothed
from thermoq.metrics import ScoreStatistics, Smoothness, smoothness
from thermoq.schedule import TimeGroups, uniform_time_groups
from thermoq.smoothing import crossings, group_means
from thermoq.terms import INTERPOLATIONS, Interpolation
from thermoq.time_parameters import TimeParameters, activation_at

Doubles = NDArray[np.float64]
RAGGED = TimeGroups(1000, (999.0, 899.0, 400.5, 200.0))


def layers(count: int, groups: int, bits: int, seed: int) -> list[TimeParameters]:
    """Parameters as a calibration gives them: f16 scales, whole zero points, some constant zero."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=(count, groups))).astype(np.float16).astype(np.float64)
    scale[rng.random((count, groups)) < 0.1] = 0.0
    zero_point = rng.integers(0, 2**bits, size=(count, groups)).astype(np.float64)
    return [
        TimeParameters(s, np.where(s > 0, z, 0.0), "calibration", activation_bits=bits)
        for s, z in zip(scale, zero_point, strict=True)
    ]


def measure(parameters: list[TimeParameters], schedule: TimeSchedule, steps: int) -> Smoothness:
    return smoothness(parameters, [1] * len(parameters), schedule, 0.3, steps)


def brute_force(
    parameters: TimeParameters, schedule: TimeSchedule, boundary: int, steps: int, bits: int
) -> tuple[float, float]:
    """The largest changes in a step over very many timesteps, with one boundary alone moving."""
    step = schedule.groups.num_timesteps / steps
    b, w = schedule.groups.starts[boundary + 1], schedule.window(boundary)
    t = np.linspace(b - w - step, b + w + 2 * step, 60001)
    t = np.concatenate([t, [b + w, b - w + step, b, b + step]])
    scale, zero_point = parameters.scale[boundary:], parameters.zero_point[boundary:]

    def at(t: Doubles) -> tuple[Doubles, Doubles]:
        if not schedule.is_smoothed:
            index = (t <= b).astype(int)
            return scale[index], zero_point[index]
        u = np.clip((b + w - t) / (2 * w), 0, 1)
        f = {
            "linear": lambda u: u,
            "cubic": lambda u: 3 * u**2 - 2 * u**3,
            "sigmoid": lambda u: 0.5 + np.tanh(6 * (u - 0.5)) / (2 * np.tanh(3)),
        }[str(schedule.interpolation)](u)
        point = activation_at(scale[:2], zero_point[:2], bits, np.zeros(len(f), int), f)[1]
        point = np.where(f == 1, zero_point[1], point)
        return (1 - f) * scale[0] + f * scale[1], point.astype(np.float64)

    (s0, z0), (s1, z1) = at(t), at(t - step)
    if scale[0] == 0:
        return (0.0 if scale[1] == 0 else 1.0), 0.0
    jump = np.divide(abs(s1 - s0), s0, out=np.zeros_like(s0), where=s0 > 0)
    point_jump = 0.0 if scale[1] == 0 else float(abs(z1 - z0).max()) / (2**bits - 1)
    return float(jump.max()), point_jump


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("steps", [3, 20, 50, 1000])
@pytest.mark.parametrize("window", [None, 60.0, 3.0])
@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_the_largest_change_of_a_step(
    kind: Interpolation, window: float | None, steps: int, bits: int
) -> None:
    schedule = smoothed(RAGGED, kind, window)
    parameters = layers(6, 4, bits, seed=steps + bits)
    found = measure(parameters, schedule, steps)
    for layer, own in enumerate(parameters):
        for i in range(3):
            scale_jump, point_jump = brute_force(own, schedule, i, steps, bits)
            jumps = found.layers[layer]
            assert jumps.unclipped_scale_jump[i] == pytest.approx(scale_jump, rel=2e-5, abs=1e-12)
            # A step of the grid may just miss, or just hit, one more whole zero point.
            assert abs(jumps.zero_point_jump[i] - point_jump) <= 1.01 / (2**bits - 1)


@pytest.mark.parametrize("groups", [RAGGED, uniform_time_groups(1000, 5)])
def test_piecewise_constant_is_phase_1_exactly(groups: TimeGroups) -> None:
    parameters = layers(20, len(groups), 8, seed=1)
    found = measure(parameters, piecewise(groups), 50)
    for layer, own in zip(found.layers, parameters, strict=True):
        for i in range(len(groups) - 1):
            scale_jump, point_jump = brute_force(own, piecewise(groups), i, 50, 8)
            assert layer.unclipped_scale_jump[i] == scale_jump
            assert layer.zero_point_jump[i] == point_jump
    assert found.boundaries == measure(parameters, piecewise(groups), 7).boundaries
    assert found.group_score == ScoreStatistics.of(found.boundary_scores).mean


def test_a_step_wider_than_the_window_crosses_it_at_once() -> None:
    groups = uniform_time_groups(1000, 4)
    parameters = layers(30, 4, 8, seed=2)
    at_once = measure(parameters, piecewise(groups), 4)
    for kind in INTERPOLATIONS:
        found = measure(parameters, smoothed(groups, kind, 100.0), 5)  # steps of 200 timesteps
        assert found.boundary_scores == pytest.approx(at_once.boundary_scores, rel=1e-12)


def test_a_linear_window_divides_the_jump() -> None:
    """By 2 * window / step, where the jump is small: the change is the same all the way."""
    groups = uniform_time_groups(1000, 2)
    parameters = [TimeParameters(np.array([1.0, 1.01]), np.array([128.0, 128.0]), "calibration")]
    found = measure(parameters, smoothed(groups, "linear", 100.0), 50)
    assert found.layers[0].scale_jump[0] == pytest.approx(0.01 * 20 / 200, rel=1e-12)


def test_falling_scales_change_most_where_they_are_smallest() -> None:
    groups = uniform_time_groups(1000, 2)
    parameters = [TimeParameters(np.array([4.0, 1.0]), np.array([128.0, 128.0]), "calibration")]
    found = measure(parameters, smoothed(groups, "linear", 100.0), 50)
    assert found.layers[0].scale_jump[0] == pytest.approx(0.3 / 1.3, rel=1e-12)


def test_smoothing_raises_the_score_and_hardly_the_group_score() -> None:
    groups = uniform_time_groups(1000, 4)
    parameters = layers(30, 4, 8, seed=3)
    before = measure(parameters, piecewise(groups), 50)
    narrow = measure(parameters, smoothed(groups, "linear", 40.0), 50)
    wide = measure(parameters, smoothed(groups, "linear"), 50)
    scores = [ScoreStatistics.of(m.boundary_scores).mean for m in (before, narrow, wide)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.2
    assert before.layer_violation_count > wide.layer_violation_count
    assert abs(narrow.group_score - before.group_score) < 0.1
    assert wide.group_score > before.group_score


@pytest.mark.parametrize("kind", INTERPOLATIONS)
@pytest.mark.parametrize("window", [None, 30.0])
def test_group_means(kind: Interpolation, window: float | None) -> None:
    """Means of the interpolated ranges, over many timesteps of each group."""
    schedule = smoothed(RAGGED, kind, window)
    (own,) = layers(1, 4, 8, seed=4)
    own = TimeParameters(own.scale + 0.5, own.zero_point, "calibration")
    found = group_means(own, schedule, 8)
    bounds = [*RAGGED.starts, -1.0]
    low = -own.zero_point * own.scale
    for group in range(4):
        edges = np.linspace(bounds[group + 1], bounds[group], 20001)
        t = (edges[:-1] + edges[1:]) / 2
        place, f = TimeSchedule(RAGGED, kind, schedule.windows).blends(np.clip(t, 0, 999.99))
        after = np.minimum(place + 1, 3)
        scale = ((1 - f) * own.scale[place] + f * own.scale[after]).mean()
        mean_low = ((1 - f) * low[place] + f * low[after]).mean()
        assert found.scale[group] == pytest.approx(scale, rel=1e-5)
        assert abs(found.zero_point[group] + mean_low / scale) <= 0.5 + 1e-3
    assert group_means(own, piecewise(RAGGED), 8) is own


def test_pairs_lie_a_step_apart() -> None:
    schedule = TimeSchedule(RAGGED, "linear", (0.0, 50.0, 100.0))
    before, after = crossings(schedule, 50)
    assert (before[0] == 0).all()
    assert (after[0] == 1).all()
    inside = (before[1] > 0) & (after[1] < 1)
    np.testing.assert_allclose((after - before)[1][inside], 20 / 100, rtol=1e-9)
    assert (after >= before).all()
    for pair in ((0.0, 0.2), (0.8, 1.0)):
        assert np.isclose(np.stack([before[1], after[1]], axis=1), pair).all(axis=1).any()
