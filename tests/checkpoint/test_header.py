"""The strict header parser: what it accepts, and the one line it says about each broken rule."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import entry, write_header, write_raw, write_safetensors, zeros
from thermoq.checkpoint import DTYPE_BITS, read_header
from thermoq.errors import InputError

ONE = entry("F32", [1], 0, 4)


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 1000
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_reads_tensors_in_the_order_of_their_bytes(path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "late": entry("BF16", [2, 2], 4, 12),
        "early": entry("F32", [], 0, 4),
    }
    write_header(path, header, bytes(12))
    read = read_header(path)
    assert list(read.tensors) == ["early", "late"]
    assert read.metadata == {"format": "pt"}
    assert read.file_bytes == path.stat().st_size == read.data_start + 12
    late = read.tensors["late"]
    assert (late.dtype, late.shape, late.start, late.end) == ("BF16", (2, 2), 4, 12)
    assert late.nbytes == 8


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_accepts_every_dtype(path: Path, dtype: str) -> None:
    write_safetensors(path, {"a": (dtype, (4, 2), bytes(DTYPE_BITS[dtype]))})
    assert read_header(path).tensors["a"].dtype == dtype


def test_knows_the_dtypes_of_the_safetensors_package(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    write_header(path, {"a": entry("?", [1], 0, 1)}, b"0")
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.safe_open(path, "np").__enter__()
    _, _, expected = str(caught.value).partition("expected one of ")
    known = set(re.findall(r"`(\w+)`", expected))
    assert "BF16" in known
    assert known <= set(DTYPE_BITS)  # an older package knows fewer


def test_accepts_no_tensors_and_padding(path: Path) -> None:
    write_raw(path, b"{}" + b" " * 62)
    assert read_header(path).tensors == {}


@pytest.mark.parametrize("position", [0, 2, 4, 8])
def test_accepts_empty_tensors_anywhere(path: Path, position: int) -> None:
    header = {
        "empty": entry("F32", [0, 7], position, position),
        "too": entry("U8", [0], position, position),
        "a": entry("F32", [1], 0, 4),
        "b": entry("F32", [1], 4, 8),
    }
    write_header(path, header, bytes(8))
    assert read_header(path).tensors["empty"].nbytes == 0


def test_accepts_sub_byte_tensors_of_whole_bytes(path: Path) -> None:
    write_safetensors(path, {"a": ("F6_E2M3", (4,), bytes(3)), "b": ("F4", (3, 2), bytes(3))})
    assert read_header(path).tensors["b"].nbytes == 3


def test_accepts_printable_names_of_any_script(path: Path) -> None:
    write_safetensors(path, {"блок.重み.0": zeros("F32", 1), "a/../b c": zeros("F32", 1)})
    assert list(read_header(path).tensors) == ["блок.重み.0", "a/../b c"]


@pytest.mark.parametrize("size", [0, 1, 7])
def test_shorter_than_a_header_length(path: Path, size: int) -> None:
    path.write_bytes(b"\x02" * size)
    assert error_of(path) == f"expected a safetensors file, got {size} bytes, no header"


def test_header_beyond_the_file(path: Path) -> None:
    write_raw(path, b"{}", length=100)
    expected = "truncated: expected at least 108 bytes for its header, got 10"
    assert error_of(path) == expected


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_header_too_long(path: Path, length: int) -> None:
    write_raw(path, b"{}", length=length)
    expected = f"expected a header of at most 100,000,000 bytes, got a length of {length:,}"
    assert error_of(path) == expected


def test_git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    assert error_of(path) == "expected safetensors data, got a Git LFS pointer (git lfs pull?)"


HEADER_TEXTS = {
    b"": "expected a header that begins with '{', got b''",
    b"[]": "expected a header that begins with '{', got b'[]'",
    b"null": "expected a header that begins with '{', got b'null'",
    b" {}": "expected a header that begins with '{', got b' {}'",
    b"\xef\xbb\xbf{}": "expected a header that begins with '{', got b'\\xef\\xbb\\xbf{}'",
    b'{"a\xff": 1}': "header: expected JSON, got bytes that are not UTF-8 at position 3",
    b"{]": "header: expected JSON, got a syntax error: Expecting property name",
    b"{}\x00": "header: expected JSON, got a syntax error: Extra data at line 1 column 3",
    b'{"a": NaN}': "header: expected JSON, got the constant NaN",
    b'{"a": -Infinity}': "header: expected JSON, got the constant -Infinity",
    b'{"a": 1, "a": 2}': "header: expected JSON, got the key 'a' twice",
    b'{"a": {"dtype": 1, "dtype": 2}}': "header: expected JSON, got the key 'dtype' twice",
    b'{"a": ' + b"7" * 9999 + b"}": "header: expected JSON, got an integer of 9999 digits",
    b'{"\\ud800": 1}': "header: expected JSON, got an escape that is half a surrogate pair",
    b'{"a":' + b"[" * 99 + b"]" * 99 + b"}": "tensor 'a': expected dtype, shape and data_offsets",
    b'{"a":' + b"[" * 100 + b"]" * 100 + b"}": "header: expected JSON, got more than 100 levels",
    b'{"a":' + b"[" * 200_000: "header: expected JSON, got more than 100 levels of nesting",
    b'{"a":' * 200_000: "header: expected JSON, got more than 100 levels of nesting",
}


@pytest.mark.parametrize("text", HEADER_TEXTS, ids=lambda text: repr(text[:20]))
def test_header_that_is_no_json_object(path: Path, text: bytes) -> None:
    write_raw(path, text)
    assert error_of(path).startswith(HEADER_TEXTS[text])


@pytest.mark.parametrize("metadata", [None, [], "pt", {"format": 1}, {"format": {"a": "b"}}])
def test_metadata_that_maps_no_strings(path: Path, metadata: Any) -> None:
    write_header(path, {"__metadata__": metadata})
    expected = f"expected __metadata__ to map strings to strings, got {metadata!r}"
    assert error_of(path) == expected


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\x7f", "\x1b[2J", "\u2028", "\u202e"])
def test_unprintable_name(path: Path, name: str) -> None:
    write_header(path, {name: ONE}, bytes(4))
    assert error_of(path) == f"expected a tensor name of printable characters, got {name!r}"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "F32",
        {},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "strides": [1]},
    ],
)
def test_entry_with_other_keys(path: Path, broken: Any) -> None:
    write_header(path, {"layer.weight": broken}, bytes(4))
    expected = "tensor 'layer.weight': expected dtype, shape and data_offsets, got "
    assert error_of(path).startswith(expected)


@pytest.mark.parametrize("dtype", ["f32", "FLOAT", "", "Q4_0", None, 1, ["F32"], {"F32": 1}])
def test_unknown_dtype(path: Path, dtype: Any) -> None:
    write_header(path, {"a": entry(dtype, [1], 0, 4)}, bytes(4))
    assert error_of(path) == f"tensor 'a': expected a safetensors dtype, got {dtype!r}"


@pytest.mark.parametrize("shape", [None, 1, "1", {}, [-1], [1.0], [True], ["1"], [[1]], [None]])
def test_shape_that_is_none(path: Path, shape: Any) -> None:
    write_header(path, {"a": entry("F32", shape, 0, 4)}, bytes(4))
    expected = f"tensor 'a': expected a shape of non-negative integers, got {shape!r}"
    assert error_of(path) == expected


@pytest.mark.parametrize(
    "offsets", [None, 4, {}, [], [0], [0, 4, 8], [-4, 0], [0, 4.0], [False, 4], ["0", "4"]]
)
def test_offsets_that_are_none(path: Path, offsets: Any) -> None:
    write_header(path, {"a": ONE | {"data_offsets": offsets}}, bytes(4))
    problem = f"expected data_offsets of two non-negative integers, got {offsets!r}"
    assert error_of(path) == f"tensor 'a': {problem}"


def test_offsets_in_reverse(path: Path) -> None:
    write_header(path, {"a": entry("F32", [1], 4, 0)}, bytes(4))
    assert error_of(path) == "tensor 'a': expected data_offsets in order, got [4, 0]"


@pytest.mark.parametrize(
    ("dtype", "shape", "end", "expected"),
    [
        ("F32", [1], 3, "expected 4 bytes for F32 [1], got 3 bytes"),
        ("F32", [], 8, "expected 4 bytes for F32 [], got 8 bytes"),
        ("BF16", [2, 3], 24, "expected 12 bytes for BF16 [2, 3], got 24 bytes"),
        ("U8", [0], 1, "expected 0 bytes for U8 [0], got 1 bytes"),
        ("F4", [3], 1, "expected whole bytes, not 12 bits, for F4 [3], got 1 bytes"),
        ("F4", [3], 2, "expected whole bytes, not 12 bits, for F4 [3], got 2 bytes"),
    ],
)
def test_shape_that_does_not_match_the_bytes(
    path: Path, dtype: str, shape: list[int], end: int, expected: str
) -> None:
    write_header(path, {"a": entry(dtype, shape, 0, end)}, bytes(end))
    assert error_of(path) == f"tensor 'a': {expected}"


@pytest.mark.parametrize("shape", [[2**63], [2**40, 2**40], [0, 2**32, 2**32], [10**300]])
def test_shape_that_overflows(path: Path, shape: list[int]) -> None:
    write_header(path, {"a": entry("U8", shape, 0, 0)})
    assert error_of(path).startswith("tensor 'a': expected a shape below 2^63 bits, got [")


def test_too_many_dimensions(path: Path) -> None:
    write_header(path, {"a": entry("U8", [1] * 64, 0, 1)}, b"0")
    assert len(read_header(path).tensors["a"].shape) == 64
    write_header(path, {"a": entry("U8", [10**18] * 100_000, 0, 1)}, b"0")
    assert error_of(path) == "tensor 'a': expected at most 64 dimensions, got 100000"


@pytest.mark.parametrize(
    ("first", "second"), [((0, 8), (4, 12)), ((0, 12), (4, 8)), ((0, 4), (0, 4)), ((0, 4), (0, 8))]
)
def test_overlap(path: Path, first: tuple[int, int], second: tuple[int, int]) -> None:
    header = {
        "a": entry("U8", [first[1] - first[0]], *first),
        "b": entry("U8", [second[1] - second[0]], *second),
    }
    write_header(path, header, bytes(12))
    expected = f"tensor 'b': its bytes {second[0]} to {second[1]} overlap those of 'a'"
    assert error_of(path) == expected


def test_hole_before_the_first_tensor(path: Path) -> None:
    write_header(path, {"a": entry("F32", [1], 4, 8)}, bytes(8))
    expected = "tensor 'a': expected its bytes to begin at 0, got 4: a hole before it"
    assert error_of(path) == expected


def test_hole_between_tensors(path: Path) -> None:
    header = {"a": ONE, "e": entry("F32", [0], 6, 6), "b": entry("F32", [1], 8, 12)}
    write_header(path, header, bytes(12))
    expected = "tensor 'b': expected its bytes to begin at 4, got 8: a hole before it"
    assert error_of(path) == expected


def test_hole_after_the_last_tensor(path: Path) -> None:
    write_header(path, {"a": ONE}, bytes(7))
    size = path.stat().st_size
    expected = f"expected {size - 3} bytes, got {size}: a hole of 3 bytes after the last tensor"
    assert error_of(path) == expected


@pytest.mark.parametrize("last", [entry("U8", [100], 4, 104), entry("U8", [0], 104, 104)])
def test_truncated(path: Path, last: dict[str, Any]) -> None:
    write_header(path, {"a": ONE, "b": last}, bytes(50))
    size = path.stat().st_size
    assert error_of(path) == f"truncated: expected {size + 54} bytes, got {size}"


def test_long_values_are_cut_in_errors(path: Path) -> None:
    write_header(path, {"n" * 50_000: entry("x" * 50_000, [1], 0, 4)}, bytes(4))
    assert "..." in error_of(path)


def test_missing_file(path: Path) -> None:
    assert error_of(path) == "cannot be read: No such file or directory"


def test_link_to_nothing(path: Path) -> None:
    path.symlink_to("../blobs/0123")
    assert error_of(path) == "expected a file, got a link to nothing: '../blobs/0123'"


def test_pipe_does_not_block(path: Path) -> None:
    os.mkfifo(path)
    assert error_of(path) == "expected a regular file, got something else"


def test_unprintable_path_stays_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\\nb\.safetensors': cannot be read") as caught:
        read_header(tmp_path / "a\nb.safetensors")
    assert str(caught.value).isprintable()


def test_agrees_with_the_safetensors_package(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    arrays = {f"layer.{i}": numpy.full((i, 3), i, dtype="float32") for i in range(5)}
    safetensors.save_file(arrays, path, metadata={"format": "pt"})
    read = read_header(path)
    data = path.read_bytes()[read.data_start :]
    assert {name: info.shape for name, info in read.tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, info in read.tensors.items():
        assert data[info.start : info.end] == arrays[name].tobytes()
    assert json.dumps(read.metadata) == '{"format": "pt"}'
