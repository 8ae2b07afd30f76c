"""Odd input that is legal: it must work, all the way there and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import WEIGHTS, noise, run_process, small_model, stored, succeed, tree
from safetensors_files import Tensors, entry, write_header, write_safetensors, zeros
from thermoq.checkpoint import MappedFiles, read_header, stored_tensors


def there_and_back(model: Path, *flags: object) -> tuple[dict[str, Any], Path]:
    """Quantize, verify, inspect and export `model`; return the report and the dense checkpoint."""
    output, dense = model.with_name("out"), model.with_name("dense")
    arguments = ["baseline", "--model", model, "--output", output, "--json", *flags]
    report = json.loads(succeed(*arguments).stdout)
    succeed("verify", output)
    succeed("inspect", output)
    succeed("export", output, dense)
    return report, dense


def shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: (info.dtype, info.shape)
        for path in folder.glob("*.safetensors")
        for name, info in read_header(path).tensors.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    with MappedFiles() as files:
        return {
            name: bytes(files.bytes(tensor))
            for path in folder.glob("*.safetensors")
            for name, tensor in stored_tensors(path).items()
        }


@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_odd_shapes_and_values(bit_width: int, tmp_path: Path) -> None:
    tiny = np.float32(1e-45)
    tensors: Tensors = {
        "empty.weight": zeros("F32", 0, 8),
        "hollow.weight": zeros("BF16", 4, 0, 3, itemsize=2),
        "scalar": zeros("F32"),
        "one.weight": stored([[3.25]]),
        "one.bias": stored([1.5]),
        "row.weight": stored([noise(5)]),
        "column.weight": stored(noise(7, 1), "F16"),
        "short.weight": stored(noise(3, 5), "BF16"),
        "zero.weight": zeros("F32", 9, 70),
        "constant.weight": stored(np.full((4, 130), -2.5)),
        "tiny.weight": stored(np.linspace(-9 * tiny, 9 * tiny, 200).reshape(2, 100)),
        "tiny16.weight": stored(np.full((2, 100), 6e-8), "F16"),
        "huge.weight": stored(np.linspace(-65504, 65504, 300).reshape(3, 100)),
        "kernel.weight": stored(noise(4, 3, 3, 3)),
        "volume.weight": stored(noise(4, 2, 1, 3, 3), "BF16"),
        "steps": ("I64", (2,), bytes(16)),
        "wide.weight": ("F64", (2, 4), np.ones(8).tobytes()),
        "mask": ("BOOL", (3,), b"\0\1\0"),
        "eight.weight": ("F8_E4M3", (2, 4), bytes(8)),
    }
    model = small_model(tmp_path / "model", tensors)
    report, dense = there_and_back(model, "--bit-width", bit_width)
    assert shapes(dense) == shapes(model)
    errors = {row["name"]: row["relative_squared_error"] for row in report["layers"]}
    assert errors.keys() == {
        *("one.weight", "row.weight", "column.weight", "short.weight", "zero.weight"),
        *("constant.weight", "tiny.weight", "tiny16.weight", "huge.weight", "kernel.weight"),
        "volume.weight",
    }
    assert errors["zero.weight"] == 0
    assert errors["constant.weight"] < 1e-6
    assert errors["one.weight"] < 1e-6
    assert {row["name"]: row["reason"] for row in report["copied"]}["wide.weight"] == "dtype F64"


@pytest.mark.parametrize("start", [0, 16])
def test_empty_tensors_with_equal_offsets(start: int, tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    header = {
        "empty.weight": entry("F32", [0], start, start),
        "a.weight": entry("F32", [2, 2], 0, 16),
    }
    write_header(model / WEIGHTS, header, stored(noise(2, 2))[2])
    _, dense = there_and_back(model)
    assert shapes(dense) == {"empty.weight": ("F32", (0,)), "a.weight": ("F32", (2, 2))}


def test_only_empty_tensors(tmp_path: Path) -> None:
    report, dense = there_and_back(small_model(tmp_path / "m", {"a.weight": zeros("F32", 0, 2)}))
    assert shapes(dense) == {"a.weight": ("F32", (0, 2))}
    assert report["layers"] == []
    assert report["smoothness_score"] is None
    assert report["compression_ratio"] > 0


def test_no_tensor_at_all(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m")
    write_safetensors(model / WEIGHTS, {})
    report, dense = there_and_back(model)
    assert shapes(dense) == {}
    assert report["cosine_similarity"] is None


NAMES = [
    *("with space.weight", "ünïcødé-重み.weight", "quo\"te'd.weight", "🙂.weight"),
    *("back\\slash/../x.weight", "<script>alert(1)</script>.weight", "*?[a].weight"),
    "-flag.weight",
]


def test_odd_names(tmp_path: Path) -> None:
    tensors = {name: stored(noise(4, 16, seed=i)) for i, name in enumerate(NAMES)}
    model = small_model(tmp_path / "the model's “name” <b>", tensors)
    page = tmp_path / "the page.html"
    report, dense = there_and_back(
        model, "--html-report", page, "--report", tmp_path / "report of it.json"
    )
    assert shapes(dense).keys() == set(NAMES)
    assert {row["name"] for row in report["layers"]} == set(NAMES)
    assert report["model_name"] == "the model's “name” <b>"
    assert "<script>alert(1)" not in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report of it.json").read_text(encoding="utf-8")) == report
    log = (tmp_path / "report of it.log").read_text(encoding="utf-8")
    assert all(name in log for name in NAMES)


def test_paths_that_are_not_text(tmp_path: Path) -> None:
    """File names are bytes; where they are no UTF-8 the reports and the terminal show escapes."""
    odd = tmp_path / os.fsdecode(b"caf\xe9\n")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    small_model(odd / "model")
    arguments = ["baseline", "--model", odd / "model", "--output", odd / "out"]
    arguments += ["--report", odd / "r.json", "--html-report", odd / "r.html"]
    # Strict, as the locale of most users has it; C.UTF-8 alone lets any byte through.
    for more in [[], ["--json", "--overwrite"]]:
        finished = run_process(*arguments, *more, environment={"PYTHONIOENCODING": "utf-8"})
        assert finished.exit_code == 0, finished.stderr
    assert json.loads(finished.stdout) == json.loads((odd / "r.json").read_text())
    (odd / "r.html").read_text(encoding="utf-8")
    finished = run_process(*arguments, environment={"PYTHONIOENCODING": "utf-8"})
    assert "caf\\udce9\\n/out: already exists" in finished.problem()
    succeed("verify", odd / "out")


def test_linked_files_and_folders(tmp_path: Path) -> None:
    """A hub cache holds links into a folder of blobs."""
    store = small_model(tmp_path / "store")
    model = tmp_path / "models--owner--name" / "snapshots" / "0123"
    model.mkdir(parents=True)
    for path in store.iterdir():
        (model / path.name).symlink_to(path)
    before = tree(tmp_path / "store")
    report, dense = there_and_back(model)
    assert report["model_name"] == "name"
    assert tree(store) == before
    assert not any(path.is_symlink() for path in [*dense.rglob("*"), *(dense / "..").glob("out/*")])
    assert (dense / "samples" / "one.bin.txt").read_text() == "text"


def test_links_as_targets_are_followed(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").mkdir()
    (tmp_path / "out").symlink_to("disk/old")
    (tmp_path / "r.json").symlink_to("disk/r.json")
    succeed("baseline", "--model", model, "--output", tmp_path / "out", "--overwrite",
            "--report", tmp_path / "r.json")  # fmt: skip
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "r.json").is_symlink()
    succeed("verify", tmp_path / "disk" / "old")
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["old", "r.json"]


def test_the_smallest_shards(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    _, dense = there_and_back(model, "--max-shard-size", "1B")
    count = len(shapes(model))
    files = sorted(path.name for path in tmp_path.glob("out/*.safetensors"))
    assert files[-1] == f"diffusion_pytorch_model-{count:05}-of-{count:05}.safetensors"
    index = json.loads(next(tmp_path.glob("out/*.index.json")).read_text())
    assert set(index["weight_map"].values()) == set(files)
    succeed("baseline", "--model", model, "--output", tmp_path / "whole")
    succeed("export", tmp_path / "whole", tmp_path / "dense of whole")
    assert contents(dense) == contents(tmp_path / "dense of whole")


@pytest.mark.parametrize("groups", [1, 2, 1000])
def test_as_few_and_as_many_time_groups_as_there_can_be(groups: int, tmp_path: Path) -> None:
    report, _ = there_and_back(small_model(tmp_path / "model"), "--num-time-groups", groups)
    assert len(report["boundary_scores"]) == groups - 1
    assert len(report["thermodynamics"]["time_groups"]) == groups


def test_a_closed_terminal_is_no_error(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    command = f'"{sys.executable}" -m thermoq baseline --model "$0" --output "$1" >&- 2>&-'
    done = subprocess.run(["sh", "-c", command, model, tmp_path / "out"], check=False)
    assert done.returncode == 0
    succeed("verify", tmp_path / "out")


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "thermoq", "inspect", str(model)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
