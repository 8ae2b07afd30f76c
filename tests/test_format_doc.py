"""docs/format.md: its lines of Python read every tensor, its example and its tables are true."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from thermoq import _core
from thermoq.checkpoint.manifest import (
    SCHEDULE_KINDS,
    CopiedTensor,
    Manifest,
    QuantizedTensor,
    ScheduleEntry,
    TimeGroupTable,
)
from thermoq.weights import Matrix, Scheme, quantize

DOCUMENT = (Path(__file__).parents[1] / "docs/format.md").read_text(encoding="utf-8")
Quantized = Callable[[str, str], Run]
Reader = Callable[[Path, str], np.ndarray]


@pytest.fixture(scope="module")
def read_tensor() -> Reader:
    """The function that the document ends with."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    assert len(block.splitlines()) < 45
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/format.md", "exec"), namespace)
    function: Reader = namespace["read_tensor"]
    return function


def assert_reads(read_tensor: Reader, folder: Path, dense: Path) -> None:
    for name, (dtype, shape, data) in models.read_tensors(dense).items():
        if dtype.startswith("F8"):
            continue  # NumPy has no such dtype; the document says so
        values = read_tensor(folder, name)
        assert values.shape == shape, name
        assert values.tobytes() == data, name
        if dtype == "F32":
            assert values.dtype == np.float32, name


def test_the_lines_read_what_export_writes(run: Run, read_tensor: Reader) -> None:
    assert_reads(read_tensor, run.output / run.component, run.dense / run.component)


@pytest.mark.parametrize("bit_width", [4, 8])
def test_other_bit_widths_and_shards(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, bit_width: int
) -> None:
    for name in ("unet", "dream"):
        run = quantized(name, "BF16")
        output, dense = tmp_path / name, tmp_path / f"{name}-dense"
        thermoq.quantize(
            run.source, output, bit_width=bit_width, max_shard_size="30KB", seed=bit_width
        )
        thermoq.export(output, dense, dtype="float32")
        assert_reads(read_tensor, output / run.component, dense / run.component)


@pytest.mark.parametrize("group_size", [8, 40, 100_000])
def test_other_group_sizes(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader, group_size: int
) -> None:
    run = quantized("oddities", "F32")
    thermoq.quantize(run.source, tmp_path / "out", group_size=group_size)
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    assert_reads(read_tensor, tmp_path / "out", tmp_path / "dense")


def test_an_unknown_encoding_is_refused_by_name(
    quantized: Quantized, tmp_path: Path, read_tensor: Reader
) -> None:
    manifest = json.loads((quantized("dream", "F32").output / "thermoq.json").read_text())
    manifest["tensors"]["lm_head.weight"]["encoding"] = "trellis"
    (tmp_path / "thermoq.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="unknown encoding trellis"):
        read_tensor(tmp_path, "lm_head.weight")


def example(row: str) -> list[str]:
    """A row of the document's example of packing."""
    text = DOCUMENT.split("An example:")[1].split("## ")[0]
    (found,) = re.findall(rf"^    {row} +(.*)$", text, re.M)
    return [word for word in found.split() if word != "|"]


def test_the_example_of_packing(simd_level: str) -> None:
    weights = np.array([example("weights")], np.float32)
    matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", *weights.shape)
    quantized, error = quantize(matrix, Scheme("affine", 2, 8))
    assert quantized.parts["minimum"].tolist() == [[float(m) for m in example("minimum")]]
    assert quantized.parts["scale"].tolist() == [[float(s) for s in example("scale")]]
    packed = quantized.parts["codes"].view(np.uint8)
    assert packed.tolist() == [[int(byte, 16) for byte in example("bytes")]]
    codes = _core.unpack_codes(packed, 1, weights.size, 2)
    assert codes.tolist() == [[int(code) for code in example("codes")]]
    assert error.squared_error == 0.0


@pytest.mark.parametrize("bit_width", [2, 4])
def test_the_drawing_of_the_bit_order(bit_width: int) -> None:
    (drawing,) = re.findall(rf"^    {bit_width} bits:.*?^$", DOCUMENT, re.M | re.S)
    (row,) = re.findall(r"\|(.*)\|   column", drawing)
    columns = [[int(column) for column in re.findall(r"\d+", byte)] for byte in row.split("|  |")]
    for byte, in_byte in enumerate(columns):
        for position, column in enumerate(reversed(in_byte)):
            codes = np.zeros((1, 16), np.uint8)
            codes[0, column] = 1
            packed = _core.pack_codes(codes, 1, 16, bit_width)
            assert packed[0, byte] == 1 << (position * bit_width)


def test_every_key_is_described(quantized: Quantized) -> None:
    run = quantized("dream", "BF16")
    entry = json.loads((run.output / "config.json").read_text())["quantization_config"]
    keys = {
        *(key
          for model in (Manifest, TimeGroupTable, ScheduleEntry, CopiedTensor, QuantizedTensor)
          for key in model.model_fields),
        *entry,
        "tensors_sha256",
    }  # fmt: skip
    missing = {key for key in keys if f"`{key}`" not in DOCUMENT}
    assert missing == set()
    assert all(f'`"{kind}"`' in DOCUMENT for kind in SCHEDULE_KINDS)


def test_the_lines_of_the_checksum(run: Run) -> None:
    (lines,) = re.findall(r"^    (text = .*)\n    (tensors_sha256 = .*)$", DOCUMENT, re.M)
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text("utf-8"))
    namespace: dict[str, Any] = {"json": json, "hashlib": hashlib, "manifest": manifest}
    exec("\n".join(lines), namespace)
    assert namespace["tensors_sha256"] == manifest["tensors_sha256"]


def test_keys_are_present_where_the_tables_say(run: Run) -> None:
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text())
    assert manifest.keys() == {*Manifest.model_fields, "tensors_sha256"}
    everywhere = {"encoding", "shape", "source_dtype"}
    of_matrices = {"layer_class", "bit_width", "group_size", "row_dimension"}
    for entry in manifest["tensors"].values():
        place = {"same_as"} if "same_as" in entry else {"sha256"}
        own = {"reason"} if entry["encoding"] == "copied" else of_matrices
        assert entry.keys() == everywhere | place | own
    expected = set(models.read_tensors(run.source / run.component))
    assert set(manifest["tensors"]) == expected


def test_stored_tensors_are_those_of_the_table(run: Run) -> None:
    manifest = json.loads((run.output / run.component / "thermoq.json").read_text())
    stored = models.read_tensors(run.output / run.component)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, entry in manifest["tensors"].items():
        shape = tuple(entry["shape"])
        if "same_as" in entry:
            continue
        if entry["encoding"] == "copied":
            expected[name] = (entry["source_dtype"], shape)
            continue
        rows = shape[entry["row_dimension"]]
        cols = int(np.prod(shape)) // rows
        groups = -(-cols // entry["group_size"])
        expected[f"{name}.scale"] = ("F16", (rows, groups))
        if entry["encoding"] == "affine":
            expected[f"{name}.minimum"] = ("F16", (rows, groups))
            expected[f"{name}.codes"] = ("U8", (rows, -(-cols * entry["bit_width"] // 8)))
        else:
            expected[f"{name}.codes"] = ("I8", (rows, cols))
    assert {name: tensor[:2] for name, tensor in stored.items()} == expected
