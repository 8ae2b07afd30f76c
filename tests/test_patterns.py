"""Patterns of violations and the specification's strings."""

from __future__ import annotations

from typing import Any

import pytest
from assessment_examples import windows
from thermoq.patterns import common_violation_patterns, find_patterns
from thermoq.report.thermodynamics_model import Violation


def violation(at: int, scale: float, zero_point: float = 0.0) -> Violation:
    jump = max(scale, zero_point)
    severity = "high" if jump > 0.5 else "medium" if jump >= 0.3 else "low"
    return Violation(
        boundary_idx=at, scale_jump=scale, zero_point_jump=zero_point, severity=severity
    )


def kinds(jumps: dict[int, float], num_time_groups: int) -> dict[str, list[int]]:
    violations = [violation(at, jump) for at, jump in jumps.items()]
    return {found.kind: found.boundaries for found in find_patterns(violations, num_time_groups)}


@pytest.mark.parametrize(
    ("jumps", "num_time_groups", "expected"),
    [
        ({}, 4, {}),
        ({}, 1, {}),
        # The specification's example: both halves of two violations.
        ({0: 0.58, 2: 0.35}, 4, {"early": [0], "late": [2]}),
        ({0: 0.4}, 4, {"early": [0]}),
        ({1: 0.4}, 4, {"early": [1]}),
        ({2: 0.4}, 4, {"late": [2]}),
        ({0: 0.4, 1: 0.4}, 3, {}),  # too few groups to speak of early and late
        ({0: 0.4, 1: 0.4, 2: 0.4}, 4, {"uniform": [0, 1, 2]}),
        ({0: 0.6, 1: 0.6, 2: 0.6}, 4, {"uniform": [0, 1, 2]}),  # not few: no high severity
        # 9 boundaries: a quarter is 3, rounded up.
        ({0: 0.4, 1: 0.4, 2: 0.4, 5: 0.4}, 10, {"early": [0, 1, 2]}),
        ({6: 0.4, 7: 0.4, 2: 0.4, 3: 0.4}, 10, {"late": [6, 7]}),
        ({3: 0.4, 4: 0.4, 5: 0.4}, 10, {}),
        ({1: 0.4, 3: 0.4, 4: 0.4, 5: 0.4, 8: 0.4}, 10, {"uniform": [1, 3, 4, 5, 8]}),
        ({4: 0.7}, 10, {"high_severity": [4]}),
        ({4: 0.7, 8: 0.4}, 10, {"late": [8], "high_severity": [4]}),
        ({4: 0.5}, 10, {}),
        ({0: 0.7}, 3, {"high_severity": [0]}),
        ({0: 0.7}, 2, {}),  # one boundary of one is not few
    ],
)
def test_patterns(
    jumps: dict[int, float], num_time_groups: int, expected: dict[str, list[int]]
) -> None:
    assert kinds(jumps, num_time_groups) == expected


def test_patterns_do_not_depend_on_the_order_of_violations() -> None:
    assert kinds({7: 0.4, 0: 0.4, 1: 0.4}, 10) == kinds({0: 0.4, 1: 0.4, 7: 0.4}, 10)


def test_every_pattern_has_its_own_words() -> None:
    found = [
        *find_patterns([violation(0, 0.7), violation(8, 0.7)], 10),
        *find_patterns([violation(i, 0.4) for i in range(3)], 4),
    ]
    assert [pattern.kind for pattern in found] == ["early", "late", "high_severity", "uniform"]
    for text in ("title", "cause", "impact", "advice"):
        assert len({getattr(pattern, text) for pattern in found}) == 4
    for pattern in found:
        assert "--num-time-groups" in pattern.advice
        assert "--phase smooth" in pattern.advice
        assert "not in this version" not in pattern.advice


def test_strings_of_the_specifications_example() -> None:
    given = [violation(0, 0.58, 0.12), violation(2, 0.35, 0.08)]
    assert common_violation_patterns(given) == [
        "High severity violations: 1 (50.0%)",
        "Medium severity violations: 1 (50.0%)",
        "Violations at boundaries: [0, 2]",
        "Scale jumps: max=58.0%, avg=46.5%",
    ]


def test_other_strings() -> None:
    given = [violation(5, 0.2), violation(1, 0.1, 0.4), violation(3, 0.25)]
    assert common_violation_patterns(given) == [
        "Medium severity violations: 1 (33.3%)",
        "Low severity violations: 2 (66.7%)",
        "Violations at boundaries: [1, 3, 5]",
        "Scale jumps: max=25.0%, avg=18.3%",
        "Zero-point jumps: max=40.0%, avg=13.3%",
    ]
    assert common_violation_patterns([]) == []


def test_early_and_late_halves_do_not_contradict_each_other() -> None:
    # The bundled model's jumps; its boundary scores are 0.924, 0.656 and 0.669.
    early, late = find_patterns([violation(1, 0.688), violation(2, 0.662)], 4, [749.0, 499.0, 249])
    assert early.cause == (
        "1 of 2 violations lies at the first 2 of 3 boundaries, counted from noise to clean, the "
        "rest at the last. The largest jump among them is 0.69, at boundary 1 (t = 499)."
    )
    assert late.cause == (
        "1 of 2 violations lies at the last of 3 boundaries, counted from noise to clean, the "
        "rest at the first 2. The largest jump among them is 0.66, at boundary 2 (t = 249)."
    )
    assert "2 of 4 time groups come after boundary 1 and would start from" in early.impact
    assert "1 of 4 time groups comes after boundary 2 and could still" in late.impact


def test_texts_hold_this_runs_numbers() -> None:
    (uniform,) = find_patterns([violation(i, 0.4 + i / 100) for i in range(5)], 10)
    assert uniform.cause == (
        "5 of 9 boundaries exceed the threshold: there the time groups are wide for how quickly "
        "the parameters change. The largest jump is 0.44, at boundary 4."
    )
    (severe,) = find_patterns([violation(4, 0.2, 0.7)], 10)
    assert severe.cause == (
        "1 of 1 violation jumps by more than 0.5, while 8 of 9 boundaries stay within the "
        "threshold. The largest jump is 0.70, at boundary 4."
    )
    (late,) = find_patterns([violation(8, 0.4)], 10)
    assert late.cause.startswith("1 of 1 violation lies at the last 3 of 9 boundaries, counted")
    for found in (uniform, severe, late):
        assert "its weights do not depend on it" in found.impact
        assert "changes the score, not the weights" in found.advice


@pytest.mark.parametrize("num_time_groups", range(1, 9))
def test_the_windows_of_early_and_late_share_nothing(num_time_groups: int) -> None:
    for mask in range(1, 2 ** (num_time_groups - 1)):
        at = [i for i in range(num_time_groups - 1) if mask >> i & 1]
        found = kinds(dict.fromkeys(at, 0.4), num_time_groups)
        if {"early", "late"} <= found.keys():  # what "the rest" stands for in the texts
            assert sorted(found["early"] + found["late"]) == at


def test_advice_names_what_limits_the_time_groups() -> None:
    given = [violation(0, 0.4)]
    (prior,) = find_patterns(given, 4)
    (measured,) = find_patterns(given, 4, source="calibration")
    assert "at most the number of timesteps" in prior.advice
    assert "changes the score, not the weights" in prior.advice
    assert "at most the calibration's bins" in measured.advice
    assert "`--grouping adaptive`" in measured.advice
    assert "prior" not in measured.advice


def advice(jumps: dict[int, float], groups: int = 4, **given: Any) -> list[str]:
    found = find_patterns(
        [violation(at, jump) for at, jump in jumps.items()], groups, source="calibration", **given
    )
    return [pattern.advice for pattern in found]


def test_advice_has_real_values() -> None:
    early, late = advice({0: 0.4, 2: 0.4}, windows=windows())
    assert "`--phase smooth --window 125` spreads early jumps over a wide window: with the" in early
    assert early.endswith("these parameters would score 0.9312.")
    assert "`--phase smooth --window 125 --interpolation sigmoid` eases late jumps" in late
    assert late.endswith("these parameters would score 0.8511, by linear 0.9312.")
    (severe,) = advice({0: 0.7}, groups=3, windows=windows(limits=(99.0, 50.0)))
    assert "`--phase smooth --window 99 --interpolation cubic` spreads the jump" in severe
    (uniform,) = advice({0: 0.4, 1: 0.4, 2: 0.4}, windows=windows(limits=(99.0, 50.0, 50.0)))
    assert "`--phase smooth --window 99` spreads every jump over a window" in uniform
    assert uniform.endswith("`--phase optimize` couples the groups' parameters to each other.")


def test_advice_on_smoothed_parameters() -> None:
    room = windows(interpolation="linear")
    (wider,) = advice({0: 0.4}, phase="smooth", windows=room)
    assert wider == "A larger window, `--window 125`, spreads these jumps further."
    full = windows(interpolation="sigmoid", has_room=False)
    (fewer,) = advice({0: 0.4}, phase="smooth", windows=full)
    assert fewer == (
        "The windows already are half the smaller time group: fewer groups, `--num-time-groups 2`, "
        "have room for wider ones. `--interpolation linear` would score 0.9312."
    )
    (two,) = advice({0: 0.7}, groups=3, phase="smooth", windows=full)
    assert "`--num-time-groups 2`" in two
    (coupled,) = advice({0: 0.4, 1: 0.4, 2: 0.4}, phase="optimize", windows=full)
    assert "A larger `--coupling` draws neighbouring groups together" in coupled
    (unsmoothed,) = advice({0: 0.4}, phase="optimize", windows=windows())
    assert "`--smoothing --window 125` spreads early jumps" in unsmoothed
