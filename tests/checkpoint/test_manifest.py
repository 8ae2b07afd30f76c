"""thermoq.json: what is written comes back, and what is wrong is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thermoq.checkpoint.manifest import (
    CopiedTensor,
    Manifest,
    QuantizedTensor,
    TimeGroupTable,
    read_manifest,
    write_manifest,
)
from thermoq.errors import InputError
from thermoq.weights import Scheme

AFFINE = QuantizedTensor(
    encoding="affine",
    shape=(3, 70),
    source_dtype="BF16",
    sha256="0" * 64,
    layer_class="body",
    bit_width=2,
    group_size=64,
)
MANIFEST = Manifest(
    thermoq_version="0.1.0",
    component="unet",
    phase="baseline",
    method="minmax",
    bit_width=2,
    time_groups=TimeGroupTable(num_timesteps=1000, time_group_starts=(999.0, 499.0)),
    schedule="cosine, T = 1000",
    tensors={
        "a.weight": AFFINE,
        "b.weight": AFFINE.model_copy(update={"same_as": "a.weight", "sha256": None}),
        "a.bias": CopiedTensor(shape=(3,), source_dtype="F64", sha256="1" * 64, reason="1-D"),
    },
    report={"format_version": 1},
)


def written(tmp_path: Path) -> dict[str, Any]:
    write_manifest(MANIFEST, tmp_path)
    content: dict[str, Any] = json.loads((tmp_path / "thermoq.json").read_text())
    return content


def test_round_trip(tmp_path: Path) -> None:
    content = written(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert content["format"] == "thermoq"
    assert content["format_version"] == 1
    assert "same_as" not in content["tensors"]["a.weight"]
    assert "sha256" not in content["tensors"]["b.weight"]


def test_what_an_entry_knows() -> None:
    assert AFFINE.num_weights == 210
    assert AFFINE.source_bytes == 420
    assert AFFINE.scheme == Scheme("affine", 2, 64)
    assert MANIFEST.tensors["a.bias"].source_bytes == 24


def set_entry(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["tensors"]["a.weight"][key] = value

    return change


def set_top(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[key] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        del content[key]

    return change


ENTRY = r"tensor 'a\.weight'"
WRONG = [
    (set_top("format_version", 2), r"expected format_version 1, got 2$"),
    (set_top("format_version", "1"), r"expected format_version 1, got '1'$"),
    (drop("format_version"), r"expected format_version 1, got None$"),
    (set_top("format", "gguf"), r"format: .*got 'gguf'$"),
    (drop("tensors"), r"tensors: Field required"),
    (set_top("tensors", []), r"tensors: "),
    (set_top("bit_width", 3), r"bit_width: .*expected 2, 4 or 8, got 3$"),
    (set_top("phase", 3), r"phase: .*got 3$"),
    (set_top("time_groups", {"num_timesteps": 1}), r"time_groups\.time_group_starts"),
    (
        set_entry("encoding", "trellis"),
        rf"{ENTRY}: expected a known encoding, got 'trellis'$",
    ),
    (set_entry("source_dtype", "F64"), rf"{ENTRY}: .*expected a source_dtype of F32, F16, BF16"),
    (set_entry("sha256", "0" * 63), rf"{ENTRY}: .*sha256.*got '0+'$"),
    (set_entry("sha256", "G" * 64), rf"{ENTRY}: .*sha256.*got 'G+'$"),
    (set_entry("group_size", 8 * 10**30), rf"{ENTRY}: .*group_size.*got 80+$"),
    (set_entry("shape", [3, -1]), rf"{ENTRY}: affine\.shape\.1: .*got -1$"),
    (set_entry("shape", "3,70"), rf"{ENTRY}: affine\.shape"),
    (set_entry("source_dtype", "F128"), rf"{ENTRY}: .*expected a safetensors dtype, got 'F128'$"),
    (set_entry("group_size", 12), rf"{ENTRY}: .*group_size.*got 12$"),
    (set_entry("group_size", 0), rf"{ENTRY}: .*group_size.*got 0$"),
    (set_entry("bit_width", 3), rf"{ENTRY}: .*expected 2, 4 or 8, got 3$"),
    (set_entry("bit_width", 8), rf"{ENTRY}: .*expected 8 bits with q8 and 2 or 4 with affine"),
    (set_entry("encoding", "q8"), rf"{ENTRY}: .*expected 8 bits with q8 and 2 or 4 with affine"),
    (set_entry("row_dimension", 2), rf"{ENTRY}: .*row_dimension.*got 2$"),
    (set_entry("shape", []), rf"{ENTRY}: .*expected a dimension of the shape as row_dimension"),
    (set_entry("layer_class", "tail"), rf"{ENTRY}: .*layer_class.*got 'tail'$"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = written(tmp_path)
    change(content)
    path = tmp_path / "thermoq.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_q8_has_its_own_group_size() -> None:
    entry = AFFINE.model_dump() | {"encoding": "q8", "bit_width": 8}
    with pytest.raises(ValueError, match="expected groups of 32 with q8"):
        QuantizedTensor.model_validate(entry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"format_version": 1, "format_version": 1}', "the key 'format_version' twice"),
        ('{"format_version": NaN}', "the constant NaN"),
        ("\ufeff{}", "expected JSON"),
    ],
)
def test_text_that_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "thermoq.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    message = r"expected a checkpoint quantized by thermoq, got no thermoq\.json$"
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)
