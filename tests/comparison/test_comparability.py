"""What may be compared and what not: settings of evaluations, sources of parameters, targets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from command_line import succeed
from comparison_examples import (
    cells,
    denoiser_evaluation,
    equal,
    judged,
    language_evaluation,
    phase_reports,
    timed,
    with_provenance,
    write_reports,
)
from thermoq.comparison.run import compare
from thermoq.evaluation.judge import MODEL_FINGERPRINT
from thermoq.report.comparison_model import Comparison
from thermoq.report.comparison_page import render_comparison
from thermoq.report.evaluation_model import Evaluation, EvaluationInputs
from thermoq.report.model import Report
from thermoq.report.optimization_model import (
    OptimizationSummary,
    SequentialSummary,
    StoredCorrection,
)

INPUTS = EvaluationInputs(length=None, size=None, prompts=None, data=None, scheduler="a" * 32)
OF_EVALUATION = ("accuracy", "output_error", "error_by_part")


def evaluated(report: Report, evaluation: Evaluation, **settings: Any) -> Report:
    """The report with an evaluation under other settings, and so with another key."""
    changes = {"inputs_key": repr(settings), **settings} if settings else {}
    return report.model_copy(update={"evaluation": evaluation.model_copy(update=changes)})


def compared(folder: Path, *reports: Report) -> Comparison:
    return compare(write_reports(folder, list(reports)))


# Evaluations under other settings.


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"steps": 5}, "different sampling steps: 20 and 5"),
        ({"steps": 5, "seed": 1}, "different sampling steps: 20 and 5"),
        ({"sampler": "Other"}, "different samplers: DDIMScheduler and Other"),
        ({"guidance": 4.0}, "different guidance: none and 4"),
        ({"precision": "bfloat16"}, "different precisions: float32 and bfloat16"),
        (
            {"data": "faces", "inputs": INPUTS.model_copy(update={"data": "d" * 32})},
            "different held-out data: none and faces",
        ),
        ({"data": "faces", "inputs": None}, "different held-out data: none and faces"),
        ({"num_prompts": 3}, "different numbers of prompts: 0 and 3"),
        (
            {"inputs": INPUTS.model_copy(update={"size": 64})},
            "different image sizes: the model's own and 64",
        ),
        (
            {"inputs": INPUTS.model_copy(update={"prompts": "b" * 32})},
            "different prompts: none and ...bbbbbbbb",
        ),
        (
            {"inputs": INPUTS.model_copy(update={"scheduler": "c" * 32})},
            "different configurations of the scheduler: ...aaaaaaaa and ...cccccccc",
        ),
        ({"inputs": None}, "different inputs, of which the evaluations tell no more"),
    ],
)
def test_other_settings_of_an_evaluation_are_not_comparable(
    settings: dict[str, Any], note: str, tmp_path: Path
) -> None:
    first, _, third = phase_reports()
    given = denoiser_evaluation(0.1).model_copy(update={"inputs": INPUTS})
    other = denoiser_evaluation(0.06).model_copy(update={"inputs": INPUTS})
    found = compared(tmp_path, evaluated(first, given), evaluated(third, other, **settings))
    for key in OF_EVALUATION:
        cell = cells(found, key)[1]
        assert (cell.verdict, cell.note) == ("not comparable", note)
        assert (cell.change, cell.target) == (None, None)
        assert (cell.value is None) == (key == "error_by_part")  # which is a share of the other
    said = f"Not comparable: output cosine, output error and error by quarter ({note})."
    assert said in found.summary[0]
    assert not any("unpaired" in one for one in found.notes)
    assert [bool(one.parts) for one in found.variants] == [True, False]
    assert equal(found)["Evaluation inputs"] is False
    printed = " ".join(succeed("compare", *(one.source for one in found.variants)).stdout.split())
    assert f"not comparable; {note}" in printed or f"not comparable {note}" in printed
    assert note.replace("'", "&#39;") in render_comparison(found)


def test_seeds_and_numbers_of_samples_may_differ(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    data = INPUTS.model_copy(update={"data": "d" * 32})
    renamed = [
        evaluated(one, one.evaluation, data=name, inputs=data, seed=seed)
        for seed, (one, name) in enumerate(((first, "faces"), (third, "renamed")))
    ]
    assert cells(compared(tmp_path, *renamed), "output_error")[1].verdict == "better"
    for given in ({"seed": 1}, {"num_samples": 20}):
        inputs = denoiser_evaluation(0.06, samples=given.get("num_samples", 32))
        found = compared(tmp_path, first, evaluated(third, inputs, **given))
        for key in OF_EVALUATION:
            assert cells(found, key)[1].verdict == "better"
            assert cells(found, key)[1].change.kind == "unpaired"
        values = next(row.values for row in found.equalities if row.name == "Evaluation inputs")
        assert values[1] == ("seed 1" if "seed" in given else "samples 20")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"length": 32}, "different lengths of text: 64 tokens and 32 tokens"),
        ({"text": "given"}, "different texts: the model's own and given"),
        ({"mask_ratios": 2}, "different mask ratios: 15%, 50%, 85% and 15%, 50%"),
    ],
)
def test_other_text_is_not_comparable(change: dict[str, Any], note: str, tmp_path: Path) -> None:
    first, _, third = phase_reports()
    given = language_evaluation(0.5)
    language = given.language
    if "mask_ratios" in change:
        change = {"mask_ratios": language.mask_ratios[:2]}
    other = language.model_copy(update=change)
    found = compared(tmp_path, evaluated(first, given), evaluated(third, given, language=other))
    assert {cells(found, key)[1].note for key in OF_EVALUATION} == {note}


def test_distances_of_other_numbers_of_samples_are_not_comparable(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    few, many = (judged(denoiser_evaluation(0.1), 0.9, 0.5) for _ in range(2))
    quality = few.sample_quality
    few = few.model_copy(
        update={
            "sample_quality": quality.model_copy(
                update={"num_samples": 50, "correct": quality.correct[:50]}
            )
        }
    )
    found = compared(tmp_path, evaluated(first, many), evaluated(third, few, inputs_key="few"))
    distance = cells(found, "frechet_distance")[1]
    assert distance.verdict == "not comparable"
    assert distance.note == "different numbers of samples: 100 and 50"
    assert cells(found, "sample_accuracy")[1].change.kind == "unpaired"


def test_inference_times_of_other_lengths_are_not_comparable(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    given = timed(language_evaluation(), 1.1)
    other = given.model_copy(
        update={"language": given.language.model_copy(update={"length": 32}), "inputs_key": "b"}
    )
    found = compared(tmp_path, evaluated(first, given), evaluated(third, other))
    cell = cells(found, "inference_time")[1]
    assert (cell.verdict, cell.note) == ("not comparable", "different lengths of text")


# What is missing.


def test_a_reference_without_an_evaluation_is_named(tmp_path: Path) -> None:
    reports = phase_reports()
    bare = phase_reports(evaluated=False)[0]
    found = compared(tmp_path, bare, reports[2])
    for key in (*OF_EVALUATION, "inference_time"):
        first, other = cells(found, key)
        assert first.verdict == other.verdict == "not measured"
        if key != "inference_time":
            assert other.note == "Phase 1 was not evaluated"
    assert cells(found, "output_error")[1].value > 0


def test_the_command_repeats_the_settings_that_are_there(tmp_path: Path) -> None:
    reports = phase_reports(evaluated=False)
    bare = reports[2]
    inputs = INPUTS.model_copy(update={"size": 64, "prompts": "b" * 32})
    plain = {"num_samples": 8, "steps": 10, "inputs": INPUTS}
    for settings, flags in (
        ({}, "--samples 8 --steps 10"),
        ({"seed": 3, "guidance": 1.5}, "--samples 8 --steps 10 --seed 3 --guidance 1.5"),
        (
            {"num_prompts": 2, "inputs": inputs, "data": "my faces"},
            "--samples 8 --steps 10 --prompts PROMPTS --data 'my faces' --size 64",
        ),
        ({"model_fingerprint": MODEL_FINGERPRINT}, "--samples 8 --steps 10 --judged 0"),
    ):
        first = evaluated(reports[0], denoiser_evaluation(samples=8), **{**plain, **settings})
        paths = write_reports(tmp_path, [first, bare])
        command = cells(compare(paths), "output_error")[1].command
        assert command.endswith(f" --quantized {shlex.quote(bare.provenance.output_path)} "
                                f"--report {paths[1]} {flags}")  # fmt: skip
    seen = judged(denoiser_evaluation(), 0.9, 0.5)
    found = compared(tmp_path, evaluated(reports[0], seen), bare)
    assert cells(found, "output_error")[1].command.endswith("--samples 32 --steps 20 --judged 100")
    found = compared(tmp_path, evaluated(reports[0], language_evaluation()), bare)
    assert cells(found, "output_error")[1].command.endswith("--samples 24 --steps 20 --length 64")
    other = with_provenance(evaluated(reports[0], seen), input_fingerprint="xxh3-128:" + "9" * 32)
    paths = write_reports(tmp_path, [other, bare])
    command = cells(compare(paths, allow_different_models=True), "output_error")[1].command
    assert "--samples" not in command  # those of another model


# Smoothness.


def test_a_prior_is_not_held_against_what_was_measured(tmp_path: Path) -> None:
    first, second, third = phase_reports()
    prior = second.model_copy(update={"parameter_source": "noise-schedule prior"})
    found = compared(tmp_path, first, prior, third)
    for key in ("smoothness_score", "violation_count"):
        cell = cells(found, key)[1]
        assert cell.verdict == "not comparable"
        assert cell.note == "other parameter source: noise-schedule prior, not calibration"
        assert (cell.change, cell.target) == (None, None)
        assert cell.value is not None
        assert cells(found, key)[2].target.met
    alike = [one.model_copy(update={"parameter_source": "noise-schedule prior"}) for one in
             (first, second)]  # fmt: skip
    score = cells(compared(tmp_path, *alike), "smoothness_score")[1]
    assert (score.verdict, score.target) == ("better", None)  # no target is of a model


def test_one_time_group_has_no_jump_to_be_smooth(tmp_path: Path) -> None:
    first, second, _ = phase_reports()
    single = second.model_copy(
        update={"num_time_groups": 1, "smoothness_score": 1.0, "violation_count": 0}
    )
    found = compared(tmp_path, first, single)
    for key in ("smoothness_score", "violation_count"):
        cell = cells(found, key)[1]
        assert (cell.verdict, cell.note) == ("not comparable", "one time group has no boundaries")
        assert cell.target is None


def test_other_numbers_of_groups_and_steps_are_noted(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    assert not any("Jumps are those" in note for note in compared(tmp_path, first, third).notes)
    more = third.model_copy(update={"num_time_groups": 10, "sampling_steps": 20})
    found = compared(tmp_path, first, more)
    assert cells(found, "smoothness_score")[1].verdict == "better"
    for what in ("different numbers of sampling steps", "different numbers of time groups"):
        assert any(what in note for note in found.notes)


def test_violations_of_other_thresholds_are_not_comparable(tmp_path: Path) -> None:
    first = phase_reports()[0]
    found = compared(tmp_path, first, phase_reports(threshold=0.2)[1])
    cell = cells(found, "violation_count")[1]
    assert (cell.verdict, cell.note) == ("not comparable", "different thresholds: 0.3 and 0.2")
    assert cells(found, "smoothness_score")[1].verdict == "better"


# Targets.


def test_no_measurable_difference_meets_and_misses_no_target(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    first = with_provenance(first, times_s={"total_s": 0.5})
    third = with_provenance(third, times_s={"total_s": 0.94})
    third = evaluated(third, denoiser_evaluation(0.09, inputs="other", samples=9), seed=1)
    found = compared(tmp_path, first, third)
    time, accuracy = cells(found, "quantization_time")[1], cells(found, "accuracy")[1]
    assert time.change.value == pytest.approx(0.88)
    for cell, text in ((time, "below +15%"), (accuracy, "+6% or more")):
        assert cell.verdict == "no measurable difference"
        assert (cell.target.text, cell.target.met) == (text, None)
    assert not any("Short of" in note for note in found.notes)
    assert (
        "No measurable difference, so that the specification's target is neither met nor missed: "
        "output cosine of Phase 3 and quantization time of Phase 3." in found.notes
    )
    printed = succeed("compare", *(one.source for one in found.variants)).stdout
    assert "target below +15%\n" in printed
    page = render_comparison(found)
    assert "target +6% or more</span>" in page


def test_targets_over_phase_1_are_of_no_other_reference(tmp_path: Path) -> None:
    _, second, third = phase_reports()
    found = compared(tmp_path, second, third)
    for key in ("accuracy", "quantization_time"):
        cell = cells(found, key)[1]
        assert cell.change is not None
        assert cell.target is None
    assert cells(found, "smoothness_score")[1].target.met  # which is over nothing


# What was equal of the phases' own settings.


def optimized(report: Report, settings: dict[str, Any] | None = None, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "coupling": 1.0,
        "gain_estimator": "unbiased",
        "num_layers": 1,
        "row_choices": [],
        "fallback_rows": 0,
        "row_values": 0,
        "output_errors": {},
        "output_corrections": [],
        **changes,
    }
    update = {
        "optimization": OptimizationSummary(**values),
        "settings": {"thermodynamic": {"optimization": settings or {}}},
    }
    return report.model_copy(update=update)


CORRECTION = StoredCorrection(component="", kind="channel", num_bins=20, stored_bytes=200)


@pytest.mark.parametrize(
    ("name", "other", "values"),
    [
        ("Gain estimator", {"gain_estimator": "variance"}, ["unbiased", "variance"]),
        ("Coupling", {"coupling": 2.5}, ["1", "2.5"]),
        (
            "Row choice",
            {"settings": {"row_choice": "per_time_group"}},
            ["by layer", "per time group in every layer"],
        ),
        (
            "Clip search",
            {"settings": {"clip_search": True}},
            ["of inputs with less than 8 bits", "of all inputs"],
        ),
        (
            "Output correction",
            {"output_corrections": [CORRECTION]},
            ["none", "by channel in 20 bins, 200 bytes"],
        ),
        (
            "Sequential",
            {"sequential": SequentialSummary(num_samples=8, num_passes=40, num_layers=3)},
            [
                "none",
                "of the quantized layers before each, for 3 layers, in 40 passes of 8 samples",
            ],
        ),
    ],
)
def test_settings_of_phase_3(
    name: str, other: dict[str, Any], values: list[str], tmp_path: Path
) -> None:
    third = phase_reports()[2]
    found = compared(tmp_path, optimized(third), optimized(third, **other))
    unlike = [row for row in found.equalities if not row.equal]
    assert [(row.name, row.values) for row in unlike] == [(name, values)]
    found = compared(tmp_path, phase_reports()[0], optimized(third, **other))
    row = next(row for row in found.equalities if row.name == name)
    assert (row.equal, row.values) == (False, ["none", values[1]])


def test_settings_of_phase_2(tmp_path: Path) -> None:
    second = phase_reports()[1]
    for given, name, values in (
        ({"interpolation": "linear"}, "Interpolation", ["cubic", "linear"]),
        (
            {"windows": [10.0, 20.0, 30.0]},
            "Windows",
            ["62.5 timesteps at 3 boundaries", "10, 20, 30 timesteps"],
        ),
    ):
        smoothing = second.thermodynamics.smoothing.model_copy(update=given)
        thermodynamics = second.thermodynamics.model_copy(update={"smoothing": smoothing})
        other = second.model_copy(update={"thermodynamics": thermodynamics})
        unlike = [row for row in compared(tmp_path, second, other).equalities if not row.equal]
        assert [(row.name, row.values) for row in unlike] == [(name, values)]


def test_starts_of_time_groups(tmp_path: Path) -> None:
    first, second, _ = phase_reports()
    groups = second.thermodynamics.time_groups
    moved = [*groups[:3], groups[3].model_copy(update={"start_timestep": 100.0})]
    thermodynamics = second.thermodynamics.model_copy(update={"time_groups": moved})
    other = second.model_copy(update={"thermodynamics": thermodynamics})
    found = {row.name: row for row in compared(tmp_path, first, other).equalities}
    assert found["Time groups"].equal
    assert found["Starts of time groups"].values == ["999, 749, 499, 249", "999, 749, 499, 100"]
    bare = second.model_copy(update={"thermodynamics": None})
    found = {row.name: row for row in compared(tmp_path, first, bare).equalities}
    for name in ("Starts of time groups", "Windows"):
        assert found[name].equal is None
        assert found[name].values[1] == "not noted without validation"
