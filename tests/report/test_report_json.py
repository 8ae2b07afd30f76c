"""The JSON report: every key and digit, absent parts, and what a broken file says."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from report_examples import example_report
from thermoq.errors import InputError
from thermoq.report import atomic
from thermoq.report.atomic import atomic_text
from thermoq.report.json import THERMODYNAMIC_KEYS, read_json, to_json, write_json
from thermoq.report.model import Report

SPECIFICATION_KEYS = [
    "model_name",
    "bit_width",
    "num_time_groups",
    "smoothness_score",
    "violation_count",
    "violations",
    "boundary_scores",
    "cosine_similarity",
    "compression_ratio",
    "model_size_mb",
    "min_boundary_score",
    "max_boundary_score",
    "mean_boundary_score",
    "std_boundary_score",
    "common_violation_patterns",
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_time_groups": 1},
        {"validation": False},
        {"time_parameters": False},
        {"num_layers": 1},
        {"num_layers": 0},
        {"components": ("transformer", "transformer_2"), "num_time_groups": 20},
    ],
)
def test_what_is_written_is_read_back(options, tmp_path):
    report = example_report(**options)
    write_json(report, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == report


def test_all_keys_of_the_specification_are_at_top_level():
    data = json.loads(to_json(example_report()))
    assert [key for key in SPECIFICATION_KEYS if key not in data] == []
    assert set(data["violations"][0]) == {
        "boundary_idx",
        "scale_jump",
        "zero_point_jump",
        "severity",
    }


def test_thermodynamic_keys_are_the_fields_that_have_a_default_of_none():
    optional = {name for name, field in Report.model_fields.items() if field.default is None}
    assert optional == THERMODYNAMIC_KEYS


def test_without_validation_the_thermodynamic_keys_are_absent():
    with_keys = json.loads(to_json(example_report()))
    without = json.loads(to_json(example_report(validation=False)))
    assert with_keys.keys() - without.keys() == THERMODYNAMIC_KEYS


def test_unknown_scores_are_null():
    data = json.loads(to_json(example_report(time_parameters=False)))
    assert data["smoothness_score"] is None
    assert data["violation_count"] is None
    assert data["std_boundary_score"] is None


def test_floats_keep_every_digit():
    report = example_report().model_copy(update={"compression_ratio": 0.1 + 0.2})
    assert '"compression_ratio": 0.30000000000000004' in to_json(report)


def test_names_are_written_as_they_are():
    assert '"naïve-モデル"' in to_json(example_report(model_name="naïve-モデル"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_carry_is_refused(value):
    report = example_report(num_layers=2)
    layer = report.layers[1].model_copy(update={"max_error": value})
    broken = report.model_copy(update={"layers": [report.layers[0], layer]})
    with pytest.raises(ValueError, match=rf"finite number at layers\.1\.max_error, got {value}"):
        to_json(broken)


def changed(**keys: object) -> str:
    data = json.loads(to_json(example_report(num_layers=2)))
    data.update(keys)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON report, got Expecting property name"),
        ("[" * 100_000, "expected a JSON report, got"),
        ("[]", "expected a thermoq report with format_version 1, got none"),
        ("{}", "expected a thermoq report with format_version 1, got none"),
        (changed(format_version=2), "with format_version 1, got 2"),
        (changed(format_version="1"), "with format_version 1, got '1'"),
        (changed(format_version=True), "with format_version 1, got True"),
        (changed(surprise=1), "not a thermoq report: surprise: Extra inputs"),
        (
            changed(bit_width="2"),
            "not a thermoq report: bit_width: Input should be a valid integer",
        ),
        (changed(warnings=None), "not a thermoq report: warnings: "),
        (changed(compression_ratio=math.nan), "expected a JSON report, got NaN, which is not JSON"),
        (
            changed(compression_ratio=1).replace(
                '"compression_ratio": 1', '"compression_ratio": 1e999'
            ),
            "expected a finite number at compression_ratio, got inf",
        ),
    ],
)
def test_a_broken_report_is_one_clear_line(text, message, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_thermodynamic_keys_come_all_or_none(tmp_path):
    data = json.loads(to_json(example_report()))
    del data["patterns"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(data))
    with pytest.raises(
        InputError, match=r"all thermodynamic keys or none, got .* without patterns"
    ):
        read_json(path)


def test_a_missing_and_a_binary_file_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: cannot be read: No such file"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.json: expected a JSON report in UTF-8"):
        read_json(tmp_path / "binary.json")


def test_writing_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "report.txt"
    atomic_text(path, "first")
    atomic_text(path, "zweiter Süden\n")
    assert path.read_bytes() == "zweiter Süden\n".encode()
    assert os.listdir(tmp_path) == ["report.txt"]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(InputError, match=r"txt: expected an existing directory to write into"):
        atomic_text(tmp_path / "gone" / "report.txt", "text")


@pytest.mark.parametrize("make", ["directory", "pipe"])
def test_something_else_of_that_name_is_left_alone(make, tmp_path):
    path = tmp_path / "report.txt"
    path.mkdir() if make == "directory" else os.mkfifo(path)
    with pytest.raises(InputError, match="expected a file to write"):
        atomic_text(path, "text")
    assert os.listdir(tmp_path) == ["report.txt"]


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected an existing directory"):
        atomic_text(tmp_path / "file" / "report.txt", "text")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_removes_the_new(failure, tmp_path, monkeypatch):
    path = tmp_path / "report.txt"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        atomic_text(path, "new")
    if isinstance(failure, OSError):
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert os.listdir(tmp_path) == ["report.txt"]
    assert path.read_text() == "old"


def test_a_long_name_can_be_written(tmp_path: Path):
    path = tmp_path / ("r" * 250 + ".json")
    atomic_text(path, "text")
    assert path.read_text() == "text"
