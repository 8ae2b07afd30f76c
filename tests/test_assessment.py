"""Bands, expectations met or not, and the next command to type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from thermoq.assessment import Figures, Run, assess, band_of
from thermoq.report.model import Assessment, Violation


def violations(*severities: str) -> list[Violation]:
    return [
        Violation(boundary_idx=i, scale_jump=0.4, zero_point_jump=0.0, severity=severity)
        for i, severity in enumerate(severities)
    ]


def figures(score: float | None, **given: Any) -> Figures:
    scores = given.pop("boundary_scores", [] if score is None else [score] * 3)
    mean = sum(scores) / len(scores) if scores else score
    std = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5 if scores else None
    return Figures(
        smoothness_score=score,
        boundary_scores=scores,
        min_boundary_score=min(scores, default=score),
        max_boundary_score=max(scores, default=score),
        mean_boundary_score=mean,
        std_boundary_score=std,
        violations=given.pop("violations", []),
        cosine_similarity=given.pop("cosine_similarity", 0.9),
        parameter_source=given.pop("parameter_source", "calibration"),
        relative_squared_error=given.pop("relative_squared_error", None),
    )


def prior(score: float | None, **given: Any) -> Figures:
    return figures(score, parameter_source="noise-schedule prior", **given)


def run(**given: Any) -> Run:
    usual = {"model": "dream-7b", "output": "out", "bit_width": 2, "num_time_groups": 4}
    return Run(**{**usual, "most_time_groups": 1000, **given})


def rows(assessment: Assessment) -> dict[str, tuple[str, str, bool | None]]:
    return {
        row.name: (row.expected, row.actual, row.met)
        for row in (*assessment.characteristics, *assessment.phase_targets)
    }


@pytest.mark.parametrize(
    ("score", "band"),
    [(0.0, "poor"), (0.6499, "poor"), (0.65, "typical"), (0.6999, "typical"), (0.70, "good"),
     (0.78, "good"), (0.7801, "excellent"), (1.0, "excellent")],
)  # fmt: skip
def test_bands(score: float, band: str) -> None:
    assert band_of(score) == band
    assert assess(figures(score), run()).band == band


def test_a_good_baseline_against_all_expectations() -> None:
    # Scores of the specification's example.
    given = prior(
        0.7234,
        boundary_scores=[0.45, 0.89, 0.72],
        violations=violations("high", "medium"),
        cosine_similarity=0.7156,
        relative_squared_error=0.0412,
    )
    found = assess(given, run())
    assert found.title == "Smoothness: good"
    assert found.verdict == (
        "The smoothness score of 0.7234 lies in the band good (0.70 to 0.78); 2 of 3 boundaries "
        "exceed the threshold. The activation parameters were modelled from the noise schedule, "
        "not measured. The score says nothing about the quantized weights: their relative squared "
        "error is 0.0412."
    )
    assert rows(found) == {
        "Violations in a good baseline": (
            *("0 to 3, mostly low or medium", "2: 1 high, 1 medium"),
            False,
        ),
        "Boundary scores": ("mostly above 0.60", "2 of 3", True),
        "Cosine similarity": ("at least 0.70", "0.7156", True),
        "Smoothness score": ("0.65 to 0.78", "0.7234", True),
        "Lowest boundary score": ("0.40 to 0.60", "0.4500", True),
        "Highest boundary score": ("0.95 to 1.00", "0.8900 (below)", False),
        "Mean boundary score": ("0.70 to 0.80", "0.6867 (below)", False),
        "Standard deviation of boundary scores": ("0.10 to 0.20", "0.1812", True),
        "Violations in any baseline": ("0 to 5, typically 1 to 3", "2", True),
        "Phase 2 target": ("0.82 or more", "0.7234", False),
        "Phase 3 target": ("0.90 or more", "0.7234", False),
    }
    assert found.causes == []


def test_a_poor_baseline_lists_the_signs_of_one() -> None:
    given = figures(
        0.5,
        boundary_scores=[0.4, 0.45, 0.65],
        violations=violations("high", "high", "medium"),
        cosine_similarity=0.6,
    )
    found = assess(given, run())
    sign = "Sign of a poor baseline: "
    assert rows(found)[sign + "violations"] == (
        *("4 or more, high among them", "3: 2 high, 1 medium"),
        False,
    )
    assert rows(found)[sign + "boundary scores"] == ("several below 0.50", "2 of 3", True)
    assert rows(found)[sign + "cosine similarity"] == ("below 0.70", "0.6000", True)
    assert rows(found)["Smoothness score"] == ("0.65 to 0.78", "0.5000 (below)", False)
    assert len(found.causes) == 3
    assert found.causes[0].startswith("4 time groups are few")
    # Both dials at once: they act on different figures.
    assert found.next_command == (
        "thermoq baseline --model dream-7b --output out-int4-g8 --bit-width 4 --num-time-groups 8"
    )
    assert any("Phase 3 (optimization, not in this version)" in text for text in found.actions)


def test_an_excellent_baseline() -> None:
    found = assess(figures(0.92, violations=violations("low"), cosine_similarity=0.95), run())
    assert rows(found)["Violations in an excellent baseline"] == (
        *("0 or 1, of low severity", "1: 1 low"),
        True,
    )
    assert rows(found)["Boundary scores"] == ("all above 0.70", "3 of 3", True)
    assert rows(found)["Cosine similarity"] == ("above 0.75", "0.9500", True)
    assert rows(found)["Smoothness score"] == ("0.65 to 0.78", "0.9200 (above)", False)
    assert rows(found)["Phase 3 target"] == ("0.90 or more", "0.9200", True)
    assert found.next_command == "thermoq export out out-dense"
    assert found.actions[-1].startswith("Export the dense weights")
    medium = assess(figures(0.92, violations=violations("medium")), run())
    assert rows(medium)["Violations in an excellent baseline"][2] is False
    assert (
        rows(assess(figures(0.9, cosine_similarity=0.75), run()))["Cosine similarity"][2] is False
    )


def test_typical_is_held_against_the_good_ones_expectations() -> None:
    given = figures(0.68, violations=violations("high", "high", "low", "low"))
    assert rows(assess(given, run()))["Violations in a good baseline"] == (
        *("0 to 3, mostly low or medium", "4: 2 high, 2 low"),
        False,
    )


def test_no_score() -> None:
    found = assess(figures(None, cosine_similarity=None), run())
    assert (found.band, found.title) == (None, "No smoothness score")
    assert found.characteristics == []
    assert found.next_command == "thermoq inspect dream-7b"
    assert rows(found)["Phase 2 target"] == ("0.82 or more", "no boundary", None)


def test_one_time_group() -> None:
    found = assess(figures(1.0, boundary_scores=[]), run(num_time_groups=1))
    assert (found.band, found.title) == ("excellent", "One time group, so nothing can jump")
    assert "a single time group has no boundary" in found.verdict
    assert [row.name for row in found.characteristics] == ["Cosine similarity"]
    assert [row.met for row in found.phase_targets] == [None, None]
    assert "--num-time-groups 4" in found.next_command
    one_step = run(num_time_groups=1, most_time_groups=1)
    assert assess(figures(1.0, boundary_scores=[]), one_step).next_command.startswith(
        "thermoq export"
    )


def test_measured_parameters_are_not_called_a_model() -> None:
    found = assess(figures(0.72), run())
    assert "modelled" not in found.verdict
    assert "were measured along the trajectory" in found.verdict
    assert not any("estimate" in text for text in found.actions)
    assert found.then_command is None
    modelled = assess(prior(0.72), run())
    assert "modelled from the noise schedule, not measured" in modelled.verdict
    assert modelled.actions[0].startswith("Calibrate first, and read this score as an estimate")


@pytest.mark.parametrize("score", [0.5, 0.72, 0.95])
def test_under_the_prior_the_next_command_calibrates(score: float) -> None:
    settings = run(
        model="my model",
        output="out-int2-g4/",
        carried=("--seed", "3"),
        command="quantize",
        writes_report=True,
        writes_html_report=True,
    )
    found = assess(prior(score), settings)
    assert shlex.split(found.next_command) == [
        *("thermoq", "calibrate", "--model", "my model"),
        *("--output", "out-calibration.safetensors"),
    ]
    again = "out-int2-g4-calibrated"
    assert shlex.split(found.then_command or "") == [
        *("thermoq", "quantize", "--model", "my model", "--output", again),
        *("--bit-width", "2", "--num-time-groups", "4"),
        *("--calibration", "out-calibration.safetensors", "--seed", "3"),
        *("--report", f"{again}.json", "--html-report", f"{again}.html"),
    ]


def test_a_calibration_has_a_bin_for_each_time_group() -> None:
    found = assess(prior(0.7), run(num_time_groups=50, output="."))
    assert found.next_command.endswith("-calibration.safetensors --bins 50")
    assert "--bins" not in assess(prior(0.7), run(num_time_groups=20)).next_command


def test_a_budget_is_carried_and_sets_no_bits_beside_it() -> None:
    found = assess(prior(0.7), run(has_budget=True, carried=("--max-size", "3GB")))
    assert "--bit-width" not in (found.then_command or "--bit-width")
    assert "--max-size 3GB" in (found.then_command or "")


@pytest.mark.parametrize(
    ("score", "cosine", "given", "expected"),
    [
        # The score falls short: more time groups, as far as there are bins.
        (0.6, 0.9, {}, "--output out-int2-g8 --bit-width 2 --num-time-groups 8"),
        (0.72, 0.9, {"most_time_groups": 5},
         "--output out-int2-g5 --bit-width 2 --num-time-groups 5"),
        # Cosine falls short: more bits, the groups stay.
        (0.8, 0.7, {}, "--output out-int4-g4 --bit-width 4 --num-time-groups 4"),
        (0.8, 0.7, {"bit_width": 4}, "--output out-int8-g4 --bit-width 8 --num-time-groups 4"),
        # The ending of an earlier advice is replaced, and what was given is repeated.
        (0.6, 0.9, {"output": "a/out-int2-g4/"},
         "--output a/out-int2-g8 --bit-width 2 --num-time-groups 8"),
        (0.6, 0.9, {"writes_report": True, "writes_html_report": True},
         "--output out-int2-g8 --bit-width 2 --num-time-groups 8 --report out-int2-g8.json "
         "--html-report out-int2-g8.html"),
        (0.6, 0.9, {"carried": ("--config", "my settings.yaml", "--seed", "3")},
         "--output out-int2-g8 --bit-width 2 --num-time-groups 8 --config 'my settings.yaml' "
         "--seed 3"),
        (0.6, 0.6, {"bit_width": 4, "carried": ("--group-size", "64")},
         "--output out-int4-g8 --bit-width 4 --num-time-groups 8 --group-size 64"),
        (0.6, 0.9, {"output": "."},
         "--output ../here-int2-g8 --bit-width 2 --num-time-groups 8"),
        (0.6, 0.9, {"output": "dream-7b-int2"},
         "--output dream-7b-int2-g8 --bit-width 2 --num-time-groups 8"),
        (0.6, 0.9, {"output": "x-g8-int4-g2"},
         "--output x-int2-g8 --bit-width 2 --num-time-groups 8"),
        # A name that tells of other settings than were used.
        (0.6, 0.9, {"output": "x-int2-g8/"},
         "--output x-int2-g8-next --bit-width 2 --num-time-groups 8"),
        (0.6, 0.9, {"output": "-int2"},
         "--output -int2-int2-g8 --bit-width 2 --num-time-groups 8"),
    ],
)  # fmt: skip
def test_next_command(
    score: float,
    cosine: float,
    given: dict[str, Any],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = assess(figures(score, cosine_similarity=cosine), run(**given))
    assert found.next_command == f"thermoq baseline --model dream-7b {expected}"


@pytest.mark.parametrize("given", [{"bit_width": 8}, {"output": "some dir/x"}])
def test_nothing_left_to_turn(given: dict[str, Any]) -> None:
    settings = run(most_time_groups=4, **given)
    found = assess(
        figures(0.6, cosine_similarity=0.6 if settings.bit_width == 8 else 0.9), settings
    )
    assert shlex.split(found.next_command) == [
        *("thermoq", "export", settings.output),
        f"{settings.output}-dense",
    ]


def test_paths_are_quoted_and_the_command_is_the_one_that_ran() -> None:
    settings = run(model="my models/d$", output="o u t", command="quantize")
    words = shlex.split(assess(figures(0.6), settings).next_command)
    assert words[:6] == [
        "thermoq",
        "quantize",
        "--model",
        "my models/d$",
        "--output",
        "o u t-int2-g8",
    ]


def test_nothing_is_advised_inside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x-int2-g8").mkdir()
    monkeypatch.chdir(tmp_path / "x-int2-g8")
    assert assess(figures(0.9), run(output=".")).next_command == "thermoq export . ../x-dense"
    assert "--output ../x-int2-g8-next" in assess(figures(0.6), run(output=".")).next_command
    above = f"../../{tmp_path.name}-dense"
    assert assess(figures(0.9), run(output="..")).next_command == f"thermoq export .. {above}"


def test_more_time_groups_change_no_weight_and_the_action_says_so() -> None:
    (action,) = (a for a in assess(prior(0.6), run()).actions if "time groups" in a)
    assert action.endswith("Under the prior this changes the score, not the weights.")
    (measured,) = (a for a in assess(figures(0.6), run()).actions if "time groups" in a)
    assert measured.endswith("It changes the activation parameters, not the weights.")


@pytest.mark.parametrize(("error", "bit_width", "advised"), [
    (0.09, 2, 4), (0.09, 4, 8), (0.09, 8, None), (0.04, 2, None), (None, 2, None),
])  # fmt: skip
def test_poor_weights_are_given_more_bits(
    error: float | None, bit_width: int, advised: int | None
) -> None:
    found = assess(figures(0.9, relative_squared_error=error), run(bit_width=bit_width))
    assert (f"--bit-width {advised}" in found.next_command) == (advised is not None)
    assert any("this changes the weights" in a for a in found.actions) == (advised is not None)
    assert any("relative squared error is above 0.05" in c for c in found.causes) == (error == 0.09)


def test_rounded_weights_are_first_given_least_squares() -> None:
    """The other method may do without more bits, so it comes before them."""
    poor = figures(0.9, relative_squared_error=0.09)
    carried = ("--config", "c.yaml", "--method", "minmax", "--encoding", "affine")
    found = assess(poor, run(method="minmax", carried=carried))
    assert found.next_command == (
        "thermoq quantize --model dream-7b --output out-int2-g4-lsq --bit-width 2 "
        "--num-time-groups 4 --method lsq --config c.yaml --encoding affine"
    )
    assert any("`thermoq quantize`, instead of by rounding" in text for text in found.actions)
    assert not any("Try INT4" in text for text in found.actions)
    # The advice after it: more bits, and a name of its own.
    again = run(output="out-int2-g4-lsq", carried=("--method=lsq",), command="quantize")
    words = "--output out-int4-g4 --bit-width 4 --num-time-groups 4 --method=lsq"
    assert assess(poor, again).next_command == f"thermoq quantize --model dream-7b {words}"


@pytest.mark.parametrize(
    "given", [{"bit_width": 8}, {"lsq_fits": False}, {"method": "lsq"}],
)  # fmt: skip
def test_least_squares_are_not_advised_where_they_do_not_help(given: dict[str, Any]) -> None:
    settings = run(**{"method": "minmax", **given})
    found = assess(figures(0.9, relative_squared_error=0.09), settings)
    assert "--method" not in found.next_command
    good = assess(figures(0.9, relative_squared_error=0.01), run(method="minmax"))
    assert "--method" not in good.next_command


def test_the_settings_of_coded_do_not_go_with_eight_bits() -> None:
    settings = run(bit_width=4, carried=("--scale-bits", "5"))
    found = assess(figures(0.9, relative_squared_error=0.09), settings)
    assert "--bit-width 8" not in found.next_command


def test_what_is_better_than_expected_is_told_from_what_is_worse() -> None:
    high = assess(figures(0.92, boundary_scores=[0.91, 0.92, 0.93]), run())
    better = {row.name: row.better for row in high.characteristics if row.better}
    assert better == {
        "Smoothness score": "above",
        "Lowest boundary score": "above",
        "Mean boundary score": "above",
        "Standard deviation of boundary scores": "below",
    }
    low = assess(figures(0.5, boundary_scores=[0.1, 0.5, 0.9]), run())
    assert not any(row.better for row in low.characteristics)
    assert [row.bad_sign for row in low.characteristics] == [True] * 3 + [False] * 6


def test_no_perfect_cosine_where_it_is_not_one() -> None:
    row = assess(figures(0.7, cosine_similarity=0.99999), run()).characteristics[2]
    assert (row.actual, row.of_weights) == ("0.99999", True)
