"""Mapped tensors: the right bytes, read-only, given back, and safe to hold for too long."""

from __future__ import annotations

import gc
import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors_files import write_safetensors, zeros
from thermoq.checkpoint import MappedFiles, StoredTensor, stored_tensors
from thermoq.checkpoint import reader as reader_module
from thermoq.errors import InputError

ODD = 2 * mmap.PAGESIZE + 3  # the next tensor then begins inside a page, unaligned


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = {"odd": ODD, "big": 64 * mmap.PAGESIZE, "small": 5}
    return {name: generator.integers(0, 256, size, np.uint8) for name, size in sizes.items()}


@pytest.fixture
def tensors(tmp_path: Path, values: dict[str, np.ndarray]) -> dict[str, StoredTensor]:
    content = {name: ("U8", array.shape, array.tobytes()) for name, array in values.items()}
    content["empty"] = zeros("F32", 0, 3)
    return stored_tensors(write_safetensors(tmp_path / "a.safetensors", content))


def mapped_bytes_in_memory(path: Path) -> int:
    """Resident bytes of this process's mappings of `path`."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


def test_offsets_are_absolute(tensors: dict[str, StoredTensor]) -> None:
    odd, big = tensors["odd"], tensors["big"]
    assert odd.offset > 8
    assert big.offset == odd.offset + ODD
    assert big.nbytes == 64 * mmap.PAGESIZE


def test_bytes_are_those_of_the_file(
    tensors: dict[str, StoredTensor], values: dict[str, np.ndarray]
) -> None:
    with MappedFiles() as files:
        for name, expected in values.items():
            view = files.bytes(tensors[name])
            assert view.dtype == np.uint8
            assert view.ndim == 1
            np.testing.assert_array_equal(view, expected)


def test_views_are_read_only_and_not_copied(tensors: dict[str, StoredTensor]) -> None:
    with MappedFiles() as files:
        view = files.bytes(tensors["big"])
        again = files.bytes(tensors["big"])
        assert np.shares_memory(view, again)
        assert not view.flags.writeable
        assert not view.flags.owndata


def test_empty_tensor(tensors: dict[str, StoredTensor]) -> None:
    with MappedFiles() as files:
        view = files.bytes(tensors["empty"])
        assert view.shape == (0,)
        assert not view.flags.writeable
        files.release(tensors["empty"])


def test_release_keeps_every_byte(
    tensors: dict[str, StoredTensor], values: dict[str, np.ndarray]
) -> None:
    with MappedFiles() as files:
        views = {name: files.bytes(tensors[name]) for name in values}
        for name in values:
            files.release(tensors[name])
        for name, expected in values.items():
            np.testing.assert_array_equal(views[name], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_release_gives_the_pages_back(tensors: dict[str, StoredTensor]) -> None:
    big = tensors["big"]
    with MappedFiles() as files:
        files.bytes(big).sum()
        assert mapped_bytes_in_memory(big.path) >= big.nbytes
        files.release(big)
        assert mapped_bytes_in_memory(big.path) <= ODD + mmap.PAGESIZE


def test_release_of_what_was_never_read(tensors: dict[str, StoredTensor]) -> None:
    with MappedFiles() as files:
        files.release(tensors["big"])


def test_view_outlives_the_block(
    tensors: dict[str, StoredTensor], values: dict[str, np.ndarray]
) -> None:
    with MappedFiles() as files:
        view = files.bytes(tensors["big"])
    np.testing.assert_array_equal(view, values["big"])
    del view
    gc.collect()
    if sys.platform == "linux":
        assert str(tensors["big"].path) not in Path("/proc/self/maps").read_text()


def test_many_files_need_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_MAPPED_FILES", 2)
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    with MappedFiles() as files:
        views = []
        for number, path in enumerate(paths):
            write_safetensors(path, {"a": ("U8", (3,), bytes([number] * 3))})
            views.append(files.bytes(stored_tensors(path)["a"]))
        assert [int(view[0]) for view in views] == [0, 1, 2, 3, 4]
        views.clear()
        gc.collect()
        if sys.platform == "linux":
            maps = Path("/proc/self/maps").read_text()
            assert [str(path) in maps for path in paths] == [False, False, False, True, True]


def test_file_that_became_shorter(tensors: dict[str, StoredTensor]) -> None:
    big = tensors["big"]
    for size in (0, 100):
        big.path.write_bytes(bytes(size))
        with MappedFiles() as files, pytest.raises(InputError) as caught:
            files.bytes(big)
        expected = f"{big.path}: tensor 'big': the file became shorter while in use"
        assert str(caught.value) == expected


def test_file_that_vanished(tensors: dict[str, StoredTensor]) -> None:
    path = tensors["big"].path
    path.unlink()
    with MappedFiles() as files, pytest.raises(InputError) as caught:
        files.bytes(tensors["big"])
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"
