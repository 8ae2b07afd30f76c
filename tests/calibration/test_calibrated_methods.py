"""Runs whose weights use a calibration: hessian, importances and rotation, from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from thermoq.errors import UsageError
from thermoq.report.log import render_log
from thermoq.report.model import Report
from thermoq.rotation import Rotation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.dit(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def calibration(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    calibrated(model, path)
    return path


def run(model: Path, output: Path, calibration: Path, **settings: object) -> Report:
    return thermoq.quantize(model, output, calibration=calibration, **settings)


def assert_export_has_the_errors(report: Report, model: Path, output: Path) -> None:
    """The dense weights are as far from the source as the report says."""
    thermoq.verify(output)
    thermoq.export(output, output.with_name("dense"), dtype="float32", overwrite=True)
    dense = models.float_tensors(output.with_name("dense") / "transformer")
    source = models.float_tensors(model / "transformer")
    for row in report.layers:
        lost = np.square((dense[row.name] - source[row.name]).astype(np.float64)).sum()
        assert row.squared_error == pytest.approx(lost, rel=1e-4, abs=1e-9), row.name


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
@pytest.mark.parametrize("encoding", ["affine", "coded", "trellis"])
@pytest.mark.parametrize("method", ["lsq", "hessian"])
def test_every_combination(
    model: Path, calibration: Path, tmp_path: Path, method: str, encoding: str, rotation: str
) -> None:
    output = tmp_path / "out"
    report = run(
        model, output, calibration, method=method, encoding=encoding, rotation=rotation, threads=2
    )
    assert report.method == method
    assert {row.method for row in report.layers} <= {method, "lsq"}
    assert method in {row.method for row in report.layers}
    assert_export_has_the_errors(report, model, output)
    manifest = json.loads((output / "transformer/thermoq.json").read_text("utf-8"))
    rotated = {name for name, entry in manifest["tensors"].items() if "rotation" in entry}
    assert bool(rotated) == (rotation == "hadamard")
    assert manifest["format_version"] == (2 if rotated else 1)
    config = json.loads((output / "transformer/config.json").read_text("utf-8"))
    assert config["quantization_config"]["format_version"] == manifest["format_version"]
    assert rotated == {row.name for row in report.layers if row.rotation and not row.same_as}
    assert ("inputs rotated" in render_log(report)) == bool(rotated)
    for name in rotated:
        assert manifest["tensors"][name]["bit_width"] < 8
        assert len(manifest["tensors"][name]["shape"]) == 2


def test_hessian_is_the_default_and_lowers_the_outputs_error(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    default = run(model, tmp_path / "out", calibration)
    plain = run(model, tmp_path / "plain", calibration, method="minmax")
    assert default.method == "hessian"
    assert default.output_cosine_similarity is not None
    assert plain.output_cosine_similarity is not None
    assert default.output_cosine_similarity > plain.output_cosine_similarity
    for row in (*default.layers, *plain.layers):
        known = row.output_relative_squared_error is not None
        assert known == (row.output_cosine_similarity is not None)
    assert thermoq.quantize(model, tmp_path / "without").output_cosine_similarity is None


def test_importances_change_the_codes_of_least_squares(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    with_them = run(model, tmp_path / "a", calibration, method="lsq", encoding="affine")
    without = thermoq.quantize(model, tmp_path / "b", method="lsq", encoding="affine")
    squared = [sum(row.squared_error for row in report.layers) for report in (with_them, without)]
    assert squared[0] > squared[1]  # of the weights, which is what `without` minimizes


def test_few_rows_are_said(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "out", calibration)
    manifest = json.loads((tmp_path / "out/transformer/thermoq.json").read_text("utf-8"))
    from thermoq.calibration.file import read_calibration

    known = read_calibration(calibration)
    scarce = 0
    for row in report.layers:
        source = known.input_of(f"transformer/{row.name}")
        if row.method == "hessian" and source is not None:
            scarce += int(source.num_rows.sum()) < source.num_columns
    lines = [line for line in report.warnings if "fewer rows than columns" in line]
    assert len(lines) == (1 if scarce else 0)
    if scarce:
        assert lines[0].startswith(f"calibration: {scarce} of the layers")
    assert manifest["method"] == "hessian"


def test_layers_without_rows_are_said(model: Path, tmp_path: Path) -> None:
    calibrated(model, tmp_path / "c.safetensors", rows_per_bin=0)
    report = run(model, tmp_path / "out", tmp_path / "c.safetensors")
    assert {row.method for row in report.layers} == {"lsq"}
    (line,) = [line for line in report.warnings if "no input rows were kept" in line]
    assert "which are rounded by lsq" in line
    quiet = run(model, tmp_path / "lsq", tmp_path / "c.safetensors", method="lsq")
    assert not [line for line in quiet.warnings if "no input rows" in line]


def test_ranges_are_those_of_rotated_inputs(model: Path, calibration: Path, tmp_path: Path) -> None:
    from thermoq.calibration.file import read_calibration

    report = run(model, tmp_path / "out", calibration, rotation="hadamard", seed=7)
    known = read_calibration(calibration)
    rotated = [row for row in report.layers if row.rotation and row.time_parameters]
    assert rotated
    for row in rotated:
        source = known.input_of(f"transformer/{row.name}")
        assert source is not None
        assert row.time_parameters is not None
        rows = Rotation(7, source.num_columns).forward(source.sample())
        top = 255 * max(row.time_parameters.scale)
        span = max(0.0, float(rows.max())) - min(0.0, float(rows.min()))
        assert top <= span * 1.001
        assert top > 0.3 * span


def test_threads_change_no_byte(model: Path, calibration: Path, tmp_path: Path) -> None:
    found = set()
    for threads in (1, 3):
        output = tmp_path / f"out{threads}"
        run(model, output, calibration, rotation="hadamard", threads=threads)
        found.add((output / "transformer/diffusion_pytorch_model.safetensors").read_bytes())
    assert len(found) == 1


def test_what_the_methods_need(model: Path, calibration: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hessian needs a calibration"):
        thermoq.quantize(model, tmp_path / "out", method="hessian")
    with pytest.raises(UsageError, match="hadamard needs method lsq or hessian"):
        thermoq.quantize(model, tmp_path / "out", method="minmax", rotation="hadamard")
    with pytest.raises(UsageError, match="expected method minmax, got hessian"):
        thermoq.baseline(model, tmp_path / "out", calibration=calibration, method="hessian")
    assert not (tmp_path / "out").exists()
