"""Whole runs of Phases 2 and 3: their figures, beside Phase 1's of the same layers."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from thermoq.report.model import Report
from thermoq.terms import INTERPOLATIONS, Interpolation


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.dit(tmp_path / "model")


@pytest.fixture
def calibration(model: Path, tmp_path: Path) -> Path:
    calibrated(model, tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def run(model: Path, output: Path, calibration: Path | None, **settings: object) -> Report:
    given = {"method": "lsq", "num_time_groups": 5, **settings}
    return thermoq.quantize(model, output, calibration=calibration, **given)


def test_a_baseline_has_no_before(model: Path, calibration: Path, tmp_path: Path) -> None:
    figures = run(model, tmp_path / "out", calibration).thermodynamics
    assert figures is not None
    assert figures.before is None
    assert figures.smoothing is None
    assert figures.layer_violation_count is not None
    assert figures.group_smoothness_score == pytest.approx(1 - figures.total_jump / 8)


@pytest.mark.parametrize("source", ["calibration", "prior"])
def test_phase_2_is_held_against_phase_1(
    source: str, model: Path, calibration: Path, tmp_path: Path
) -> None:
    given = calibration if source == "calibration" else None
    first = run(model, tmp_path / "first", given)
    second = run(model, tmp_path / "second", given, phase="smooth")
    assert first.thermodynamics is not None
    assert second.thermodynamics is not None
    before = second.thermodynamics.before
    assert before is not None
    assert before.smoothness_score == first.smoothness_score
    assert before.violation_count == first.violation_count
    assert before.boundary_scores == first.boundary_scores
    assert before.layer_violation_count == first.thermodynamics.layer_violation_count
    assert (second.smoothness_score or 0) > (first.smoothness_score or 0)
    for a, b in zip(first.layers, second.layers, strict=True):
        assert a.relative_squared_error == b.relative_squared_error
        if a.time_parameters and b.time_parameters:
            assert a.time_parameters.scale == b.time_parameters.scale
            jumps = np.array([a.time_parameters.scale_jump, b.time_parameters.scale_jump])
            assert (jumps[1] <= jumps[0] + 1e-12).all()


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_what_the_baseline_foretells_is_what_phase_2_gets(
    kind: Interpolation, model: Path, calibration: Path, tmp_path: Path
) -> None:
    first = run(model, tmp_path / "first", calibration).thermodynamics
    settings = {"phase": "smooth", "interpolation": kind}
    second = run(model, tmp_path / "second", calibration, **settings)
    widest = run(model, tmp_path / "widest", calibration, window=1e6, **settings)
    assert first is not None
    assert first.default_window_scores is not None
    assert first.widest_window_scores is not None
    assert second.smoothness_score == first.default_window_scores[kind]
    assert widest.smoothness_score == first.widest_window_scores[kind]
    assert second.smoothness_score < widest.smoothness_score


def test_more_sampling_steps_cross_less_in_each(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    scores = []
    for steps in (5, 20, 100):
        settings = {"phase": "smooth", "sampling_steps": steps}
        report = run(model, tmp_path / f"{steps}", calibration, **settings)
        assert report.sampling_steps == steps
        assert report.thermodynamics is not None
        scores.append(report.smoothness_score or 0)
        assert report.thermodynamics.before is not None
    assert scores == sorted(scores)
    assert scores[2] > scores[0]


def test_clamped_windows_are_in_the_report(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "out", calibration, phase="smooth", window=150.0)
    assert report.thermodynamics is not None
    smoothing = report.thermodynamics.smoothing
    assert smoothing is not None
    assert (smoothing.window, smoothing.interpolation) == (150.0, "linear")
    assert smoothing.windows == [100.0] * 4
    assert smoothing.clamped_boundaries == [0, 1, 2, 3]


def test_one_time_group_has_nothing_to_smooth(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    report = run(model, tmp_path / "out", calibration, phase="smooth", num_time_groups=1)
    assert report.smoothness_score == 1.0
    assert report.thermodynamics is not None
    assert report.thermodynamics.smoothing is None
    assert report.thermodynamics.widest_window_scores is None


def test_phase_3_is_held_against_measured_parameters(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    first = run(model, tmp_path / "first", calibration)
    settings = {"phase": "optimize", "smoothing": False, "output_correction": False}
    third = run(model, tmp_path / "third", calibration, **settings)
    assert third.thermodynamics is not None
    assert third.thermodynamics.smoothing is None
    assert third.thermodynamics.before is not None
    assert third.thermodynamics.before.smoothness_score == first.smoothness_score
    assert third.smoothness_score != first.smoothness_score
