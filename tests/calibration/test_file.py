"""The calibration file: bytes, errors, and what it says of itself."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import describe, example_calibration, inputs_of, statistics_of
from safetensors.numpy import load_file
from thermoq.calibration.file import (
    CalibratedInput,
    Calibration,
    fine_bins,
    read_calibration,
    write_calibration,
)
from thermoq.errors import InputError, UsageError

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "calibration-format.md").read_text(
    encoding="utf-8"
)
FIELDS = (*("count", "minimum", "maximum", "percentiles", "mean", "second_moment", "rows"),)


def change_header(path: Path, change: Any) -> None:
    """Rewrite a file with its header as `change` returns it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def described(change: dict[str, object]) -> Any:
    def changed(header: dict[str, Any]) -> dict[str, Any]:
        content = {**json.loads(header["__metadata__"]["thermoq"]), **change}
        header["__metadata__"]["thermoq"] = json.dumps(content)
        return header

    return changed


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = inputs_of("a", 7, 0, 20, 30, 0)
    inputs = {"a": statistics_of({0: rows, 19: rows * 1e6}), "b/c": statistics_of({3: rows[:2]})}
    written = example_calibration(
        inputs, layers={"a": "a", "z": "a", "b/c": "b/c"}, guidance=2.5, details={"prompts": 3}
    )
    write_calibration(tmp_path / "c", written)
    found = read_calibration(tmp_path / "c")
    assert found.description == written.description
    assert found.fingerprint == written.fingerprint
    for name, source in written.inputs.items():
        for field in FIELDS:
            np.testing.assert_array_equal(
                getattr(found.inputs[name], field), getattr(source, field)
            )
    assert found.inputs["a"].rows.dtype == np.float32
    assert found.input_of("z") is found.inputs["a"]
    assert found.input_of("b") is None
    assert found.bins == fine_bins(1000, 20)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    rows = inputs_of("a", 7, 0, 20, 30, 0)
    inputs = {name: statistics_of({0: rows}, name=name) for name in ("a", "b")}
    write_calibration(tmp_path / "one", example_calibration(inputs))
    turned = {name: inputs[name] for name in ("b", "a")}
    write_calibration(tmp_path / "two", example_calibration(turned))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    other = example_calibration({**inputs, "b": statistics_of({0: rows[1:]}, name="b")})
    assert other.fingerprint != example_calibration(inputs).fingerprint
    assert (
        example_calibration(inputs, seed=1).fingerprint != example_calibration(inputs).fingerprint
    )


def test_the_fields_own_reader_takes_it(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.safetensors", example_calibration())
    tensors = load_file(tmp_path / "c.safetensors")
    assert {name.rpartition(".")[2] for name in tensors} == {
        *("count", "min", "max", "percentiles", "mean", "second_moment", "rows")
    }


def test_every_key_and_tensor_is_described(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.safetensors", example_calibration())
    keys = {*describe({}).model_dump(), "fingerprint", "architecture"}
    assert {key for key in keys if f"`{key}`" not in DOCUMENT} == set()
    suffixes = {name.rpartition(".")[2] for name in load_file(tmp_path / "c.safetensors")}
    assert {f"NAME.{suffix}" for suffix in suffixes} == set(re.findall(r"NAME\.\w+", DOCUMENT))


def test_an_existing_file_may_be_kept(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c", example_calibration())
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(InputError, match="already exists"):
        write_calibration(tmp_path / "c", example_calibration(seed=1), replace=False)
    assert (tmp_path / "c").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    with pytest.raises(InputError, match="expected an existing directory"):
        write_calibration(tmp_path / "no" / "c", example_calibration())


@pytest.mark.parametrize("length", [0, 4, 5000, -1])
def test_a_truncated_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "c"
    write_calibration(path, example_calibration())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: (truncated|expected a safe)"):
        read_calibration(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(path)
    write_calibration(path, example_calibration())
    change_header(path, lambda header: {**header, "__metadata__": {"format": "pt"}})
    with pytest.raises(InputError, match=r"expected a calibration .* of format 'pt'"):
        read_calibration(path)


@pytest.mark.parametrize(("version", "age"), [("0", "older"), ("2", "newer"), ("x", "newer")])
def test_other_versions(tmp_path: Path, version: str, age: str) -> None:
    path = tmp_path / "c"
    write_calibration(path, example_calibration())

    def change(header: dict[str, Any]) -> dict[str, Any]:
        header["__metadata__"]["format_version"] = version
        return header

    change_header(path, change)
    with pytest.raises(InputError) as raised:
        read_calibration(path)
    assert str(raised.value) == (
        f"{path}: expected calibration format 1, got '{version}': written by an {age} thermoq; "
        "calibrate again"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "description: steps: "),
        ({"bin_starts": [999.0, 1200.0]}, "expected starts to fall from 999"),
        ({"bin_starts": [999.0, 499.0]}, "tensor 'layer.count': expected the shape"),
        ({"percentile_levels": [50.0]}, "tensor 'layer.percentiles': expected the shape"),
        ({"layers": {"layer": "other"}}, "tensor 'other.count': missing"),
        ({"layers": {}}, "expected the statistics of an input, got another name"),
        ({"components": {}}, "description: components: "),
        ({"schedule_kind": "brownian"}, "description: schedule_kind: "),
        ({"details": {"a": [1]}}, "description: details.a: "),
    ],
)
def test_descriptions_that_cannot_be(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "c"
    write_calibration(path, example_calibration())
    change_header(path, described(change))
    with pytest.raises(InputError) as raised:
        read_calibration(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_keys_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_calibration(path, example_calibration())
    change_header(path, described({"mood": "good"}))
    assert read_calibration(path).num_bins == 20


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", -1, "tensor 'layer.count': expected values of at least 0"),
        ("minimum", 1e9, "tensor 'layer.max': expected values of at least min"),
        ("second_moment", -1, "tensor 'layer.second_moment': expected values of at least 0"),
        ("mean", np.nan, "tensor 'layer.mean': expected finite values, got 1 that are not"),
        ("rows", np.inf, "tensor 'layer.rows': expected finite values, got 1 that are not"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, field: str, value: float, message: str) -> None:
    calibration = example_calibration()
    source = calibration.inputs["layer"]
    arrays = {name: np.array(getattr(source, name)) for name in FIELDS}
    arrays[field][(0,) * arrays[field].ndim] = value
    broken = Calibration(calibration.description, {"layer": CalibratedInput(**arrays)})
    write_calibration(tmp_path / "c", broken)
    with pytest.raises(InputError) as raised:
        read_calibration(tmp_path / "c")
    assert str(raised.value) == f"{tmp_path / 'c'}: {message}"


def test_bins() -> None:
    bins = fine_bins(1000, 20)
    assert bins.starts[:3] == (999.0, 949.0, 899.0)
    for timestep in (999, 949.5, 949, 0.0, 500):
        expected = min(max(int((999 - timestep) * 20 // 1000), 0), 19)
        assert bins.group_of(timestep) == expected
    with pytest.raises(UsageError) as raised:
        fine_bins(4, 5)
    assert str(raised.value) == ("expected --bins between 1 and 4 (the model's timesteps), got 5")
