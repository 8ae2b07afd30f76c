"""Safetensors files written in pieces."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from thermoq.checkpoint.header import read_header
from thermoq.checkpoint.writer import (
    CheckpointWriter,
    StoredPart,
    WrittenFiles,
    planned_files,
)

PARTS = {
    "b.weight": [
        StoredPart("b.weight.scale", "F16", (3, 1)),
        StoredPart("b.weight.codes", "U8", (3, 5)),
    ],
    "a.bias": [StoredPart("a.bias", "F32", (7,))],
    "empty": [StoredPart("empty", "F16", (0, 4))],
    "flags": [StoredPart("flags", "BOOL", (3,))],
    "large": [StoredPart("large", "I64", (5,))],
    "naïve.weight": [StoredPart("naïve.weight", "BF16", (2,))],
}
_WORDS = {"F16": "<f2", "F32": "<f4", "I64": "<i8", "BF16": "<u2", "BOOL": "?"}


def array_of(part: StoredPart) -> np.ndarray:
    values = np.arange(int(np.prod(part.shape))).reshape(part.shape)
    return values.astype(_WORDS.get(part.dtype, "u1"))


def write(directory: Path, max_shard_bytes: int = 10**9) -> WrittenFiles:
    with CheckpointWriter(directory, "model", PARTS, max_shard_bytes) as writer:
        for name, parts in PARTS.items():
            writer.write(name, [array_of(part) for part in parts])
        return writer.finish()


def test_the_plain_package_reads_it(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert [path.name for path in written.paths] == ["model.safetensors"]
    with safe_open(written.paths[0], framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {part.name for parts in PARTS.values() for part in parts}
        for parts in PARTS.values():
            for part in parts:
                assert tuple(file.get_slice(part.name).get_shape()) == part.shape
                if part.dtype != "BF16":
                    assert np.array_equal(file.get_tensor(part.name), array_of(part))


def test_every_tensor_is_aligned_to_its_element(tmp_path: Path) -> None:
    (path,) = write(tmp_path).paths
    header = read_header(path)
    assert header.data_start % 8 == 0
    sizes = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8, "U8": 1, "BOOL": 1}
    for tensor in header.tensors.values():
        assert tensor.start % sizes[tensor.dtype] == 0, tensor.name


def test_counted_bytes(tmp_path: Path) -> None:
    for limit in (10**9, 20):
        directory = tmp_path / str(limit)
        written = write(directory, limit)
        assert written.total_bytes == sum(path.stat().st_size for path in written.paths)
        data = sum(part.nbytes for parts in PARTS.values() for part in parts)
        assert written.total_bytes - written.header_bytes == data


@pytest.mark.parametrize("max_shard_bytes", [1, 20, 40, 10**9])
def test_what_will_be_written_is_known_beforehand(tmp_path: Path, max_shard_bytes: int) -> None:
    planned = planned_files(tmp_path, "model", PARTS, max_shard_bytes)
    assert write(tmp_path, max_shard_bytes) == planned
    assert sum(path.stat().st_size for path in planned.paths) == planned.total_bytes


def test_the_checksum_is_that_of_the_parts_one_after_another(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, "model", PARTS, 10**9) as writer:
        for name, parts in PARTS.items():
            arrays = [array_of(part) for part in parts]
            together = b"".join(array.tobytes() for array in arrays)
            assert writer.write(name, arrays) == hashlib.sha256(together).hexdigest()


def test_shards_are_filled_in_order_and_hold_whole_tensors(tmp_path: Path) -> None:
    written = write(tmp_path, 30)
    names = [path.name for path in written.paths]
    assert names == [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    held = [list(read_header(path).tensors) for path in written.paths]
    assert [sorted(tensors) for tensors in held] == [
        ["b.weight.codes", "b.weight.scale"],
        ["a.bias", "empty"],
        ["flags"],
        ["large"],  # 40 bytes, more than a shard shall hold
        ["naïve.weight"],
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_size": 21 + 28 + 3 + 40 + 4}
    shard_of = {t: path.name for path, ts in zip(written.paths, held, strict=True) for t in ts}
    assert index["weight_map"] == shard_of


def test_tensors_above_the_limit_have_shards_of_their_own(tmp_path: Path) -> None:
    assert len(write(tmp_path, 1).paths) == len(PARTS)


def test_nothing_at_all(tmp_path: Path) -> None:
    planned = planned_files(tmp_path / "new", "model", {}, 10)
    with CheckpointWriter(tmp_path / "new", "model", {}, 10) as writer:
        written = writer.finish()
    assert written == planned
    assert read_header(written.paths[0]).tensors == {}


def test_writing_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    expected = write(tmp_path / "one").paths[0].read_bytes()
    with CheckpointWriter(tmp_path / "other", "model", PARTS, 10**9) as writer:
        for name in reversed(PARTS):
            writer.write(name, [array_of(part) for part in PARTS[name]])
        (path,) = writer.finish().paths
    assert path.read_bytes() == expected


def test_one_file_is_open_at_a_time(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.islink(link)]

    def ours() -> list[str]:
        return [Path(name).name for name in open_files() if name.startswith(str(tmp_path))]

    with CheckpointWriter(tmp_path, "model", PARTS, 1) as writer:
        for number, (name, parts) in enumerate(PARTS.items(), start=1):
            writer.write(name, [array_of(part) for part in parts])
            assert ours() == [f"model-{number:05d}-of-{len(PARTS):05d}.safetensors"]
        writer.finish()
        assert ours() == []
    with CheckpointWriter(tmp_path / "other", "model", PARTS, 1) as writer:
        writer.write("b.weight", [array_of(part) for part in PARTS["b.weight"]])
        assert len(ours()) == 1
    assert ours() == []  # on leaving early too


def test_shards_in_another_order_have_the_same_bytes(tmp_path: Path) -> None:
    expected = [path.read_bytes() for path in write(tmp_path / "one", 30).paths]
    with CheckpointWriter(tmp_path / "other", "model", PARTS, 30) as writer:
        for name in ["a.bias", "b.weight", "large", "empty", "naïve.weight", "flags"]:
            writer.write(name, [array_of(part) for part in PARTS[name]])
        written = writer.finish()
    assert [path.read_bytes() for path in written.paths] == expected
    assert written.total_bytes == sum(map(len, expected))


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, "model", PARTS, 10**9) as writer:
        with pytest.raises(ValueError, match=r"^a\.bias: expected 28 bytes, got 24$"):
            writer.write("a.bias", [np.zeros(6, np.float32)])
        with pytest.raises(ValueError, match="zip"):
            writer.write("b.weight", [np.zeros((3, 1), np.float16)])
        with pytest.raises(ValueError, match="never written: "):
            writer.finish()


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(FileExistsError):
        write(tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"


LATE = [StoredPart("a.time_gain", "F16", (2, 3)), StoredPart("a.zero", "U8", (2,))]


def write_with_late(directory: Path, max_shard_bytes: int) -> tuple[WrittenFiles, str]:
    with CheckpointWriter(directory, "model", PARTS, max_shard_bytes, late_shard=True) as writer:
        reused = array_of(LATE[0])
        checksum = writer.write_late(LATE[:1], [reused])
        reused[:] = 9  # what was handed over is kept as it was
        for name, parts in PARTS.items():
            writer.write(name, [array_of(part) for part in parts])
        writer.write_late(LATE[1:], [array_of(LATE[1])])
        return writer.finish(), checksum


@pytest.mark.parametrize("max_shard_bytes", [30, 10**9])
def test_what_comes_late_lies_in_the_last_shard(tmp_path: Path, max_shard_bytes: int) -> None:
    planned = planned_files(tmp_path, "model", PARTS, max_shard_bytes, LATE)
    plain = planned_files(tmp_path, "model", PARTS, max_shard_bytes)
    written, checksum = write_with_late(tmp_path, max_shard_bytes)
    assert written == planned
    assert len(written.paths) == len(plain.paths) + 1
    assert written.total_bytes == sum(path.stat().st_size for path in written.paths)
    late = written.paths[-1]
    assert late.name == f"model-{len(written.paths):05d}-of-{len(written.paths):05d}.safetensors"
    assert set(read_header(late).tensors) == {part.name for part in LATE}
    with safe_open(late, framework="numpy") as file:
        for part in LATE:
            assert np.array_equal(file.get_tensor(part.name), array_of(part))
    assert checksum == hashlib.sha256(array_of(LATE[0]).tobytes()).hexdigest()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    everything = [*LATE, *(part for parts in PARTS.values() for part in parts)]
    assert index["weight_map"].keys() == {part.name for part in everything}
    assert {index["weight_map"][part.name] for part in LATE} == {late.name}
    assert index["metadata"]["total_size"] == sum(part.nbytes for part in everything)


def test_nothing_comes_late_without_a_late_shard(tmp_path: Path) -> None:
    with (
        CheckpointWriter(tmp_path, "model", {}, 10) as writer,
        pytest.raises(ValueError, match=r"^a.time_gain: expected a late shard, got none$"),
    ):
        writer.write_late(LATE, [array_of(part) for part in LATE])


def test_what_comes_late_has_the_size_that_it_says(tmp_path: Path) -> None:
    with (
        CheckpointWriter(tmp_path, "model", {}, 10, late_shard=True) as writer,
        pytest.raises(ValueError, match=r"^a.time_gain: expected 12 bytes, got 2$"),
    ):
        writer.write_late(LATE, [np.zeros(1, np.float16)] * 2)
