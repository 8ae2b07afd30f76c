"""`thermoq export --format gguf`."""

from __future__ import annotations

import json
from pathlib import Path

import models
import pytest
from calibrations import calibrated
from command_line import run, small_pipeline, succeed, tree
from gguf_files import long_names
from safetensors_files import write_safetensors

pytest.importorskip("gguf")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipeline, quantized in codes that GGUF can hold: `out`."""
    monkeypatch.chdir(tmp_path)
    small_pipeline(tmp_path / "model")
    flags = ["--encoding", "coded", "--quiet"]
    succeed("quantize", "--model", "model", "--output", "out", *flags)
    return tmp_path


def test_what_it_prints(there: Path) -> None:
    lines = succeed("export", "out", "m.gguf", "--format", "gguf").stdout.splitlines()
    assert lines[0].startswith("m.gguf: ")
    assert "tensors, all exact, " in lines[0]
    of_types = [line for line in lines[1:] if line.split()[0].isupper()]
    assert of_types
    assert all(" bits per weight" in line for line in of_types)
    assert (there / "m.gguf").read_bytes()[:4] == b"GGUF"


def test_what_was_rounded_is_named(there: Path) -> None:
    finished = succeed("export", "out", "m.gguf", "--format", "gguf", "--fallback", "q4_0")
    first, *lines = finished.stdout.splitlines()
    named = [line for line in lines if " -> " in line]
    assert f", {len(named)} not exact, " in first
    assert named
    assert all("relative squared error" in line for line in named)


def test_activation_parameters_are_dropped_in_one_line(there: Path) -> None:
    calibrated(there / "model", there / "c.safetensors")
    flags = ["--calibration", "c.safetensors", "--encoding", "coded", "--quiet"]
    succeed("quantize", "--model", "model", "--output", "measured", *flags)
    printed = succeed("export", "measured", "m.gguf", "--format", "gguf").stdout
    told = json.loads(succeed("export", "measured", "n.gguf", "--format", "gguf", "--json").stdout)
    dropped = [row["name"] for row in told["tensors"] if row["outcome"] == "dropped"]
    assert len(dropped) > 2
    assert all(".activation_" in name for name in dropped)
    assert [line for line in printed.splitlines() if "dropped" in line] == [
        f"{len(dropped)} tensors dropped (activation parameters; GGUF loaders know no time "
        f"parameters), such as {dropped[0]}"
    ]
    first = printed.splitlines()[0]  # of what is in the file
    assert f" {len(told['tensors']) - len(dropped)} tensors, all exact, " in first


def test_what_no_block_type_holds_is_counted_by_reason(there: Path) -> None:
    flags = ["--format", "gguf", "--component", "transformer"]
    lines = succeed("export", "out", "m.gguf", *flags).stdout.splitlines()
    told = json.loads(succeed("export", "out", "n.gguf", *flags, "--json").stdout)["tensors"]
    wide = [
        (tensor["note"], tensor["type"], tensor["name"])
        for tensor in told
        if tensor["type"] in ("F16", "F32") and not tensor["stored"].startswith("copied")
    ]
    reasons = {(note, type) for note, type, _ in wide}
    assert len(reasons) > 1
    for reason in reasons:
        names = [name for *key, name in wide if tuple(key) == reason]
        (line,) = (line for line in lines if f"became {reason[1]} " in line and reason[0] in line)
        assert line.startswith(f"{len(names)} quantized tensor")
        assert line.endswith(f": {reason[0]}; such as {names[0]}")
    assert lines[-1] == "--fallback q8_0 or q4_0 makes them smaller, rounded a second time"
    rounded = succeed("export", "out", "o.gguf", *flags, "--fallback", "q8_0").stdout
    assert "--fallback" not in rounded


def test_no_hint_where_a_fallback_rounds_nothing(there: Path) -> None:
    maker = models.Maker("F32")
    maker.linear("layer", 8, 256)
    write_safetensors(there / "in/model.safetensors", maker.tensors)
    flags = ["--encoding", "coded", "--quiet"]
    succeed("quantize", "--model", "in", "--output", "blocks", *flags)
    finished = succeed("export", "blocks", "m.gguf", "--format", "gguf")
    assert "Q2_K" in finished.stdout
    assert "became" not in finished.stdout
    assert "--fallback" not in finished.stdout


def test_what_two_bits_are_by_default_is_refused_with_what_to_do(there: Path) -> None:
    words = ["quantize", "--model", "model", "--output", "default", "--bit-width", 2, "--quiet"]
    succeed(*words)
    before = tree(there)
    export = ["export", "default", "m.gguf", "--format", "gguf"]
    finished = run(*export)
    assert finished.exit_code == 1
    assert finished.problem().endswith(
        "expected an encoding that GGUF can hold, got trellis; quantize the model with --encoding "
        "coded, or give --fallback q8_0 or q4_0 here, which quantizes such tensors anew"
    )
    assert tree(there) == before
    told = json.loads(succeed(*export, "--fallback", "q8_0", "--json").stdout)["tensors"]
    notes = {tensor["note"] for tensor in told if tensor["stored"] == "trellis 2"}
    assert notes == {"trellis codes, which GGUF cannot hold"}
    assert "rounded" in {tensor["outcome"] for tensor in told}
    succeed(*words, "--encoding", "coded", "--overwrite")
    assert "all exact" in succeed(*export, "--overwrite").stdout


def test_json(there: Path) -> None:
    flags = ["--format", "gguf", "--component", "transformer", "--names", "full"]
    written = json.loads(succeed("export", "out", "m.gguf", *flags, "--json").stdout)
    assert written["component"] == "transformer"
    assert written["nbytes"] == (there / "m.gguf").stat().st_size
    assert {tensor["outcome"] for tensor in written["tensors"]} == {"exact"}


def test_quiet(there: Path) -> None:
    finished = succeed("export", "out", "m.gguf", "--format", "gguf", "--quiet", "--threads", 2)
    assert (finished.stdout, finished.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (["m.bin", "--format", "gguf"], 2, "m.bin: expected a file name that ends in .gguf"),
        (["m.gguf", "--format", "pt"], 2, "--format: expected safetensors or gguf, got pt"),
        (["m.gguf", "--format", "gguf", "--fallback", "q2_k"], 2, "--fallback: expected q8_0"),
        (
            ["m.gguf", "--format", "gguf", "--dtype", "float16"],
            2,
            "with --format gguf, got float16",
        ),
        (["dense", "--fallback", "q8_0"], 2, "--fallback: expected none with --format safetensors"),
        (["dense", "--json"], 2, "--json: expected --format gguf beside it, got safetensors"),
        (["there.gguf", "--format", "gguf"], 1, "already exists; --overwrite replaces it"),
        (["none/m.gguf", "--format", "gguf"], 1, "expected an existing directory"),
    ],
)
def test_bad_usage(there: Path, arguments: list[str], exit_code: int, text: str) -> None:
    (there / "there.gguf").write_text("before")
    before = {path.name for path in there.iterdir()}
    finished = run("export", "out", *arguments)
    assert finished.exit_code == exit_code
    assert text in finished.problem()
    assert {path.name for path in there.iterdir()} == before
    assert (there / "there.gguf").read_text() == "before"


def test_overwrite(there: Path) -> None:
    (there / "m.gguf").write_text("before")
    succeed("export", "out", "m.gguf", "--format", "gguf", "--overwrite")
    assert (there / "m.gguf").read_bytes()[:4] == b"GGUF"


def test_shortened_names_are_counted(there: Path) -> None:
    long_names(there / "long")
    first, *lines = succeed("export", "long/out", "m.gguf", "--format", "gguf").stdout.splitlines()
    assert "all exact" in first
    assert any(line.startswith("2 names shortened to 63 bytes; --names full") for line in lines)
    flags = ["--names", "full", "--overwrite"]
    finished = succeed("export", "long/out", "m.gguf", "--format", "gguf", *flags)
    assert "shortened" not in finished.stdout
