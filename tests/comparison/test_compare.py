"""The table of a comparison: figures, verdicts, targets, what was equal, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from command_line import run, small_pipeline, succeed
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
from thermoq.comparison.run import compare, compare_sources
from thermoq.comparison.sources import read_sources
from thermoq.report.comparison_model import Comparison
from thermoq.report.comparison_page import render_comparison
from thermoq.report.json import to_json


@pytest.fixture
def phases(tmp_path: Path) -> list[Path]:
    return write_reports(tmp_path, phase_reports())


def test_the_specifications_table(phases: list[Path]) -> None:
    found = compare(phases)
    assert [one.label for one in found.variants] == ["Phase 1", "Phase 2", "Phase 3"]
    first, second, third = cells(found, "smoothness_score")
    assert (first.verdict, first.change, first.target) == (None, None, None)
    assert (second.verdict, second.target) == ("better", second.target)
    assert [c.target.text for c in (second, third)] == ["0.82 or more", "0.90 or more"]
    assert [c.target.met for c in (second, third)] == [True, True]
    assert third.change.value == pytest.approx(third.value - first.value)
    violations = cells(found, "violation_count")
    assert [cell.target and cell.target.met for cell in violations] == [None, False, True]
    assert violations[1].beside == "5 in single layers"


def test_errors_against_the_first(phases: list[Path]) -> None:
    reports = phase_reports()
    sums = [report.evaluation.denoiser.quarter_sums for report in reports]
    squared = [np.array(one.squared_error) for one in sums]
    energy = [np.array(one.energy) for one in sums]
    found = compare(phases)
    error = cells(found, "output_error")
    overall = [s.sum() / e.sum() for s, e in zip(squared, energy, strict=True)]
    assert [cell.value for cell in error] == pytest.approx(overall)
    assert error[2].change.value == pytest.approx(overall[2] / overall[0] - 1, rel=1e-6)
    assert [cell.verdict for cell in error] == [None, "no measurable difference", "better"]
    assert error[2].change.kind == "paired"
    parts = cells(found, "error_by_part")
    quarters = [s.sum(0) / e.sum(0) for s, e in zip(squared, energy, strict=True)]
    assert parts[2].value == pytest.approx(np.mean(quarters[2] / quarters[0]))
    assert parts[0].value == 1.0


def test_accuracy_is_the_cosine_or_the_tokens(phases: list[Path], tmp_path: Path) -> None:
    accuracy = cells(compare(phases), "accuracy")
    assert accuracy[2].change.value == pytest.approx(accuracy[2].value / accuracy[0].value - 1)
    assert [cell.target and cell.target.text for cell in accuracy[1:]] == [
        "+2% or more",
        "+6% or more",
    ]
    rates = (0.5, 0.5, 0.7)
    reports = [
        report.model_copy(update={"evaluation": language_evaluation(rate, 0.1 + 0.1 * (i == 0))})
        for i, (report, rate) in enumerate(zip(phase_reports(), rates, strict=True))
    ]
    found = compare(write_reports(tmp_path, reports))
    row = next(row for row in found.rows if row.key == "accuracy")
    assert row.title == "Accuracy: masked tokens, top-1"
    assert [cell.verdict for cell in row.cells] == [None, "no measurable difference", "better"]
    assert row.cells[2].target.met
    assert [cell.verdict for cell in cells(found, "output_error")] == [None, "better", "better"]
    assert found.parts_title == "KL to full precision by mask ratio"


def test_samples_that_a_judge_has_seen(tmp_path: Path) -> None:
    figures = ((0.6, 1.0), (0.6, 1.0), (0.9, 0.5))
    reports = [
        report.model_copy(update={"evaluation": judged(report.evaluation, *pair)})
        for report, pair in zip(phase_reports(), figures, strict=True)
    ]
    found = compare(write_reports(tmp_path, reports))
    accuracy, distance = cells(found, "sample_accuracy"), cells(found, "frechet_distance")
    assert [cell.verdict for cell in accuracy] == [None, "no measurable difference", "better"]
    assert accuracy[2].change.value == pytest.approx(0.3)
    assert [cell.verdict for cell in distance] == [None, "no measurable difference", "better"]
    assert distance[2].change.value == pytest.approx(-0.5)


def test_other_inputs_are_no_pairs(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    third = third.model_copy(
        update={"evaluation": denoiser_evaluation(0.06, inputs="other", samples=20)}
    )
    found = compare(write_reports(tmp_path, [first, third]))
    assert cells(found, "output_error")[1].change.kind == "unpaired"
    assert any("intervals of differences are unpaired" in note for note in found.notes)
    assert equal(found)["Evaluation inputs"] is False


def test_what_was_not_measured_names_the_command(tmp_path: Path) -> None:
    reports = phase_reports(evaluated=False)
    paths = write_reports(tmp_path, [reports[0], reports[2]])
    found = compare(paths)
    for key in ("accuracy", "output_error", "error_by_part"):
        assert [cell.verdict for cell in cells(found, key)] == ["not measured"] * 2
    provenance = reports[2].provenance
    command = f"thermoq evaluate --model {provenance.input_path} --quantized "
    assert cells(found, "output_error")[1].command == (
        f"{command}{provenance.output_path} --report {paths[1]}"
    )
    assert found.confidence is None
    assert "Not measured: output cosine, output error" in found.summary[0]


def test_overhead_counts_the_same_method_on_the_same_machine(tmp_path: Path) -> None:
    first, second, third = phase_reports()
    first = with_provenance(first, times_s={"total_s": 40.0})
    second = with_provenance(second, times_s={"total_s": 41.0})
    third = with_provenance(third, times_s={"total_s": 48.6, "output_correction_s": 4.6})
    found = compare(write_reports(tmp_path, [first, second, third]))
    time = cells(found, "quantization_time")
    assert [cell.value for cell in time] == pytest.approx([40.0, 41.0, 44.0])
    assert time[2].change.value == pytest.approx(0.1)
    assert [cell.verdict for cell in time] == [None, "no measurable difference", "worse"]
    assert [cell.target and cell.target.met for cell in time] == [None, None, True]
    assert time[2].beside == "and 4.60 s of running the model"
    rotated = [row.model_copy(update={"rotation": "hadamard"}) for row in third.layers]
    for other, what in (
        (third.model_copy(update={"method": "lsq"}), "weight methods"),
        (third.model_copy(update={"encoding": "trellis"}), "encodings"),
        (third.model_copy(update={"bit_width": 4}), "bit widths"),
        (third.model_copy(update={"layers": rotated}), "rotations"),
        (with_provenance(third, cpu="another"), "CPUs"),
        (with_provenance(third, threads=1), "numbers of threads"),
    ):
        found = compare(write_reports(tmp_path, [first, other]))
        cell = cells(found, "quantization_time")[1]
        assert (cell.verdict, cell.note) == ("not comparable", f"different {what}")
        assert (cell.value, cell.change, cell.target) == (pytest.approx(44.0), None, None)
        assert f"Not comparable: quantization time (different {what})." in found.summary[0]


def test_overhead_of_inference(tmp_path: Path) -> None:
    ratios = (1.01, 1.04, 1.25)
    reports = [
        report.model_copy(update={"evaluation": timed(report.evaluation, ratio, seed=i)})
        for i, (report, ratio) in enumerate(zip(phase_reports(), ratios, strict=True))
    ]
    paths = write_reports(tmp_path, reports)
    found = compare(paths)
    time = cells(found, "inference_time")
    medians = [float(np.median(report.evaluation.inference.ratios)) for report in reports]
    assert [cell.value for cell in time] == medians
    assert medians == pytest.approx(ratios, rel=0.005)
    assert [cell.verdict for cell in time] == [None, "worse", "worse"]
    assert [cell.target and (cell.target.text, cell.target.met) for cell in time] == [
        None,
        ("at most 1.10", True),
        ("at most 1.15", False),
    ]
    for cell, value in zip(time[1:], medians[1:], strict=True):
        assert cell.change.value == pytest.approx(value / medians[0] - 1.0)
        assert cell.change.low < cell.change.value < cell.change.high
        assert (cell.change.kind, cell.change.relative) == ("timed", True)
        assert cell.low < cell.value < cell.high
        assert cell.beside == f"{cell.low:.3f} to {cell.high:.3f}; batch of 64"
    printed = succeed("compare", *paths).stdout
    assert "Overhead: inference time (lower is better)" in printed
    assert f"{medians[2]:.3f}" in printed
    assert time[2].beside in printed
    assert f"{time[2].beside}</span>" in render_comparison(found)
    assert "inference time of Phase 3" in next(n for n in found.notes if n.startswith("Short of"))


def test_inference_times_of_other_machines_are_not_compared(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    first = first.model_copy(update={"evaluation": timed(first.evaluation, 1.0)})
    for changes, what in (
        ({"cpu": "another"}, "CPUs"),
        ({"threads": 1}, "numbers of threads"),
        ({"batch_size": 8}, "batch sizes"),
    ):
        other = third.model_copy(update={"evaluation": timed(third.evaluation, 1.1, **changes)})
        found = compare(write_reports(tmp_path, [first, other]))
        cell = cells(found, "inference_time")[1]
        assert (cell.verdict, cell.note) == ("not comparable", f"different {what}")
        assert (cell.change, cell.target.met) == (None, True)  # its own ratio is one all the same
        assert cell.value == pytest.approx(1.1, rel=0.005)
        assert f"inference time (different {what})" in found.summary[0]


def test_inference_times_that_are_missing(phases: list[Path], tmp_path: Path) -> None:
    """Of reports that were not evaluated, or not timed; both name the command that times."""
    assert {cell.verdict for cell in cells(compare(phases), "inference_time")} == {"not measured"}
    bare, timed_one = phase_reports(evaluated=False)[0], phase_reports()[2]
    timed_one = timed_one.model_copy(update={"evaluation": timed(timed_one.evaluation, 1.1)})
    paths = write_reports(tmp_path, [phase_reports()[0], timed_one])
    without, measured = cells(compare(paths), "inference_time")
    assert without.note == "not measured: its evaluation has no such figure"
    assert without.command.endswith(f"--report {paths[0]} --samples 32 --steps 20")
    assert (measured.verdict, measured.note) == ("not measured", "Phase 1 has no such figure")
    assert measured.target.met
    paths = write_reports(tmp_path, [bare, timed_one])
    without = cells(compare(paths), "inference_time")[0]
    assert (without.note, without.value) == ("not measured", None)
    assert without.command.startswith("thermoq evaluate --model ")


def test_shipped_inference_times_are_marked(phases: list[Path]) -> None:
    sources = [
        replace(
            one,
            evaluation=timed(one.evaluation, 1.1) if i else one.evaluation,
            shipped="shipped, not measured in this run",
        )
        for i, one in enumerate(read_sources(phases))
    ]
    found = cells(compare_sources(sources), "inference_time")
    assert [cell.shipped for cell in found] == [False, True, True]
    assert found[0].command is None  # there is nothing here to run


def test_without_validation_smoothness_is_not_measured(tmp_path: Path) -> None:
    reports = phase_reports(validation=True)
    bare = {
        key: None
        for key in type(reports[0]).model_fields
        if key in thermoq.report.json.THERMODYNAMIC_KEYS
    }
    paths = write_reports(tmp_path, [reports[0], reports[1].model_copy(update=bare)])
    score = cells(compare(paths), "smoothness_score")[1]
    assert score.verdict == "not measured"
    assert score.note == "not measured: validation was switched off"


def test_what_was_equal(phases: list[Path], tmp_path: Path) -> None:
    found = equal(compare(phases))
    assert {name for name, same in found.items() if not same} == {"Interpolation", "Windows"}
    assert set(equal(compare(phases[1:])).values()) == {True}
    first, second, _ = phase_reports()
    other = with_provenance(second, seed=3, calibration_fingerprint=None)
    rows = [
        row.model_copy(update={"squared_error": 1.1 * row.squared_error}) for row in other.layers
    ]
    other = other.model_copy(update={"layers": rows, "bit_width": 4, "phase": "baseline"})
    unlike = {
        name
        for name, same in equal(compare(write_reports(tmp_path, [first, other]))).items()
        if not same
    }
    assert unlike == {"Bit width", "Weight codes", "Calibration (fingerprint)", "Seed"}


def test_variants_of_one_phase_are_told_apart(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    lsq = third.model_copy(update={"method": "lsq"})
    found = compare(write_reports(tmp_path, [first, third, lsq]))
    assert [v.label for v in found.variants] == ["Phase 1", "Phase 3 (minmax)", "Phase 3 (lsq)"]
    found = compare(write_reports(tmp_path, [first, third, third]))
    assert [v.label for v in found.variants] == ["Phase 1", "Phase 3 (2)", "Phase 3 (3)"]


# Bad input.


def problem(*arguments: object) -> tuple[int, str]:
    finished = run("compare", *arguments)
    return finished.exit_code, finished.problem().removeprefix("error: ")


def test_one_report_is_none_to_compare(phases: list[Path]) -> None:
    expected = "compare: expected at least two reports or quantized directories, got "
    assert problem(phases[0]) == (2, expected + str(phases[0]))
    assert problem() == (2, "Missing argument 'SOURCES...'.")


def test_other_models_are_refused_unless_asked_for(tmp_path: Path) -> None:
    first, second, _ = phase_reports()
    other = with_provenance(second, input_fingerprint="xxh3-128:" + "9" * 32)
    paths = write_reports(tmp_path, [first, other])
    code, text = problem(*paths)
    assert code == 1
    assert text.startswith(f"{paths[1]}: expected a report on the model of {paths[0]}")
    assert text.endswith("--allow-different-models compares them")
    printed = succeed("compare", *paths, "--allow-different-models").stdout
    assert "different: Model (fingerprint)" in printed
    assert "not comparable different models" in " ".join(printed.split())


def test_format_versions_must_agree(phases: list[Path]) -> None:
    data = json.loads(phases[1].read_text())
    phases[1].write_text(json.dumps({**data, "format_version": 2}))
    assert problem(*phases) == (
        1,
        f"{phases[1]}: expected a report of format_version 1, as {phases[0]} is, got 2",
    )
    assert problem(phases[1], phases[1])[1].startswith(
        f"{phases[1]}: expected a thermoq report with format_version 1, got 2"
    )


def test_broken_json_is_named_with_its_place(phases: list[Path]) -> None:
    phases[1].write_text(phases[1].read_text()[:-40])
    code, text = problem(*phases)
    assert code == 1
    assert text.startswith(f"{phases[1]}: expected a JSON report, got ")
    assert "line " in text


def test_what_is_no_report(phases: list[Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    assert problem(phases[0], missing) == (
        1,
        f"{missing}: expected a JSON report or a quantized directory, got none",
    )
    small_pipeline(tmp_path / "model")
    code, text = problem(phases[0], tmp_path / "model")
    assert (code, "expected a checkpoint quantized by thermoq" in text) == (1, True)
    code, text = problem(*phases, "--html-report", phases[0])
    assert code == 2
    assert phases[0].read_text().startswith("{")


# The command.


def test_the_command_prints_within_80_columns(phases: list[Path]) -> None:
    lines = succeed("compare", *phases).stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("to measure")) <= 80
    assert "Smoothness score (higher is better)" in lines
    assert any(line.startswith("  Phase 3  0.9500  +0.111   better") for line in lines)
    assert any("target 0.90 or more: met" in line for line in lines)
    assert succeed("compare", *phases, "--quiet").stdout == ""


def test_long_figures_do_not_make_long_lines(tmp_path: Path) -> None:
    first, _, third = phase_reports()
    reports = [first, third, third.model_copy(update={"method": "hessian"})]
    changed = denoiser_evaluation(0.1, inputs="other", seed=4, samples=31)
    reports[2] = reports[2].model_copy(update={"evaluation": changed})
    names = ["a-long-name-of-a-report-of-phase-one", "b-long-name-too", "c-long-name-again"]
    paths = [tmp_path / f"{name}.json" for name in names]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(to_json(report.model_copy(update={"method": "minmax"})))
    lines = succeed("compare", *paths).stdout.splitlines()
    table = [line for line in lines if not line.startswith("to measure")]
    assert max(map(len, table)) <= 80
    assert any(line.strip().startswith("no measurable difference") for line in table)


def test_the_command_prints_json(phases: list[Path]) -> None:
    found = Comparison.model_validate_json(succeed("compare", *phases, "--json").stdout)
    assert found == compare(phases)


def test_directories_and_reports_alike(tmp_path: Path) -> None:
    model = small_pipeline(tmp_path / "model")
    calibrated(model, tmp_path / "calibration.safetensors")
    for phase in ("baseline", "smooth", "optimize"):
        thermoq.quantize(
            model,
            tmp_path / phase,
            phase=phase,
            method="minmax",
            calibration=str(tmp_path / "calibration.safetensors"),
            output_correction=False,
            report=tmp_path / f"{phase}.json",
        )
    inside = thermoq.compare([tmp_path / name for name in ("baseline", "smooth", "optimize")])
    assert equal(inside)["Weight codes"] is True
    assert cells(inside, "quantization_time")[1].value is None
    command = cells(inside, "output_error")[1].command
    assert command == f"thermoq evaluate --model MODEL --quantized {tmp_path / 'smooth'}"
    mixed = thermoq.compare([tmp_path / "baseline.json", tmp_path / "smooth"])
    assert f"--model {model} " in cells(mixed, "output_error")[1].command
    outside = thermoq.compare([tmp_path / f"{n}.json" for n in ("baseline", "smooth", "optimize")])
    for key in ("smoothness_score", "violation_count", "size"):
        ours, theirs = cells(inside, key), cells(outside, key)
        assert [cell.value for cell in ours] == pytest.approx([cell.value for cell in theirs])
    thermoq.quantize(model, tmp_path / "lsq", method="lsq", output_correction=False)
    other = thermoq.compare([tmp_path / "baseline", tmp_path / "lsq"])
    assert equal(other)["Weight codes"] is False
