"""Tensors with identical bytes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors_files import Tensors, write_safetensors
from thermoq import duplicates
from thermoq.checkpoint import MappedFiles, stored_tensors
from thermoq.duplicates import find_duplicates


@pytest.fixture
def files() -> Iterator[MappedFiles]:
    with MappedFiles() as mapped:
        yield mapped


def noise(seed: int, count: int = 600) -> bytes:
    return np.random.default_rng(seed).bytes(4 * count)


def found(
    tmp_path: Path,
    files: MappedFiles,
    tensors: Tensors,
    treatment: Mapping[str, Hashable] | None = None,
) -> dict[str, str]:
    stored = stored_tensors(write_safetensors(tmp_path / "model.safetensors", tensors))
    return find_duplicates(stored, treatment or dict.fromkeys(stored), files)


def test_repeats_point_to_the_first(tmp_path: Path, files: MappedFiles) -> None:
    a, b = noise(0), noise(1)
    shape = ("F32", (20, 30))
    tensors = {name: (*shape, data) for name, data in zip("vwxyz", (a, b, a, a, b), strict=True)}
    assert found(tmp_path, files, tensors) == {"x": "v", "y": "v", "z": "w"}


def test_dtype_shape_and_treatment_tell_apart(tmp_path: Path, files: MappedFiles) -> None:
    data = noise(0)
    tensors = {
        "a": ("F32", (20, 30), data),
        "b": ("F32", (30, 20), data),
        "c": ("I32", (20, 30), data),
        "d": ("F32", (20, 30), data),
        "e": ("F32", (20, 30), data),
    }
    treatment = dict.fromkeys(tensors, 2) | {"d": 4}
    assert found(tmp_path, files, tensors, treatment) == {"e": "a"}


def test_equality_is_of_bytes_not_of_numbers(tmp_path: Path, files: MappedFiles) -> None:
    nan = np.full(600, np.nan, np.float32).tobytes()
    tensors = {
        "plus": ("F32", (600,), np.zeros(600, np.float32).tobytes()),
        "minus": ("F32", (600,), np.full(600, -0.0, np.float32).tobytes()),
        "nan": ("F32", (600,), nan),
        "nan too": ("F32", (600,), nan),
    }
    assert found(tmp_path, files, tensors) == {"nan too": "nan"}


@pytest.mark.parametrize("position", [0, 100, 1199, 2399])
def test_one_byte_tells_apart(tmp_path: Path, files: MappedFiles, position: int) -> None:
    """Whether it lies in the sampled bytes or between them."""
    data = bytearray(noise(0))
    data[position] ^= 1
    tensors = {"a": ("F32", (600,), noise(0)), "b": ("F32", (600,), bytes(data))}
    assert found(tmp_path, files, tensors) == {}


def test_large_tensors_are_compared_to_the_end(
    tmp_path: Path, files: MappedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_COMPARED_AT_ONCE", 100)
    monkeypatch.setattr(duplicates, "_SAMPLES", 1)
    changed = bytearray(noise(0))
    changed[-1] ^= 1
    tensors = {
        "a": ("F32", (600,), noise(0)),
        "b": ("F32", (600,), bytes(changed)),
        "c": ("F32", (600,), noise(0)),
    }
    assert found(tmp_path, files, tensors) == {"c": "a"}


def test_small_and_empty_tensors(tmp_path: Path, files: MappedFiles) -> None:
    tensors = {
        "empty": ("F32", (0, 4), b""),
        "empty too": ("F32", (0, 4), b""),
        "byte": ("U8", (), b"\1"),
        "byte too": ("U8", (), b"\1"),
    }
    assert found(tmp_path, files, tensors) == {"byte too": "byte"}
