"""`thermoq quantize` with a size budget, and its dry run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import thermoq
from calibrations import calibrated
from command_line import run, succeed, tree
from models import dit


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline of many blocks named `model`."""
    dit(tmp_path / "model", "BF16", blocks=8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_first_words(printed: str) -> dict[str, str]:
    """What follows the first word of each line."""
    return dict(line.split(maxsplit=1) for line in printed.splitlines())


def test_a_dry_run_prints_the_plan_and_writes_nothing(there: Path) -> None:
    before = tree(there)
    finished = succeed("quantize", "--model", "model", "--max-size", "250KB", "--dry-run")
    assert tree(there) == before
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[0] == "model by lsq: the plan; nothing is written"
    assert lines[1].split()[:2] == ["class", "tensors"]
    first_words = [line.split()[0] for line in lines[2:]]
    assert [word for word in first_words if not word[0].isdigit()] == [
        *("body", "modulation", "sensitive", "table", "copied"),
        *("size", "bits", "error", "rotation", "effort", "encoding"),
    ]
    told = thermoq.plan_quantization("model", max_size="250KB")
    assert f"{told.model_bytes:,} bytes of at most 0.25 MB" in finished.stdout
    (body,) = (row for row in told.layer_classes if row.layer_class == "body")
    assert f"{body.stored_bytes:,}" in finished.stdout
    assert len(body.schemes) > 1
    assert "trellis" in {row.encoding for row in body.schemes}
    for row in body.schemes:
        assert f"{row.num_tensors} in {row.encoding} {row.bit_width}, groups of" in finished.stdout
    succeed("quantize", "--model", "model", "--max-size", "250KB", "--output", "out")
    written = sum(path.stat().st_size for path in Path("out/transformer").glob("*.safetensors"))
    assert written == told.model_bytes


def test_a_dry_run_as_json(there: Path) -> None:
    arguments = ["quantize", "--model", "model", "--target-bits", 5, "--dry-run", "--json"]
    printed = json.loads(succeed(*arguments).stdout)
    assert printed == json.loads(
        thermoq.plan_quantization("model", target_bits=5.0).model_dump_json()
    )
    assert printed["target_bits"] == 5.0
    assert {"name", "encoding", "stored_bytes", "relative_squared_error"} <= printed["tensors"][
        0
    ].keys()


def test_a_dry_run_without_a_budget(there: Path) -> None:
    words = ["quantize", "--model", "model", "--dry-run"]
    for flags, stored, has_effort in (
        ([], "in trellis 2, groups by row, windows of 12 bits", True),
        (["--encoding", "coded"], "in coded 2, groups of 16, 4+4 bits", False),
        (["--bit-width", 4], "in coded 4, groups of 32, 6+6 bits", False),
    ):
        printed = succeed(*words, *flags).stdout
        (body,) = (line for line in printed.splitlines() if line.startswith("body"))
        assert stored in body
        assert ("with effort 5, all else aside" in printed) == has_effort
        assert "at most" not in printed


def test_a_dry_run_says_what_is_rotated(there: Path) -> None:
    words = ["quantize", "--model", "model", "--dry-run"]
    for settings in ({}, {"encoding": "coded", "rotation": "hadamard"}):
        flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
        printed = of_first_words(succeed(*words, *flags).stdout)
        plan = thermoq.plan_quantization("model", **settings)
        rotated = sum(row.rotation is not None for row in plan.tensors)
        quantized = sum(row.encoding is not None for row in plan.tensors)
        assert 0 < rotated < quantized
        of = f"hadamard, of the inputs of {rotated} of {quantized} quantized tensors"
        assert printed["rotation"] == of
    for flags in (["--rotation", "none"], ["--encoding", "coded"]):
        assert "rotation" not in succeed(*words, *flags).stdout
    refused = run(*words, "--rotation", "hadamard", "--bit-width", 8)
    assert (refused.exit_code, refused.problem()) == (
        2,
        "error: --rotation: expected none or null (bit_width 8 is stored as q8, which is not "
        "rotated), got 'hadamard'",
    )


def test_a_dry_run_says_whose_error_it_predicts(there: Path) -> None:
    calibrated(there / "model", there / "c.safetensors")
    words = ["quantize", "--model", "model", "--calibration", "c.safetensors"]
    note = (
        "weight error by lsq; hessian trades weight error for output error, which is measured in "
        "the run"
    )
    assert of_first_words(succeed(*words, "--dry-run").stdout)["predicted"] == note
    plan = json.loads(succeed(*words, "--dry-run", "--json").stdout)
    assert (plan["method"], plan["predicted_by"]) == ("hessian", "lsq")
    assert plan["prediction_note"] == note
    printed = succeed(*words, "--target-bits", 5, "--output", "out").stdout
    (line,) = (line for line in printed.splitlines() if line.startswith("budget"))
    assert line.endswith(f"({note})")


def test_a_complete_command_line_may_be_run_dry(there: Path) -> None:
    Path("out").mkdir()
    (Path("out") / "mine").write_text("")
    before = tree(there)
    flags = ["--output", "out", "--overwrite", "--dry-run"]
    succeed("quantize", "--model", "model", *flags)
    assert tree(there) == before


@pytest.mark.parametrize(("flag", "path"), [("--report", "r.json"), ("--html-report", "r.html")])
def test_a_dry_run_has_no_reports(there: Path, flag: str, path: str) -> None:
    finished = run("quantize", "--model", "model", flag, path, "--dry-run")
    assert finished.exit_code == 2
    assert finished.problem() == f"error: {flag}: expected none beside --dry-run, got {path}"
    assert [path.name for path in there.iterdir()] == ["model"]


def test_a_quiet_dry_run(there: Path) -> None:
    finished = succeed("quantize", "--model", "model", "--dry-run", "--quiet")
    assert (finished.stdout, finished.stderr) == ("", "")


def test_the_warnings_of_a_dry_run(there: Path) -> None:
    Path("c.yaml").write_text("quantization:\n  layers: [{match: 'x.*', skip: true}]\n")
    finished = succeed("quantize", "--model", "model", "--config", "c.yaml", "--dry-run")
    assert finished.stderr == "warning: layers: pattern 'x.*' matches no tensor\n"


def test_without_output_and_not_dry(there: Path) -> None:
    finished = run("quantize", "--model", "model")
    assert finished.exit_code == 2
    assert finished.problem() == "error: Missing option '--output'."


def test_what_a_run_with_a_budget_prints(there: Path) -> None:
    flags = ["--target-bits", "4.5", "--report", "r.json"]
    finished = succeed("quantize", "--model", "model", "--output", "out", *flags)
    printed = of_first_words(finished.stdout)
    expected = "of at most 4.5 bits per quantized weight; predicted relative squared error 0."
    assert expected in printed["budget"]
    following = shlex.split(printed["next"])
    assert "--bit-width" not in following
    if following[1] == "quantize":
        assert following[following.index("--target-bits") + 1] == "4.5"
        assert run(*following[1:]).exit_code == 0


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--target-bits", "1"], "--target-bits: expected at least "),
        (["--max-size", "2KB"], "--max-size: expected at least "),
        (["--max-size", "3 parsecs"], "--max-size: expected a size of at least one byte such as"),
        (["--target-bits", "few"], "Invalid value for '--target-bits': expected a number"),
        (["--target-bits", "3", "--max-size", "1GB"], "--max-size: expected null beside target_"),
        (["--target-bits", "3", "--bit-width", "2"], "--bit-width: expected none beside a size b"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_budgets_that_cannot_be(there: Path, flags: list[str], problem: str, dry: bool) -> None:
    more = ["--dry-run"] if dry else ["--output", "out"]
    finished = run("quantize", "--model", "model", *flags, *more)
    assert finished.exit_code == 2
    assert finished.problem().startswith(f"error: {problem}")
    assert [path.name for path in there.iterdir()] == ["model"]


def test_two_sizes_in_one_file(there: Path) -> None:
    Path("c.yaml").write_text("quantization:\n  target_bits: 3\n  bit_width: 2\n")
    finished = run("quantize", "--model", "model", "--config", "c.yaml", "--dry-run")
    assert finished.problem() == (
        "error: c.yaml, line 3: bit_width: expected none beside a size budget, which chooses it, "
        "got 2"
    )


@pytest.mark.parametrize(
    ("budget", "config_flags", "problem"),
    [
        ("target_bits: 1", [], "c.yaml, line 3: target_bits: expected at least "),
        ("max_size: 2KB", [], "c.yaml, line 3: max_size: expected at least "),
        ("max_size: 1GB", ["--max-size", "2KB"], "--max-size: expected at least "),
    ],
)
def test_a_budget_that_cannot_be_met_says_where_it_was_given(
    there: Path, budget: str, config_flags: list[str], problem: str
) -> None:
    Path("c.yaml").write_text(f"quantization:\n  seed: 1\n  {budget}\n")
    flags = ["--config", "c.yaml", *config_flags, "--dry-run"]
    finished = run("quantize", "--model", "model", *flags)
    assert finished.exit_code == 2
    assert finished.problem().startswith(f"error: {problem}")


def test_baseline_has_no_budget(there: Path) -> None:
    Path("c.yaml").write_text("quantization: {target_bits: 3}\n")
    finished = run("baseline", "--model", "model", "--output", "out", "--config", "c.yaml")
    assert finished.exit_code == 2
    assert finished.problem().startswith("error: baseline: expected no target_bits and max_size")


def test_inspect_says_that_it_leaves_the_budget_out(there: Path) -> None:
    Path("c.yaml").write_text("quantization: {target_bits: 3}\n")
    finished = succeed("inspect", "model", "--config", "c.yaml")
    assert "`thermoq quantize --dry-run` shows its plan" in finished.stderr
