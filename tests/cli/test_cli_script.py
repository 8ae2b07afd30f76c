"""`scripts/establish_baseline_metrics.py` as the specification shows it, on real weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, Finished, run_process, small_model, succeed
from models import minilm

SCRIPT = [sys.executable, str(ROOT / "scripts" / "establish_baseline_metrics.py")]

# The specification's "Example Output", as it stands there.
EXAMPLE = """
{
  "model_name": "dream-7b",
  "bit_width": 2,
  "num_time_groups": 4,
  "smoothness_score": 0.7234,
  "violation_count": 2,
  "violations": [
    {
      "boundary_idx": 0,
      "scale_jump": 0.58,
      "zero_point_jump": 0.12,
      "severity": "high"
    },
    {
      "boundary_idx": 2,
      "scale_jump": 0.35,
      "zero_point_jump": 0.08,
      "severity": "medium"
    }
  ],
  "boundary_scores": [0.45, 0.89, 0.72],
  "cosine_similarity": 0.7156,
  "compression_ratio": 16.0,
  "model_size_mb": 34.2,
  "min_boundary_score": 0.45,
  "max_boundary_score": 0.89,
  "mean_boundary_score": 0.6867,
  "std_boundary_score": 0.1823,
  "common_violation_patterns": [
    "High severity violations: 1 (50.0%)",
    "Medium severity violations: 1 (50.0%)",
    "Violations at boundaries: [0, 2]",
    "Scale jumps: max=58.0%, avg=46.5%"
  ]
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("script")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Finished:
    return run_process(
        *("--model", minilm(), "--output", "out", "--bit-width", 2, "--num-time-groups", 4),
        *("--report", "baseline_metrics.json", "--html-report", "baseline_metrics.html"),
        command=SCRIPT,
        cwd=folder,
    )


@pytest.fixture
def report(finished: Finished, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "baseline_metrics.json").read_text())
    return found


def test_it_writes_checkpoint_json_page_and_log(finished: Finished, folder: Path) -> None:
    assert finished.exit_code == 0, finished.stderr
    (warning,) = finished.stderr.splitlines()  # a BERT has no noise schedule
    assert warning.endswith("are assumed: cosine, T = 1000 (no scheduler config found)")
    names = ["baseline_metrics.html", "baseline_metrics.json", "baseline_metrics.log", "out"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert succeed("verify", folder / "out").stdout.count("40 quantized")


def same_kind(value: Any, example: Any) -> bool:
    """Whether a value has the type of the example's, keys and items included."""
    if isinstance(example, dict):
        return value.keys() == example.keys() and all(
            same_kind(value[key], example[key]) for key in example
        )
    if isinstance(example, list):
        return isinstance(value, list) and all(same_kind(item, example[0]) for item in value)
    return type(value) is type(example)


def test_every_key_of_the_example_is_there(report: dict[str, Any]) -> None:
    example = json.loads(EXAMPLE)
    assert example.keys() <= report.keys()
    for key, value in example.items():
        assert same_kind(report[key], value), key
    assert report["num_time_groups"] == len(report["boundary_scores"]) + 1
    assert report["violation_count"] == len(report["violations"])
    beginnings = [line.partition(":")[0] for line in example["common_violation_patterns"]]
    for line in report["common_violation_patterns"]:
        assert line.partition(":")[0] in [*beginnings, "Low severity violations"]


def test_the_log_says_what_was_typed(report: dict[str, Any], folder: Path) -> None:
    log = (folder / "baseline_metrics.log").read_text()
    assert f"command: {report['provenance']['command']}" in log
    assert report["provenance"]["command"].startswith("thermoq baseline --model ")


def test_the_specifications_first_command(folder: Path, tmp_path: Path) -> None:
    """Without time groups, and without a page in the second one."""
    small_model(tmp_path / "dream-7b")
    flags = ["--model", "dream-7b/", "--output", "dream-7b-int2-baseline/", "--bit-width", 2]
    flags += ["--report", "baseline_metrics.json"]
    finished = run_process(*flags, command=SCRIPT, cwd=tmp_path)
    assert finished.exit_code == 0, finished.stderr
    report = json.loads((tmp_path / "baseline_metrics.json").read_text())
    assert (report["model_name"], report["num_time_groups"]) == ("dream-7b", 4)
    assert not (tmp_path / "baseline_metrics.html").exists()


def test_wrong_usage_of_the_script(tmp_path: Path) -> None:
    finished = run_process("--model", tmp_path, command=SCRIPT, cwd=tmp_path)
    assert finished.exit_code == 2
    assert finished.problem() == "error: Missing option '--output'."
