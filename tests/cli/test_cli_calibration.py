"""`--calibration` and `--grouping` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calibrations import calibrated
from command_line import run, small_pipeline, succeed, tree


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline named `model` and its calibration `c.safetensors`."""
    small_pipeline(tmp_path / "model")
    calibrated(tmp_path / "model", tmp_path / "c.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*flags: object) -> tuple[int, str]:
    finished = run("baseline", "--model", "model", "--output", "out", *flags)
    assert not Path("out").exists()
    assert finished.stderr.count("\n") == 1
    return finished.exit_code, finished.stderr.strip()


@pytest.mark.parametrize("command", ["baseline", "quantize"])
def test_a_calibrated_run(command: str, there: Path) -> None:
    finished = succeed(
        *(command, "--model", "model", "--output", "out", "--calibration", "c.safetensors"),
        *("--grouping", "adaptive", "--report", "r.json", "--html-report", "r.html"),
    )
    assert "calibration: measured along the trajectory; " in finished.stdout
    assert "\nthen " not in finished.stdout
    report: dict[str, Any] = json.loads(Path("r.json").read_text())
    assert report["settings"]["calibration"] == "c.safetensors"
    assert report["settings"]["grouping"] == "adaptive"
    assert "--calibration c.safetensors --grouping adaptive" in report["provenance"]["command"]
    succeed("verify", "out")
    finished = succeed("inspect", "out", "--json")
    assert not json.loads(finished.stdout)["notes"]


def test_inspect_sums_up_a_calibration(there: Path) -> None:
    told = json.loads(succeed("inspect", "c.safetensors", "--json").stdout)
    first, *lines = succeed("inspect", "c.safetensors").stdout.splitlines()
    assert first.startswith("c.safetensors: a calibration by thermoq ")
    printed = dict(line.split(maxsplit=1) for line in lines)
    (part,) = told["components"].values()
    assert part["fingerprint"] in printed["model"]
    assert printed["layers"] == f"{told['num_layers']} layers with {told['num_inputs']} inputs"
    assert printed["schedule"] == "gaussian, 1,000 timesteps in 20 bins"
    assert printed["sampler"] == "ExampleScheduler, 8 samples in 25 steps, seed 0"
    assert printed["rows"] == f"{told['num_rows']:,} kept, at most 16 of an input in each bin"
    assert printed["fingerprint"] == told["fingerprint"]
    Path("cut.safetensors").write_bytes(Path("c.safetensors").read_bytes()[:-8])
    finished = run("inspect", "cut.safetensors")
    assert finished.exit_code == 1
    assert "expected a model directory" not in finished.problem()


def test_key_and_flag_do_the_same(there: Path) -> None:
    Path("c.yaml").write_text("quantization: {calibration: c.safetensors, grouping: adaptive}\n")
    words = ("baseline", "--model", "model", "--quiet", "--output")
    succeed(*words, "a", "--config", "c.yaml")
    succeed(*words, "b", "--calibration", "c.safetensors", "--grouping", "adaptive")
    assert tree(Path("a")) == tree(Path("b"))


def test_the_plan_of_a_calibrated_run_is_exact(there: Path) -> None:
    words = ("quantize", "--model", "model", "--calibration", "c.safetensors", "--json")
    plan = json.loads(succeed(*words, "--dry-run").stdout)
    report = json.loads(succeed(*words, "--output", "out").stdout)
    assert plan["model_bytes"] == report["sizes"]["model_bytes"]
    without = json.loads(succeed("quantize", "--model", "model", "--dry-run", "--json").stdout)
    assert without["model_bytes"] < plan["model_bytes"]


def test_the_prior_is_told_to_calibrate(there: Path) -> None:
    finished = succeed("baseline", "--model", "model", "--output", "out")
    lines = dict(line.split(maxsplit=1) for line in finished.stdout.splitlines())
    assert lines["next"] == "thermoq calibrate --model model --output out-calibration.safetensors"
    assert lines["then"] == (
        "thermoq baseline --model model --output out-calibrated --bit-width 2 --num-time-groups 4 "
        "--calibration out-calibration.safetensors"
    )


def test_a_file_that_is_not_there(there: Path) -> None:
    code, text = refused("--calibration", "no.safetensors")
    assert code == 1
    assert text == "error: no.safetensors: cannot be read: No such file or directory"


def test_a_directory(there: Path) -> None:
    for flags in (["--calibration", "."], ["--calibration", "model"]):
        code, text = refused(*flags)
        assert code == 2
        assert text == f"error: --calibration: expected a file, got a directory, {flags[1]}"
        planned = run("quantize", "--model", "model", "--dry-run", *flags)
        assert (planned.exit_code, planned.stderr.strip()) == (code, text)


def test_a_truncated_file(there: Path) -> None:
    path = Path("c.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    code, text = refused("--calibration", "c.safetensors")
    assert code == 1
    assert text.startswith("error: c.safetensors: truncated: expected ")


def test_a_model_in_its_place(there: Path) -> None:
    weights = next(Path("model").rglob("*.safetensors"))
    code, text = refused("--calibration", weights)
    assert code == 1
    assert "expected a calibration that `thermoq calibrate` wrote" in text


def test_a_calibration_of_other_weights(there: Path) -> None:
    weights = next(Path("model/transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    code, text = refused("--calibration", "c.safetensors")
    assert code == 1
    assert "got one of other weights" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-time-groups", 21, "--calibration", "c.safetensors"],
         "expected --num-time-groups between 1 and 20 (the calibration's bins), got 21"),
        (["--grouping", "adaptive"],
         "--grouping: expected uniform (adaptive needs a calibration), got 'adaptive'"),
        (["--grouping", "even", "--calibration", "c.safetensors"],
         "--grouping: expected uniform or adaptive, got 'even'"),
    ],
)  # fmt: skip
def test_wrong_flags(flags: list[object], message: str, there: Path) -> None:
    code, text = refused(*flags)
    assert code == 2
    assert message in text
