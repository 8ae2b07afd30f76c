"""Valid checkpoints changed at random: each opens or is refused in one line; nothing else happens.

Seeded, so that a failing case can be run again by its number.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import write_json, write_sharded, zeros
from thermoq.checkpoint import MappedFiles, open_checkpoint, read_header
from thermoq.errors import InputError, ThermoqError

CASES = 4000
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"

# What a hostile or careless writer puts where another value belongs.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 4, 12, 24, 2**31, 2**32, 2**63, 2**64, 10**40),
    *(0.0, 1.5, 1e308, float("nan"), float("inf"), "", "F32", "BF16", "F4", "U8", "\0", "\ud800"),
    *("a", "../a", SHARD, "model-00002-of-00002.safetensors", "__metadata__", "x" * 300),
    *([], [0], [0, 0], [4, 0], [0, 24], [2**62, 2**62], [[]], {}, {"a": {}}, {"dtype": "F32"}),
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_json(tmp_path / "config.json", {"model_type": "dream", "hidden_size": 8})
    first = {
        "a": zeros("F32", 2, 3),
        "empty": zeros("F16", 0, 5),
        "b.weight": zeros("BF16", 4, itemsize=2),
    }
    write_sharded(tmp_path, "model", [first, {"c": zeros("U8", 9, itemsize=1)}])
    return tmp_path


def flip_bits(content: bytes, random: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        # Mostly in the header: data bytes may be anything.
        position = random.randrange(
            len(changed) if random.random() < 0.2 else min(300, len(changed))
        )
        changed[position] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(content: bytes, random: random.Random) -> bytes:
    return content[: random.randrange(len(content))]


def insert(content: bytes, random: random.Random) -> bytes:
    position = random.randrange(len(content) + 1)
    piece = random.choice([random.randbytes(random.randrange(1, 20)), b"[" * 3000, b"9" * 5000])
    return content[:position] + piece + content[position:]


def repeat(content: bytes, random: random.Random) -> bytes:
    start = random.randrange(len(content))
    end = random.randrange(start, len(content)) + 1
    return content[:end] + content[start:end] + content[end:]


def change_length(content: bytes, random: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    wrong = random.choice([0, 1, 2, length - 1, length + 1, len(content), 10**8, 2**63, 2**64 - 1])
    return struct.pack("<Q", wrong) + content[8:]


def change_header(content: bytes, random: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = change_json(content[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def change_json(content: bytes, random: random.Random) -> bytes:
    """Replace, remove, add or copy values at random places of the JSON in `content`."""
    root = json.loads(content)
    for _ in range(random.choice([1, 1, 2, 4])):
        containers = [root]
        for container in containers:
            children = container.values() if isinstance(container, dict) else container
            containers += [child for child in children if isinstance(child, (dict, list)) and child]
        parent = random.choice(containers)
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            return random.choice([b"[]", b"null", b"{}"])
        key, other = random.choice(keys), random.choice(keys)
        # A copy, or a value could come to contain itself.
        value = json.loads(json.dumps(random.choice([*VALUES, parent[other], parent])))
        if random.random() < 0.2:
            del parent[key]
        elif isinstance(parent, dict) and random.random() < 0.3:
            parent[random.choice([*"abc", "", "__metadata__", "\0", "dtype"])] = value
        else:
            parent[key] = value
    text = json.dumps(root, ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


Mutation = Callable[[bytes, random.Random], bytes]
BYTES: list[Mutation] = [flip_bits, truncate, insert, repeat]
MUTATIONS: list[tuple[str, Mutation]] = [
    *((name, mutation) for name in (SHARD, INDEX, "config.json") for mutation in BYTES),
    *[(SHARD, change_length), (SHARD, change_header), (SHARD, change_header)],
    *[(INDEX, change_json), ("config.json", change_json)],
]


def replace(path: Path, content: bytes) -> None:
    # Not truncated and rewritten: some file systems then wait for the disk, 4,000 times.
    path.unlink()
    path.write_bytes(content)


def read_everything(directory: Path) -> None:
    opened = open_checkpoint(directory)
    with MappedFiles() as files:
        for tensor in opened.components[0].tensors.values():
            assert len(files.bytes(tensor)) == tensor.nbytes
            assert tensor.offset + tensor.nbytes <= tensor.path.stat().st_size
            files.release(tensor)


def refusal(directory: Path, case: str) -> str | None:
    """The error line, None if everything could be read; any other exception names the case."""
    try:
        read_everything(directory)
    except ThermoqError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(case) from error
    return None


@pytest.mark.parametrize("part", range(4))
def test_random_changes_open_or_are_refused(checkpoint: Path, part: int) -> None:
    originals = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    refused = 0
    for case in range(part, CASES, 4):
        generator = random.Random(case)
        name, mutation = generator.choice(MUTATIONS)
        replace(checkpoint / name, mutation(originals[name], generator))
        problem = refusal(checkpoint, f"case {case}: {mutation.__name__} of {name}")
        if problem is not None:
            refused += 1
            assert problem.isprintable(), f"case {case}"
            assert problem.startswith(str(checkpoint)), f"case {case}"
        replace(checkpoint / name, originals[name])
    # The changes bite, and are not all fatal.
    assert CASES / 8 < refused < CASES / 4


def test_what_is_accepted_the_safetensors_package_accepts(checkpoint: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = checkpoint / SHARD
    original = path.read_bytes()
    accepted = 0
    for case in range(CASES // 4):
        generator = random.Random(case)
        mutation = generator.choice([*BYTES, change_header, change_header, change_header])
        replace(path, mutation(original, generator))
        try:
            header = read_header(path)
        except InputError:
            continue
        accepted += 1
        with safetensors.safe_open(path, "np") as theirs:
            shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
        assert shapes == {name: info.shape for name, info in header.tensors.items()}
    assert accepted > 20
