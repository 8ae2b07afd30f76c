"""What a plan says of its own predictions, and of rotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
import thermoq
from calibrations import calibrated
from safetensors_files import write_safetensors
from thermoq.report.log import render_log

HESSIAN = (
    "weight error by lsq; hessian trades weight error for output error, which is measured in the "
    "run"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model `in` beside its calibration `c.safetensors`."""
    source = models.dit(tmp_path / "in", "BF16")
    calibrated(source, tmp_path / "c.safetensors")
    return source


@pytest.mark.parametrize(
    ("method", "predicted_by", "note"),
    [
        ("minmax", "minmax", None),
        ("lsq", "lsq", "weight error with all columns alike; with a calibration lsq weighs them"),
        ("hessian", "lsq", HESSIAN),
    ],
)
def test_what_predictions_are_of(
    model: Path, tmp_path: Path, method: str, predicted_by: str, note: str | None
) -> None:
    settings: dict[str, Any] = {"calibration": str(tmp_path / "c.safetensors"), "method": method}
    plan = thermoq.plan_quantization(model, target_bits=5.0, **settings)
    page = tmp_path / "r.html"
    report = thermoq.quantize(
        model, tmp_path / "out", target_bits=5.0, html_report=page, **settings
    )
    told = report.budget
    assert told is not None
    assert (plan.method, plan.predicted_by, told.predicted_by) == (method, *[predicted_by] * 2)
    assert plan.prediction_note == told.prediction_note
    assert (told.prediction_note or "").startswith(note or "")
    for text in (render_log(report), page.read_text()):
        assert (f"predicted: {told.prediction_note}" in text) == (note is not None)
    # Why it has to be said: a run by lsq without a calibration is what was predicted.
    without = thermoq.plan_quantization(model, target_bits=5.0, method=predicted_by)
    assert without.prediction_note is None
    assert plan.tensors[0].relative_squared_error == without.tensors[0].relative_squared_error
    measured = pytest.approx(plan.relative_squared_error, rel=1e-6)
    assert (report.relative_squared_error == measured) == (note is None)


def test_a_plan_tells_which_tensors_are_rotated(model: Path, tmp_path: Path) -> None:
    rules = [{"match": "*.attn1.to_q.weight", "bit_width": 8}]
    settings: dict[str, Any] = {"encoding": "affine", "rotation": "hadamard", "layers": rules}
    plan = thermoq.plan_quantization(model, **settings)
    report = thermoq.quantize(model, tmp_path / "out", **settings)
    rotated = {row.name for row in report.layers if row.rotation}
    assert rotated
    assert not any("to_q" in name for name in rotated)
    assert {row.name for row in plan.tensors if row.rotation} == rotated
    printed = json.loads(plan.model_dump_json())
    assert {row["name"] for row in printed["tensors"] if row["rotation"] == "hadamard"} == rotated


def test_a_rotation_that_nothing_can_have_is_said(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.add("blocks.0.attn.to_q.weight", 64, 33)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    line = (
        "--rotation: hadamard has no effect: no tensor is a matrix of 2, 3 or 4 bits with an even "
        "number of columns"
    )
    assert thermoq.plan_quantization(tmp_path / "in", rotation="hadamard").warnings == [line]
    assert thermoq.inspect(tmp_path / "in", rotation="hadamard").notes == (line,)
    report = thermoq.quantize(tmp_path / "in", tmp_path / "out", rotation="hadamard")
    assert line in report.warnings
    assert thermoq.plan_quantization(tmp_path / "in").warnings == []


def test_a_budget_that_leaves_nothing_to_rotate_is_said(model: Path, tmp_path: Path) -> None:
    report = thermoq.quantize(model, tmp_path / "out", max_size="1GB", rotation="hadamard")
    assert any("hadamard has no effect" in line for line in report.warnings)
