"""Jumps, scores and violations against the formulas of the specification."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thermoq import _core
from thermoq.interpolation import piecewise
from thermoq.metrics import ScoreStatistics, Smoothness, smoothness
from thermoq.patterns import common_violation_patterns
from thermoq.schedule import uniform_time_groups
from thermoq.time_parameters import TimeParameters

SEVERITIES = (None, "low", "medium", "high")


def measure(
    scale: Sequence[Sequence[float]],
    zero_point: Sequence[Sequence[float]] | None = None,
    weight: Sequence[int] | None = None,
    *,
    activation_bits: int | Sequence[int] = 8,
    threshold: float = 0.3,
) -> Smoothness:
    """The smoothness of layers, one row each; zero-points stay at the middle unless given."""
    scales = np.array(scale, float)
    points = np.full_like(scales, 128.0) if zero_point is None else np.array(zero_point, float)
    bits = [activation_bits] * len(scales) if isinstance(activation_bits, int) else activation_bits
    parameters = [
        TimeParameters(s, z, "none", activation_bits=a)
        for s, z, a in zip(scales, points, bits, strict=True)
    ]
    groups = uniform_time_groups(1000, scales.shape[1])
    weights = [1] * len(scales) if weight is None else weight
    return smoothness(parameters, weights, piecewise(groups), threshold, 50)


def score(measured: Smoothness) -> float:
    return ScoreStatistics.of(measured.boundary_scores).mean


def test_the_specification_s_example() -> None:
    """Its jumps give its violations, severities and pattern lines.

    Its scores do not follow from its jumps: boundary 0 has 1 - (0.58 + 0.12) / 2 = 0.65, not 0.45.
    """
    scale = [1.0, 1.58, 1.58, 1.58 * 1.35]
    zero_point = [100.0, 100 + 0.12 * 255, 100 + 0.12 * 255, 100 + 0.20 * 255]
    measured = measure([scale], [zero_point])
    assert [v.boundary_idx for v in measured.violations] == [0, 2]
    assert [v.severity for v in measured.violations] == ["high", "medium"]
    assert [v.scale_jump for v in measured.violations] == pytest.approx([0.58, 0.35])
    assert [v.zero_point_jump for v in measured.violations] == pytest.approx([0.12, 0.08])
    assert measured.boundary_scores == pytest.approx([0.65, 1.0, 0.785])
    assert common_violation_patterns(measured.violations) == [
        "High severity violations: 1 (50.0%)",
        "Medium severity violations: 1 (50.0%)",
        "Violations at boundaries: [0, 2]",
        "Scale jumps: max=58.0%, avg=46.5%",
    ]
    total_jump = 0.58 + 0.12 + 0.35 + 0.08
    assert score(measured) == pytest.approx(1 - total_jump / (2 * 3))


def test_scale_jumps_with_zeros() -> None:
    measured = measure([[0.0, 0.0, 2.0, 0.0]])
    assert [b.scale_jump for b in measured.boundaries] == [0.0, 1.0, 1.0]


def test_a_zero_scale_hides_the_zero_point() -> None:
    measured = measure([[1.0, 0.0, 1.0, 1.0]], [[0.0, 255.0, 0.0, 255.0]])
    assert [b.zero_point_jump for b in measured.boundaries] == [0.0, 0.0, 1.0]


def test_the_zero_point_jump_is_a_share_of_the_range() -> None:
    for bits in (4, 8):
        measured = measure([[1.0, 1.0]], [[1.0, 4.0]], activation_bits=bits)
        assert measured.boundaries[0].zero_point_jump == 3 / (2**bits - 1)


def test_layers_have_ranges_of_their_own() -> None:
    measured = measure([[1.0, 1.0]] * 2, [[1.0, 4.0]] * 2, activation_bits=[4, 8])
    jumps = [layer.boundary_scores.tolist() for layer in measured.layers]
    assert jumps == [[1 - 3 / 15 / 2], [1 - 3 / 255 / 2]]
    assert measured.boundaries[0].zero_point_jump == pytest.approx((3 / 15 + 3 / 255) / 2)


def test_jumps_are_clipped_per_layer_before_averaging() -> None:
    measured = measure([[1.0, 11.0], [1.0, 1.0]], weight=[3, 1])
    (boundary,) = measured.boundaries
    assert boundary.scale_jump == 0.75
    assert boundary.unclipped_scale_jump == 7.5
    assert boundary.score == 1 - 0.75 / 2
    first, second = measured.layers
    assert (first.scale_jump.tolist(), first.unclipped_scale_jump.tolist()) == ([1.0], [10.0])
    assert (first.boundary_scores.tolist(), second.boundary_scores.tolist()) == ([0.5], [1.0])
    assert (first.violation_count, second.violation_count) == (1, 0)


def test_the_score_stays_between_0_and_1() -> None:
    worst = measure([[1.0, 1e9, 1.0, 1e9]], [[0.0, 255.0, 0.0, 255.0]])
    assert worst.boundaries[0].score == 0.0
    assert score(worst) == pytest.approx((0.0 + 0.0 + 0.0) / 3, abs=1e-8)
    assert score(measure([[1.0, 1.0, 1.0]])) == 1.0


def test_layers_count_by_their_weights() -> None:
    measured = measure([[1.0, 1.2], [1.0, 1.6]], weight=[1, 3])
    assert measured.boundaries[0].scale_jump == pytest.approx((0.2 + 3 * 0.6) / 4)
    alone = measure([[1.0, 1.2], [1.0, 1.6]], weight=[1, 0])
    assert alone.boundaries[0].scale_jump == pytest.approx(0.2)
    nothing = measure([[1.0, 1.2]], weight=[0])
    assert nothing.boundaries[0].scale_jump == 0.0


def test_one_time_group_has_no_boundaries() -> None:
    measured = measure([[1.0], [2.0]])
    assert measured.boundaries == ()
    assert measured.violations == []
    assert measured.layers[0].smoothness_score == 1.0
    assert measured.layers[0].violation_count == 0
    assert ScoreStatistics.of([]) == ScoreStatistics(1.0, 1.0, 1.0, 0.0)


def test_statistics_are_those_of_the_population() -> None:
    statistics = ScoreStatistics.of([0.4, 0.8])
    assert (statistics.minimum, statistics.maximum) == (0.4, 0.8)
    assert statistics.mean == pytest.approx(0.6)
    assert statistics.std == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("jump", "threshold", "severity"),
    [
        (0.30, 0.30, None),
        (math.nextafter(0.30, 1), 0.30, "medium"),
        (0.50, 0.30, "medium"),
        (math.nextafter(0.50, 1), 0.30, "high"),
        (0.29, 0.20, "low"),
        (0.30, 0.20, "medium"),
        (0.20, 0.20, None),
        (0.55, 0.60, None),
        (0.65, 0.60, "high"),
        (1.0, 1.0, None),
        (0.0, 0.3, None),
    ],
)
def test_severity_edges(jump: float, threshold: float, severity: str | None) -> None:
    for pair in ((jump, 0.0), (0.0, jump), (jump, jump)):
        found = _core.severity_of(*pair, threshold)
        assert SEVERITIES[found + 1] == severity
        assert reference.severity(jump, threshold) == severity


def test_a_boundary_starts_where_the_later_group_does() -> None:
    measured = measure([[1.0, 2.0, 3.0, 4.0]])
    assert [b.timestep for b in measured.boundaries] == [749.0, 499.0, 249.0]
    assert [b.boundary_idx for b in measured.boundaries] == [0, 1, 2]


SCALES = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
TABLES = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        st.lists(
            st.lists(SCALES, min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        ),
        st.lists(
            st.lists(st.integers(0, 255), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        ),
        st.lists(st.integers(1, 10**9), min_size=shape[0], max_size=shape[0]),
        st.lists(st.sampled_from([4, 8]), min_size=shape[0], max_size=shape[0]),
    )
)


@given(table=TABLES, threshold=st.floats(0.01, 1.0))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_parameters(
    table: tuple[list[list[float]], list[list[int]], list[int], list[int]], threshold: float
) -> None:
    scale, zero_point, weight = (np.array(part, float) for part in table[:3])
    bits = table[3]
    truth = reference.boundary_jumps(scale, zero_point, weight, bits, threshold)
    boundaries = (scale.shape[1] - 1, 1)
    across = np.zeros(boundaries), np.ones(boundaries)
    found = _core.boundary_jumps(
        scale, zero_point, weight, np.array(bits, np.int32), threshold, *across
    )
    for name in ("layer_scale_jump", "layer_zero_point_jump", "layer_boundary_score"):
        assert np.array_equal(getattr(found, name), getattr(truth, name)), name
    for name in (
        "scale_jump",
        "zero_point_jump",
        "unclipped_scale_jump",
        "unclipped_zero_point_jump",
        "boundary_score",
    ):
        np.testing.assert_allclose(
            getattr(found, name), getattr(truth, name), rtol=1e-12, atol=1e-12, err_msg=name
        )
    largest = np.maximum(found.scale_jump, found.zero_point_jump)
    expected = [reference.severity(float(jump), threshold) for jump in largest]
    assert [SEVERITIES[value + 1] for value in found.severity] == expected
    measured = measure(table[0], table[1], table[2], activation_bits=bits, threshold=threshold)
    assert score(measured) == pytest.approx(truth.smoothness_score, abs=1e-12)
    assert [v.boundary_idx for v in measured.violations] == [
        i for i, severity in enumerate(expected) if severity is not None
    ]
