"""The exact next command to type: paths, what is repeated, what is changed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from assessment_examples import figures, prior, run, windows
from thermoq.assessment import assess


@pytest.mark.parametrize("score", [0.5, 0.72, 0.95])
def test_under_the_prior_the_next_command_calibrates(score: float) -> None:
    settings = run(
        model="my model",
        output="out-int2-g4/",
        carried=("--seed", "3"),
        command="quantize",
        report="mine.json",
        html_report="mine.html",
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


SMOOTH = "--phase smooth --method lsq"


@pytest.mark.parametrize(
    ("score", "cosine", "given", "expected"),
    [
        # The score falls short: Phase 2 on the same codes, or Phase 3 for a poor one.
        (0.72, 0.9, {},
         f"--output out-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH}"),
        (0.6, 0.9, {}, "--output out-int2-g4-optimize --bit-width 2 --num-time-groups 4 "
         "--phase optimize --method lsq"),
        (0.72, 0.9, {"encoding": "affine", "method": "minmax"},
         "--output out-int2-g4-smooth --bit-width 2 --num-time-groups 4 --phase smooth "
         "--method minmax --encoding affine"),
        (0.72, 0.9, {"encoding": "q8", "bit_width": 8},
         f"--output out-int8-g4-smooth --bit-width 8 --num-time-groups 4 {SMOOTH}"),
        # The ending of an earlier advice is replaced, and what was given is repeated.
        (0.72, 0.9, {"output": "a/out-int2-g4/"},
         f"--output a/out-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH}"),
        (0.72, 0.9, {"report": "mine.json", "html_report": "mine.html"},
         f"--output out-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH} "
         "--report out-int2-g4-smooth.json --html-report out-int2-g4-smooth.html"),
        (0.72, 0.9, {"carried": ("--config", "my settings.yaml", "--seed", "3")},
         f"--output out-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH} "
         "--config 'my settings.yaml' --seed 3"),
        (0.72, 0.9, {"carried": ("--method=lsq", "--no-smoothing", "--window", "3")},
         "--output out-int2-g4-smooth --bit-width 2 --num-time-groups 4 --phase smooth "
         "--method=lsq"),
        (0.72, 0.9, {"output": "."},
         f"--output ../here-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH}"),
        (0.72, 0.9, {"output": "x-g8-int4-g2-smooth"},
         f"--output x-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH}"),
        # A name that tells of other settings than were used.
        (0.72, 0.9, {"output": "x-int2-g4-smooth/"},
         f"--output x-int2-g4-smooth-next --bit-width 2 --num-time-groups 4 {SMOOTH}"),
        (0.72, 0.9, {"output": "-int2"},
         f"--output -int2-int2-g4-smooth --bit-width 2 --num-time-groups 4 {SMOOTH}"),
    ],
)  # fmt: skip
def test_next_phase(
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
    assert found.next_command == f"thermoq quantize --model dream-7b {expected}"


@pytest.mark.parametrize(
    ("score", "cosine", "given", "expected"),
    [
        # Cosine falls short: more bits before any phase, which is held against the same codes.
        (0.8, 0.7, {}, "--output out-int4-g4 --bit-width 4 --num-time-groups 4"),
        (0.8, 0.7, {"bit_width": 4}, "--output out-int8-g4 --bit-width 8 --num-time-groups 4"),
        (0.6, 0.6, {"bit_width": 2, "carried": ("--group-size", "64")},
         "--output out-int4-g4 --bit-width 4 --num-time-groups 4 --group-size 64"),
    ],
)  # fmt: skip
def test_more_bits(score: float, cosine: float, given: dict[str, Any], expected: str) -> None:
    settings = run(**{"trellis_fits": False, **given})
    found = assess(figures(score, cosine_similarity=cosine), settings)
    assert found.next_command == f"thermoq baseline --model dream-7b {expected}"


SMOOTHED = {"interpolation": "linear", "has_room": False}
RUN = "thermoq quantize --model dream-7b --output out"


@pytest.mark.parametrize(
    ("score", "phase", "found_windows", "groups", "expected"),
    [
        # Phase 2 met: on to Phase 3, with the windows as they were.
        (0.93, "smooth", SMOOTHED, 4, f"{RUN}-int2-g4-optimize --bit-width 2 --num-time-groups 4 "
         "--phase optimize --window 50"),
        # Missed, with room for wider windows.
        (0.75, "smooth", {"interpolation": "linear"}, 4, f"{RUN}-int2-g4-smooth --bit-width 2 "
         "--num-time-groups 4 --phase smooth --window 125"),
        (0.75, "smooth", {"interpolation": "linear", "limits": (99.0, 50.0, 50.0)}, 4,
         f"{RUN}-int2-g4-smooth --bit-width 2 --num-time-groups 4 --phase smooth --window 99"),
        # At the limit: another interpolation if that is better, else fewer groups.
        (0.75, "smooth", {**SMOOTHED, "interpolation": "sigmoid"}, 4, f"{RUN}-int2-g4-smooth "
         "--bit-width 2 --num-time-groups 4 --phase smooth --interpolation linear --window 50"),
        (0.75, "smooth", {**SMOOTHED, "scores": {"linear": 0.75}}, 4, f"{RUN}-int2-g2-smooth "
         "--bit-width 2 --num-time-groups 2 --phase smooth --window 50"),
        (0.75, "smooth", {**SMOOTHED, "scores": {"linear": 0.75}}, 2, f"{RUN}-int2-g2-optimize "
         "--bit-width 2 --num-time-groups 2 --phase optimize --window 50"),
        # Phase 3: without Phase 2, or with windows too narrow, or met.
        (0.85, "optimize", {}, 4, f"{RUN}-int2-g4-optimize --bit-width 2 --num-time-groups 4 "
         "--phase optimize --window 50"),
        (0.85, "optimize", {"interpolation": "linear"}, 4, f"{RUN}-int2-g4-optimize --bit-width 2 "
         "--num-time-groups 4 --phase optimize --window 125"),
        (0.95, "optimize", SMOOTHED, 4, "thermoq evaluate --model dream-7b --quantized out"),
        (0.85, "optimize", {**SMOOTHED, "scores": {}}, 2,
         "thermoq evaluate --model dream-7b --quantized out"),
    ],
)  # fmt: skip
def test_the_dials_of_phases_2_and_3(
    score: float, phase: str, found_windows: dict[str, Any], groups: int, expected: str
) -> None:
    given = figures(score, phase=phase, windows=windows(**found_windows))
    words = ("--no-smoothing",) if phase == "optimize" and not found_windows else ()
    settings = run(
        phase=phase,
        num_time_groups=groups,
        command="quantize",
        carried=(*words, "--phase", phase, "--window", "50"),
    )
    assert assess(given, settings).next_command == expected


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ({}, ""),
        ({"report": "a.json"}, " --report a.json"),
        ({"html_report": "my page.html"}, " --html-report 'my page.html'"),
        (
            {"report": "r/a.json", "html_report": "b.html"},
            " --report r/a.json --html-report b.html",
        ),
    ],
)
def test_the_evaluation_goes_into_the_reports_of_the_run(
    reports: dict[str, str], expected: str
) -> None:
    given = figures(0.95, phase="optimize", windows=windows(**SMOOTHED))
    settings = run(phase="optimize", command="quantize", **reports)
    command = f"thermoq evaluate --model dream-7b --quantized out{expected}"
    assert assess(given, settings).next_command == command


@pytest.mark.parametrize("given", [{"bit_width": 8}, {"output": "some dir/x"}])
def test_nothing_left_to_turn(given: dict[str, Any]) -> None:
    settings = run(most_time_groups=4, **given)
    found = assess(
        figures(0.9, cosine_similarity=0.6 if settings.bit_width == 8 else 0.9), settings
    )
    assert shlex.split(found.next_command) == [
        *("thermoq", "export", settings.output),
        f"{settings.output}-dense",
    ]


def test_paths_are_quoted_and_the_command_is_the_one_that_ran() -> None:
    settings = run(model="my models/d$", output="o u t", command="quantize")
    words = shlex.split(assess(figures(0.72), settings).next_command)
    assert words[:6] == [
        "thermoq",
        "quantize",
        "--model",
        "my models/d$",
        "--output",
        "o u t-int2-g4-smooth",
    ]


def test_nothing_is_advised_inside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x-int2-g4-smooth").mkdir()
    monkeypatch.chdir(tmp_path / "x-int2-g4-smooth")
    assert assess(figures(0.9), run(output=".")).next_command == "thermoq export . ../x-dense"
    found = assess(figures(0.72), run(output="."))
    assert "--output ../x-int2-g4-smooth-next" in found.next_command
    above = f"../../{tmp_path.name}-dense"
    assert assess(figures(0.9), run(output="..")).next_command == f"thermoq export .. {above}"
