"""The configuration file and the flags: the same settings, and flags win."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import small_pipeline, succeed, tree

# DESIGN.md, section 11, with what this version does not have at its neutral values.
SAMPLE = """
quantization:
  bit_width: 2                  # 2 | 4 | 8
  group_size: null              # null: the encoding's default (affine 64)
  encoding: null                # affine | coded; null: the measured best for bit_width (8: q8)
  super_block: null             # coded only, with scale_bits and minimum_bits; null: the default
  method: null                  # minmax | lsq | hessian; null: minmax in `baseline`
  rotation: null                # none | hadamard; null: where it measured better
  num_time_groups: 4
  activation_bits: 8            # 4 | 8
  calibration: null
  seed: 0
  threads: 0                    # 0: all
  max_shard_size: 5GB
  thermodynamic:
    validation:   {enabled: true, smoothness_threshold: 0.3}
    smoothing:    {enabled: false, interpolation: linear, window: null}
    optimization: {enabled: false, coupling: 1.0}
  layers:                       # first match wins, glob on the tensor name
    - {match: "*.proj_out.*", bit_width: 8}
    - {match: "pos_embed*", skip: true}
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline named `model`."""
    small_pipeline(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report_of(*flags: object) -> dict[str, Any]:
    shutil.rmtree("out", ignore_errors=True)
    arguments = ["quantize", "--model", "model", "--output", "out", "--json", *flags]
    report: dict[str, Any] = json.loads(succeed(*arguments).stdout)
    return report


def test_the_sample_loads(there: Path) -> None:
    Path("thermoq.yaml").write_text(SAMPLE)
    report = report_of("--config", "thermoq.yaml")
    assert report["warnings"] == ["layers: pattern '*.proj_out.*' matches no tensor"]
    copied = {row["name"]: row["reason"] for row in report["copied"]}
    assert copied["pos_embed.proj.weight"] == "skipped by layers pattern 'pos_embed*'"
    sample = SAMPLE.partition("  layers:")[0]
    Path("thermoq.yaml").write_text(sample)
    report_of("--config", "thermoq.yaml")
    with_file = tree(Path("out"))
    report_of()
    assert tree(Path("out")) == with_file


# Of each setting: another value than the default, as a key and as a flag.
SETTINGS: dict[str, tuple[str, list[object]]] = {
    "bit_width": ("bit_width: 4", ["--bit-width", 4]),
    "group_size": ("group_size: 16", ["--group-size", 16]),
    "encoding": ("encoding: affine", ["--encoding", "affine"]),
    "super_block": ("super_block: 64", ["--super-block", 64]),
    "scale_bits": ("scale_bits: 3", ["--scale-bits", 3]),
    "minimum_bits": ("minimum_bits: 5", ["--minimum-bits", 5]),
    "effort": ("effort: 1", ["--effort", 1]),
    "rotation": ("rotation: none", ["--rotation", "none"]),
    "method": ("method: minmax", ["--method", "minmax"]),
    "num_time_groups": ("num_time_groups: 7", ["--num-time-groups", 7]),
    "activation_bits": ("activation_bits: 4", ["--activation-bits", 4]),
    "sensitive_activation_bits": (
        "sensitive_activation_bits: 4",
        ["--sensitive-activation-bits", 4],
    ),
    "sampling_steps": ("sampling_steps: 20", ["--sampling-steps", 20]),
    "seed": ("seed: 5", ["--seed", 5]),
    "threads": ("threads: 1", ["--threads", 1]),
    "max_shard_size": ("max_shard_size: 2KB", ["--max-shard-size", "2KB"]),
    "target_bits": ("target_bits: 6.5", ["--target-bits", 6.5]),
    "max_size": ("max_size: 6.5KB", ["--max-size", "6.5KB"]),
    "components": ("components: [vae]", ["--component", "vae"]),
    "enabled": ("thermodynamic: {validation: {enabled: false}}", ["--no-validation"]),
    "smoothness_threshold": (
        "thermodynamic: {validation: {smoothness_threshold: 0.1}}",
        ["--smoothness-threshold", 0.1],
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_key_and_its_flag_do_the_same(setting: str, there: Path) -> None:
    key, flags = SETTINGS[setting]
    Path("c.yaml").write_text(f"quantization:\n  {key}\n")
    by_key, by_flag = report_of("--config", "c.yaml"), report_of(*flags)
    by_key_tree = tree(Path("out"))
    assert report_of("--config", "c.yaml").keys() == by_key.keys()
    assert tree(Path("out")) == by_key_tree
    for report in (by_key, by_flag):
        del report["provenance"]
        if "assessment" in report:  # repeats the flags
            del report["assessment"]["next_command"], report["assessment"]["then_command"]
    assert by_key == by_flag


@pytest.mark.parametrize(
    ("key", "flags", "field", "value"),
    [
        ("bit_width: 8", ["--bit-width", 2], "bit_width", 2),
        ("num_time_groups: 9", ["--num-time-groups", 3], "num_time_groups", 3),
        ("activation_bits: 4", ["--activation-bits", 8], "activation_bits", 8),
        ("sampling_steps: 9", ["--sampling-steps", 10], "sampling_steps", 10),
    ],
)
def test_flags_win(key: str, flags: list[object], field: str, value: int, there: Path) -> None:
    Path("c.yaml").write_text(f"quantization:\n  {key}\n")
    assert report_of("--config", "c.yaml", *flags)[field] == value
    assert report_of("--config", "c.yaml")[field] != value


def test_validation_flags_win(there: Path) -> None:
    Path("c.yaml").write_text("quantization: {thermodynamic: {validation: {enabled: false}}}\n")
    assert "smoothness_score" not in report_of("--config", "c.yaml")
    assert "smoothness_score" in report_of("--config", "c.yaml", "--validation")


def test_baseline_is_phase_1_whatever_the_file_says(there: Path) -> None:
    Path("c.yaml").write_text("quantization:\n  method: hessian\n")
    arguments = ["baseline", "--model", "model", "--output", "out", "--config", "c.yaml", "--json"]
    assert json.loads(succeed(*arguments).stdout)["method"] == "minmax"
