"""Phases 2 and 3 on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibrations import calibrated
from command_line import run, small_pipeline, succeed


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline named `model` and its calibration `c.safetensors`."""
    small_pipeline(tmp_path / "model")
    calibrated(tmp_path / "model", tmp_path / "c.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = ("quantize", "--model", "model", "--output", "out", "--method", "lsq")
CALIBRATED = (*RUN, "--calibration", "c.safetensors", "--no-output-correction")


def test_every_command_knows_an_optimized_checkpoint(there: Path) -> None:
    finished = succeed(
        *(*CALIBRATED, "--phase", "optimize", "--interpolation", "cubic", "--window", 30),
        *("--coupling", 0.5, "--gain-estimator", "variance"),
        *("--report", "r.json", "--html-report", "r.html"),
    )
    report = json.loads(Path("r.json").read_text())
    assert report["phase"] == "optimize"
    assert report["optimization"]["coupling"] == 0.5
    assert report["optimization"]["gain_estimator"] == "variance"
    layers = report["optimization"]["num_layers"]
    (rows,) = [line for line in finished.stdout.splitlines() if line.startswith("rows ")]
    assert f"of {layers} layers" in rows
    assert f"{report['sizes']['time_parameter_bytes']:,} bytes" in rows
    log = Path("r.log").read_text()
    assert "\n  coupling: 0.5" in log
    assert log.count(" bytes of time parameters") == layers
    assert 'id="optimization"' in Path("r.html").read_text()
    finished = succeed("inspect", "out")
    assert "phase optimize, 4 time groups, cubic within 30 timesteps of boundaries" in (
        finished.stdout
    )
    (trajectory,) = json.loads(succeed("inspect", "out", "--json").stdout)["trajectories"]
    assert trajectory["windows"] == [30.0, 30.0, 30.0]
    succeed("verify", "out")
    finished = succeed("export", "out", "dense")
    assert f"weights alone are exported: activation parameters of {layers} layer" in (
        finished.stdout
    )


def test_what_a_run_without_calibration_smooths(there: Path) -> None:
    finished = succeed(*RUN, "--phase", "smooth", "--report", "r.json")
    assert "smooths the prior in the report only" in finished.stderr
    assert "left out" not in succeed("export", "out", "dense").stdout
    assert json.loads(Path("r.json").read_text())["phase"] == "smooth"


def test_an_optimization_needs_a_calibration(there: Path) -> None:
    finished = run(*RUN, "--optimization")
    assert finished.exit_code == 2
    assert "`thermoq calibrate --model DIR --output CALIBRATION" in finished.problem()
    assert not Path("out").exists()


def test_a_plan_counts_the_most_rows(there: Path) -> None:
    flags = [word for word in CALIBRATED if word not in ("--output", "out")]
    plain = json.loads(succeed(*flags, "--dry-run", "--json").stdout)
    plan = json.loads(succeed(*flags, "--dry-run", "--json", "--phase", "optimize").stdout)
    report = json.loads(succeed(*CALIBRATED, "--phase", "optimize", "--json").stdout)
    assert plain["model_bytes"] < plan["model_bytes"]
    assert report["sizes"]["model_bytes"] <= plan["model_bytes"]
    assert any("optimize" in line for line in plan["warnings"])
