"""Bad input: one clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    WEIGHTS,
    Finished,
    first_byte_of,
    noise,
    overwrite_bytes,
    run,
    run_process,
    small_model,
    small_pipeline,
    small_tensors,
    stored,
    succeed,
    tree,
)
from safetensors_files import (
    Tensors,
    entry,
    write_header,
    write_json,
    write_raw,
    write_safetensors,
    write_sharded,
    zeros,
)

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARDS = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a model and an older output."""
    small_model(tmp_path / "model")
    output = tmp_path / "out"
    output.mkdir()
    (output / "kept.txt").write_text("an older output")
    return tmp_path


def baseline(there: Path, *more: object) -> list[object]:
    """The command with all that it can write, `more` added."""
    words: list[object] = ["baseline", "--model", there / "model", "--output", there / "new"]
    return [*words, "--report", there / "r.json", "--html-report", there / "r.html", *more]


def refused(there: Path, arguments: list[object], exit_code: int, *texts: str) -> Finished:
    """Run what must fail with a line that has `texts`, and change nothing on the disk."""
    before = tree(there)
    finished = run(*arguments)
    problem = finished.problem()
    assert finished.exit_code == exit_code, problem
    for text in texts:
        assert text.format(there=there) in problem
    assert tree(there) == before
    return finished


# What lies on the disk.


def broken_header(header: dict[str, Any], data: bytes = b"") -> Callable[[Path], object]:
    return lambda model: write_header(model / WEIGHTS, header, data)


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda model: (model / WEIGHTS).write_bytes(content)


def cut(nbytes: int) -> Callable[[Path], object]:
    def build(model: Path) -> None:
        path = model / WEIGHTS
        path.write_bytes(path.read_bytes()[:-nbytes])

    return build


def only(name: str) -> Callable[[Path], object]:
    def build(model: Path) -> None:
        (model / WEIGHTS).unlink()
        (model / name).write_bytes(b"weights")

    return build


def sharded(change: Callable[[dict[str, str]], object] = lambda names: None) -> Any:
    """Two shards whose index is changed."""

    def build(model: Path) -> None:
        (model / WEIGHTS).unlink()
        shards: list[Tensors] = [{"a.weight": zeros("F32", 2, 8)}, {"b.weight": zeros("F32", 2, 8)}]
        write_sharded(model, "diffusion_pytorch_model", shards)
        index = json.loads((model / INDEX).read_text())
        change(index["weight_map"])
        write_json(model / INDEX, index)

    return build


def then(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(model: Path) -> None:
        for step in steps:
            step(model)

    return build


def tensors(**values: Any) -> Callable[[Path], object]:
    return lambda model: write_safetensors(
        model / WEIGHTS, {name.replace("__", "."): value for name, value in values.items()}
    )


def removed(model: Path) -> None:
    shutil.rmtree(model)


def replaced_by_file(model: Path) -> None:
    removed(model)
    model.write_text("a file")


def with_config(name: str, text: str) -> Callable[[Path], object]:
    def build(model: Path) -> None:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(text)

    return build


def quantized(model: Path) -> None:
    succeed("baseline", "--model", model, "--output", model.with_name("aside"))
    shutil.rmtree(model)
    model.with_name("aside").rename(model)


def linked_to_nothing(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to("gone.safetensors")


def pipe(model: Path) -> None:
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)


FILE = "model/" + WEIGHTS
EIGHT = entry("F32", [2], 0, 8)
BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing directory": (removed, ["model: expected a model directory, got no such directory"]),
    "a file": (replaced_by_file, ["model: expected a model directory, got a file"]),
    "nothing inside": (
        lambda model: (model / WEIGHTS).unlink(),
        ["model: expected safetensors weights, got none"],
    ),
    "a .bin inside": (
        only("pytorch_model.bin"),
        ["got none; there is pytorch_model.bin, but thermoq reads safetensors only"],
    ),
    "a .gguf inside": (only("model-q4.gguf"), ["there is model-q4.gguf, but"]),
    "empty file": (raw(b""), [FILE, "expected a safetensors file, got 0 bytes"]),
    "7 bytes": (raw(b"1234567"), [FILE, "got 7 bytes, no header"]),
    "truncated data": (cut(1), [FILE, "truncated: expected", "bytes, got"]),
    "truncated header": (
        lambda model: write_raw(model / WEIGHTS, "{}", length=50),
        [FILE, "truncated: expected at least 58 bytes for its header, got 10"],
    ),
    "header beyond 100 MB": (
        lambda model: write_raw(model / WEIGHTS, "{}", length=100_000_001),
        [FILE, "expected a header of at most 100,000,000 bytes, got a length of 100,000,001"],
    ),
    "header length of all ones": (raw(b"\xff" * 16), [FILE, "18,446,744,073,709,551,615"]),
    "git lfs pointer": (raw(b"version https://git-lfs.github.com/spec/v1\n"), [FILE, "Git LFS"]),
    "header not JSON": (
        lambda model: write_raw(model / WEIGHTS, "{weights}"),
        [FILE, "header: expected JSON, got a syntax error", "line 1 column 2"],
    ),
    "header not UTF-8": (
        lambda model: write_raw(model / WEIGHTS, b'{"\xff": 1}'),
        [FILE, "header: expected JSON, got bytes that are not UTF-8 at position 2"],
    ),
    "header a list": (
        lambda model: write_raw(model / WEIGHTS, "[1, 2]"),
        [FILE, "expected a header that begins with '{{'"],
    ),
    "overlapping offsets": (
        broken_header({"a": entry("F32", [4], 0, 16), "b": EIGHT}, bytes(16)),
        [FILE, "tensor 'a': its bytes 0 to 16 overlap those of 'b'"],
    ),
    "offsets out of range": (
        broken_header({"a": entry("F32", [4], 0, 16)}, bytes(8)),
        [FILE, "truncated: expected", "got"],
    ),
    "hole between": (
        broken_header({"a": EIGHT, "b": entry("F32", [2], 12, 20)}, bytes(20)),
        [FILE, "tensor 'b': expected its bytes to begin at 8, got 12: a hole before it"],
    ),
    "hole at the end": (
        broken_header({"a": EIGHT}, bytes(12)),
        [FILE, "a hole of 4 bytes after the last tensor"],
    ),
    "offsets reversed": (
        broken_header({"a": entry("F32", [2], 8, 0)}, bytes(8)),
        [FILE, "tensor 'a': expected data_offsets in order, got [8, 0]"],
    ),
    "offset negative": (
        broken_header({"a": entry("F32", [2], -8, 0)}, bytes(8)),
        [FILE, "tensor 'a': expected data_offsets of two non-negative integers, got [-8, 0]"],
    ),
    "unknown dtype": (
        broken_header({"a": entry("F33", [2], 0, 8)}, bytes(8)),
        [FILE, "tensor 'a': expected a safetensors dtype, got 'F33'"],
    ),
    "shape against bytes": (
        broken_header({"a": entry("F32", [3], 0, 8)}, bytes(8)),
        [FILE, "tensor 'a': expected 12 bytes for F32 [3], got 8 bytes"],
    ),
    "shape negative": (
        broken_header({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
        [FILE, "tensor 'a': expected a shape of non-negative integers, got [-2]"],
    ),
    "shape overflowing": (
        broken_header({"a": entry("F32", [2**40, 2**40], 0, 8)}, bytes(8)),
        [FILE, "tensor 'a': expected a shape below 2^63 bits"],
    ),
    "duplicate names": (
        lambda model: write_raw(
            model / WEIGHTS, f'{{"a": {json.dumps(EIGHT)}, "a": {json.dumps(EIGHT)}}}', bytes(8)
        ),
        [FILE, "header: expected JSON, got the key 'a' twice"],
    ),
    "duplicate names over shards": (
        then(
            sharded(),
            lambda model: write_safetensors(model / SHARDS[1], {"a.weight": zeros("F32", 2, 8)}),
        ),
        [SHARDS[1], f"tensor 'a.weight': expected it in one shard, got it in {SHARDS[0]} too"],
    ),
    "unprintable name": (
        broken_header({"a\nb": EIGHT}, bytes(8)),
        [FILE, "expected a tensor name of printable characters, got 'a\\nb'"],
    ),
    "index names a missing shard": (
        then(sharded(), lambda model: (model / SHARDS[1]).unlink()),
        [INDEX, f"names the shard {SHARDS[1]}, which is missing"],
    ),
    "index names a missing tensor": (
        sharded(lambda names: names.update({"c.weight": SHARDS[0]})),
        [INDEX, f"tensor 'c.weight': expected it in {SHARDS[0]}, which does not hold it"],
    ),
    "index misses a tensor": (
        then(
            sharded(),
            lambda model: write_safetensors(
                model / SHARDS[0],
                {"a.weight": zeros("F32", 2, 8), "more.weight": zeros("F32", 2, 8)},
            ),
        ),
        [INDEX, "tensor 'more.weight': expected every tensor in weight_map, got none"],
    ),
    "index misses a shard": (
        sharded(lambda names: names.pop("b.weight")),
        [INDEX, f"expected it to name all weight files, it misses {SHARDS[1]}"],
    ),
    "index mixes shards up": (
        sharded(
            lambda names: (
                names.update({"a.weight": SHARDS[1]}),
                names.update({"b.weight": SHARDS[0]}),
            )
        ),
        [INDEX, "as the index says, got it in"],
    ),
    "index not JSON": (
        then(sharded(), lambda model: (model / INDEX).write_text("{")),
        [INDEX, "expected JSON, got a syntax error"],
    ),
    "index without weight_map": (
        then(sharded(), lambda model: write_json(model / INDEX, {"metadata": {}})),
        [INDEX, "expected weight_map to be an object, got None"],
    ),
    "a shard without index is missing": (
        then(
            sharded(),
            lambda model: (model / INDEX).unlink(),
            lambda model: (model / SHARDS[0]).unlink(),
        ),
        ["model: expected 2 shards or an index", f"{SHARDS[0]} is missing"],
    ),
    "name escapes upwards": (
        sharded(lambda names: names.update({"a.weight": "../../stolen.safetensors"})),
        [INDEX, "tensor 'a.weight'", "a name that would escape the output directory"],
    ),
    "name escapes absolutely": (
        sharded(lambda names: names.update({"a.weight": "/etc/stolen.safetensors"})),
        [INDEX, "tensor 'a.weight'", "a name that would escape the output directory"],
    ),
    "quantized by thermoq": (quantized, ["model: ", "already quantized by thermoq"]),
    "quantized by others": (
        with_config("config.json", '{"quantization_config": {"quant_method": "gptq"}}'),
        ["config.json", "already quantized by 'gptq'; use the original"],
    ),
    "two names stored as one": (
        tensors(a__weight=zeros("F32", 2, 8), a__weight__codes=zeros("F32", 3)),
        [FILE, "a.weight.codes", "expected a name that nothing else is stored under"],
    ),
    "link to nothing": (linked_to_nothing, [FILE, "a link to nothing: 'gone.safetensors'"]),
    "a pipe": (pipe, ["model: expected safetensors weights, got none"]),
    "config not JSON": (with_config("config.json", "{"), ["config.json", "syntax error"]),
    "scheduler of words": (
        with_config("scheduler/scheduler_config.json", '{"num_train_timesteps": "many"}'),
        ["scheduler", "expected num_train_timesteps to be an integer", "got 'many'"],
    ),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_bad_checkpoint(case: str, there: Path) -> None:
    build, texts = BAD_CHECKPOINTS[case]
    build(there / "model")
    refused(there, baseline(there), 1, *texts)


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_leaves_an_older_output_alone(case: str, there: Path) -> None:
    build, texts = BAD_CHECKPOINTS[case]
    build(there / "model")
    refused(there, baseline(there, "--output", there / "out", "--overwrite"), 1, *texts)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("overwrite", [False, True])
def test_weights_that_are_not_finite(
    overwrite: bool, bit_width: int, dtype: str, there: Path
) -> None:
    values = noise(24, 72)
    values[[0, 5, 23], [0, 70, 71]] = np.nan
    values[[1, 9], [64, 3]] = [np.inf, -np.inf]
    bad = {"blocks.1.attn.weight": stored(values, dtype)}
    write_safetensors(there / "model" / WEIGHTS, {**small_tensors(), **bad})
    more = ["--output", there / "out", "--overwrite"] if overwrite else []
    refused(
        there,
        baseline(there, "--bit-width", bit_width, *more),
        1,
        f"{{there}}/{FILE}: tensor 'blocks.1.attn.weight': ",
        "expected finite weights, got 3 NaN and 2 infinite",
    )


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("bit_width", [2, 8])
def test_weights_beyond_float16(bit_width: int, dtype: str, there: Path) -> None:
    values = noise(4, 16)
    values[2, 3] = -131072.0
    write_safetensors(there / "model" / WEIGHTS, {"blocks.0.fc.weight": stored(values, dtype)})
    refused(
        there,
        baseline(there, "--bit-width", bit_width),
        1,
        FILE,
        "tensor 'blocks.0.fc.weight': expected weights within +-",
        "got 131072; a `layers` rule with skip: true copies the tensor",
    )
    (there / "skip.yaml").write_text("quantization:\n  layers: [{match: '*.fc.*', skip: true}]\n")
    succeed(*baseline(there, "--config", there / "skip.yaml"))


# What was typed.


def configured(there: Path, text: str) -> list[object]:
    (there / "c.yaml").write_text(text)
    return baseline(there, "--config", there / "c.yaml")


WRONG_FLAGS: dict[str, tuple[list[object], list[str]]] = {
    "bit width 3": (["--bit-width", 3], ["--bit-width: expected 2, 4 or 8 (3 bits are of the"]),
    "bit width 5": (["--bit-width", 5], ["--bit-width: expected 2, 3, 4 or 8, got 5"]),
    "bit width of letters": (
        ["--bit-width", "two"],
        ["'--bit-width': expected an integer, got 'two'"],
    ),
    "threshold of letters": (
        ["--smoothness-threshold", "low"],
        ["'--smoothness-threshold': expected a number, got 'low'"],
    ),
    "no time group": (["--num-time-groups", 0], ["--num-time-groups: expected", "got 0"]),
    "-1 time groups": (["--num-time-groups", -1], ["--num-time-groups: expected", "got -1"]),
    "more time groups than timesteps": (
        ["--num-time-groups", 1001],
        ["expected --num-time-groups between 1 and 1000 (the model's timesteps), got 1001"],
    ),
    "group size 12": (["--group-size", 12], ["--group-size: expected a multiple of 8", "got 12"]),
    "group size 0": (["--group-size", 0], ["--group-size: expected a multiple of 8", "got 0"]),
    "group size 64 at 8 bits": (
        ["--group-size", 64, "--bit-width", 8],
        ["--group-size: expected 32 or null", "got 64"],
    ),
    "encoding": (["--encoding", "nf4"], ["--encoding: expected affine, coded, trellis or null"]),
    "coded by rounding": (
        ["--encoding", "coded"],
        ["--encoding: expected affine or null (coded needs method lsq), got 'coded'"],
    ),
    "5 activation bits": (["--activation-bits", 5], ["--activation-bits: expected 4 or 8, got 5"]),
    "threshold 0": (["--smoothness-threshold", 0], ["--smoothness-threshold: expected", "got 0"]),
    "threshold nan": (["--smoothness-threshold", "nan"], ["--smoothness-threshold: expected"]),
    "no sampling step": (["--sampling-steps", 0], ["--sampling-steps: expected", "got 0"]),
    "shard size of words": (
        ["--max-shard-size", "5 apples"],
        ["--max-shard-size: expected a size of at least one byte such as 5GB", "got '5 apples'"],
    ),
    "shard size 0": (["--max-shard-size", "0GB"], ["--max-shard-size: expected", "got '0GB'"]),
    "seed -1": (["--seed", -1], ["--seed: expected an integer from 0 to 2^64 - 1, got -1"]),
    "-1 threads": (["--threads", -1], ["--threads: expected an integer from 0", "got -1"]),
    "unknown component": (["--component", "vae"], ["unknown component 'vae'"]),
    "escaping component": (["--component", "../x"], ["--component", "got '../x'"]),
    "unknown flag": (["--bits", 2], ["--bits"]),
    "flag without value": (["--seed"], ["--seed"]),
    "argument too many": (["more"], ["more"]),
    "no such configuration": (["--config", "gone.yaml"], ["gone.yaml: expected a YAML file"]),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag(case: str, there: Path) -> None:
    flags, texts = WRONG_FLAGS[case]
    refused(there, baseline(there, *flags), 2, *texts)
    refused(there, baseline(there, "--output", there / "out", "--overwrite", *flags), 2, *texts)


WRONG_CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "malformed": ("quantization: [", ["c.yaml, line 1, column", "malformed YAML: "]),
    "tab": ("quantization:\n\tbit_width: 2\n", ["c.yaml, line 2, column 1: malformed YAML"]),
    "unknown key": (
        "quantization:\n  bit_width: 2\n  bit_widht: 4\n",
        ["c.yaml, line 3: unknown key 'bit_widht' (did you mean bit_width?)"],
    ),
    "unknown section": ("quant:\n  x: 1\n", ["c.yaml, line 1: unknown key 'quant'"]),
    "wrong type": (
        "quantization:\n  num_time_groups: four\n",
        ["c.yaml, line 2: num_time_groups: expected an integer of at least 1, got 'four'"],
    ),
    "a list": ("[1, 2]\n", ["c.yaml, line 1: expected a mapping with the key quantization"]),
    "a rule without match": (
        "quantization:\n  layers:\n    - {bit_width: 8}\n",
        ["c.yaml, line 3: layers[0].match: expected a glob on the tensor name, got nothing"],
    ),
    "twice": ("quantization:\n  seed: 1\n  seed: 2\n", ["c.yaml, line 3", "seed again"]),
    "bit width 3": ("quantization: {bit_width: 3}\n", ["c.yaml, line 1: bit_width: expected 2,"]),
    "a calibration": (
        "quantization:\n  calibration: [c.safetensors]\n",
        ["c.yaml, line 2: calibration: expected the path of a calibration file", "got a list"],
    ),
    "code": ("quantization: !!python/object/apply:os.system [exit]\n", ["c.yaml, line 1", "tag"]),
    "not text": ("\x00", ["c.yaml", "malformed YAML"]),
}


@pytest.mark.parametrize("case", WRONG_CONFIGURATIONS)
def test_a_wrong_configuration(case: str, there: Path) -> None:
    text, texts = WRONG_CONFIGURATIONS[case]
    refused(there, configured(there, text), 2, *texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoding: lattice", "encoding: expected affine, coded, trellis or null, got 'lattice'"),
        ("method: hessian", "method: expected minmax, lsq or null (hessian needs a calibration)"),
        ("thermodynamic: {optimization: {enabled: true}}", "expected a --calibration beside the"),
    ],
)
def test_what_later_versions_do_is_refused(text: str, expected: str, there: Path) -> None:
    (there / "c.yaml").write_text(f"quantization:\n  {text}\n")
    arguments = ["quantize", "--model", there / "model", "--output", there / "new"]
    refused(there, [*arguments, "--config", there / "c.yaml"], 2, "c.yaml, line 2: ", expected)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (MemoryError(), "error: not enough memory"),
        (MemoryError("std::bad_alloc"), "error: not enough memory: std::bad_alloc"),
    ],
)
def test_too_little_memory(
    error: MemoryError, problem: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("thermoq.pipeline.carry_files", failing)
    assert refused(there, baseline(there), 1).problem() == problem


def test_flags_of_later_versions_are_refused(there: Path) -> None:
    arguments = ["quantize", "--model", there / "model", "--output", there / "new"]
    method = "--method: expected minmax, lsq or null (hessian needs a calibration), got 'hessian'"
    refused(there, [*arguments, "--method", "hessian"], 2, method)
    encoding = "--encoding: expected affine, coded, trellis or null, got 'lattice'"
    refused(there, [*arguments, "--encoding", "lattice"], 2, encoding)
    calibrate = "`thermoq calibrate --model DIR --output CALIBRATION.safetensors` makes"
    refused(there, [*arguments, "--phase", "optimize"], 2, "--phase: expected a", calibrate)
    refused(there, [*arguments, "--phase", "best"], 2, "--phase: expected baseline, smooth, opt")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["baseline", "--output", "x"], "--model"),
        (["quantize", "--model", "x"], "--output"),
        (["nonsense"], "nonsense"),
        (["verify"], "directory"),
        (["export", "x"], "target"),
        (["--versoin"], "--versoin"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[object], text: str, there: Path) -> None:
    refused(there, arguments, 2, text)


def test_no_command_shows_the_help_and_fails() -> None:
    finished = run()
    assert finished.exit_code == 2
    assert "baseline" in finished.stdout


# Where it is to be written.


def test_an_existing_output_names_overwrite(there: Path) -> None:
    arguments = baseline(there, "--output", there / "out")
    refused(there, arguments, 1, "{there}/out: already exists; --overwrite replaces it")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize(
    ("output", "exit_code", "text"),
    [
        ("file", 1, "{there}/file: expected a directory to write, got a file of that name"),
        ("dead-link", 1, "{there}/dead-link: expected a directory to write"),
        ("loop", 1, "{there}/loop: expected a directory to write"),
        ("file/out", 1, "{there}/file/out: expected an existing directory to write into"),
        ("gone/out", 1, "got {there}/gone (missing)"),
        ("/proc/out", 1, "/proc/out: cannot be written: "),
        ("x" * 300, 1, "File name too long"),
        ("model", 2, "{there}/model: expected an output apart from the input"),
        ("link-to-model", 2, "link-to-model: expected an output apart from the input"),
        ("model/inside", 2, "{there}/model/inside: expected an output outside the input"),
        (".", 2, "expected an output apart from the input, got one that holds {there}/model"),
    ],
)
def test_an_output_that_cannot_be(
    output: str, exit_code: int, text: str, overwrite: list[object], there: Path
) -> None:
    (there / "file").write_text("a file")
    (there / "dead-link").symlink_to("gone")
    (there / "loop").symlink_to("loop")
    (there / "link-to-model").symlink_to("model")
    arguments = baseline(there, "--output", there / output, *overwrite)
    refused(there, arguments, exit_code, text)


@pytest.mark.parametrize(
    ("flags", "exit_code", "text"),
    [
        (["--report", "gone/r.json"], 1, "gone/r.json: expected an existing directory to write"),
        (["--html-report", "gone/r.html"], 1, "gone/r.html: expected an existing directory"),
        (["--report", "folder"], 1, "folder: expected a file to write, got something else"),
        (["--report", "."], 1, "expected a file to write, got something else"),
        (["--report", "/dev/null"], 1, "/dev/null: expected a file to write"),
        (["--report", "/proc/r.json"], 1, "/proc/r.json: cannot be written: "),
        (["--html-report", "/proc/r.html"], 1, "/proc/r.html: cannot be written: "),
        (["--html-report", "r.json"], 2, "expected different files for the JSON report"),
        (["--html-report", "r.log"], 2, "expected different files for the JSON report"),
        (["--html-report", "link.html"], 2, "expected different files for the JSON report"),
        (["--report", "r.log"], 2, "expected different files for the JSON report"),
        (["--report", "model/r.json"], 2, "expected a report outside {there}/model"),
        (["--report", "new/r.json"], 2, "expected a report outside {there}/new"),
        (["--html-report", "new/r.html"], 2, "expected a report outside {there}/new"),
        (["--report", "new"], 2, "expected a report outside {there}/new"),
        (["--html-report", "new"], 2, "expected a report outside {there}/new"),
        (["--output", "r.log"], 2, "r.log: expected a report outside"),
    ],
)
def test_reports_that_cannot_be(flags: list[str], exit_code: int, text: str, there: Path) -> None:
    (there / "folder").mkdir()
    (there / "link.html").symlink_to("r.json")
    flag, value = flags
    refused(there, baseline(there, flag, there / value), exit_code, text)
    if flag != "--output" and "new" not in value:
        older = ["--output", there / "out", "--overwrite", flag, there / value]
        refused(there, baseline(there, *older), exit_code, text)


@pytest.mark.parametrize("flag", ["--report", "--html-report", "--output", "--model", "--config"])
@pytest.mark.parametrize("value", ["", ".", "/", ".."])
def test_paths_without_a_name(
    flag: str, value: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there / "empty").mkdir()
    monkeypatch.chdir(there / "empty")
    before = tree(there)
    finished = run(*baseline(there, flag, value))
    assert finished.exit_code in (1, 2)
    finished.problem()
    assert tree(there) == before


# Reading back.


@pytest.fixture
def finished_output(tmp_path: Path) -> Path:
    model = small_pipeline(tmp_path / "model")
    succeed("baseline", "--model", model, "--output", tmp_path / "q", "--max-shard-size", "2KB")
    return tmp_path / "q"


def shard_with(output: Path, tensor: str) -> Path:
    folder = output / "transformer"
    index = json.loads(next(folder.glob("*.index.json")).read_text())
    return folder / str(index["weight_map"][tensor])


QUERY = "transformer_blocks.0.attn1.to_q.weight"


def damaged(tensor: str, data: bytes) -> Callable[[Path], object]:
    def build(output: Path) -> None:
        path = shard_with(output, tensor)
        overwrite_bytes(path, first_byte_of(path, tensor), data)

    return build


def manifest_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def build(output: Path) -> None:
        path = output / "transformer" / "thermoq.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return build


def entry_with(**changes: Any) -> Callable[[Path], object]:
    return manifest_with(lambda content: content["tensors"][QUERY].update(changes))


BAD_OUTPUTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "not a checkpoint": (
        lambda output: [path.unlink() for path in output.rglob("*.safetensors")],
        ["transformer", "missing"],
    ),
    "no manifest": (
        lambda output: (output / "transformer/thermoq.json").unlink(),
        ["transformer: expected a checkpoint quantized by thermoq, got no thermoq.json"],
    ),
    "manifest cut": (
        lambda output: (output / "transformer/thermoq.json").write_text('{"format'),
        ["thermoq.json: expected JSON, got a syntax error"],
    ),
    "newer manifest": (
        manifest_with(lambda content: content.update(format_version=3)),
        ["thermoq.json: expected format_version 1 or 2, got 3"],
    ),
    "unknown encoding": (
        entry_with(encoding="lattice"),
        [f"thermoq.json: tensor '{QUERY}': expected a known encoding, got 'lattice'"],
    ),
    "another shape": (entry_with(shape=[24, 80]), [f"tensor '{QUERY}.", "got", "[24, 18]"]),
    "shape overflowing": (entry_with(shape=[2**62, 2**62]), [f"tensor '{QUERY}."]),
    "more than the file": (
        manifest_with(lambda content: content["tensors"].update(x=content["tensors"][QUERY])),
        ["tensor 'x.scale': missing from the safetensors files"],
    ),
    "less than the file": (
        manifest_with(lambda content: content["tensors"].pop(QUERY)),
        [f"tensor '{QUERY}.", "expected an entry in thermoq.json, got none"],
    ),
    "same as nothing": (
        entry_with(same_as="gone", sha256=None),
        [f"tensor '{QUERY}': expected same_as to name a stored tensor, got 'gone'"],
    ),
    "missing shard": (
        lambda output: shard_with(output, f"{QUERY}.codes").unlink(),
        ["index.json: names the shard", "which is missing"],
    ),
}
DAMAGED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "codes": (damaged(f"{QUERY}.codes", b"\x13\x37"), [f"tensor '{QUERY}': expected the checksum"]),
    "copied": (
        damaged("transformer_blocks.0.norm1.linear.bias", b"\x13\x37"),
        ["tensor 'transformer_blocks.0.norm1.linear.bias': expected the checksum"],
    ),
    "infinite scale": (
        damaged(f"{QUERY}.scale", b"\x00\x7c"),
        [f"tensor '{QUERY}.scale': expected finite values, got 1 that are not"],
    ),
    "nan minimum": (
        damaged(f"{QUERY}.minimum", b"\x01\x7e\x01\x7e"),
        [f"tensor '{QUERY}.minimum': expected finite values, got 2 that are not"],
    ),
    "negative scale": (
        damaged(f"{QUERY}.scale", b"\x00\xbc"),
        [f"tensor '{QUERY}.scale': expected scales >= 0, got -1.0"],
    ),
    "code -128": (
        damaged("proj_out_2.weight.codes", b"\x80"),
        ["tensor 'proj_out_2.weight.codes': expected codes in [-127, 127], got -128"],
    ),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_a_bad_quantized_checkpoint(case: str, finished_output: Path) -> None:
    build, texts = BAD_OUTPUTS[case]
    build(finished_output)
    there = finished_output.parent
    refused(there, ["verify", finished_output], 1, *texts)
    refused(there, ["export", finished_output, there / "dense"], 1, *texts)
    if case != "no manifest":
        refused(there, ["inspect", finished_output], 1, *texts)


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_found(case: str, finished_output: Path) -> None:
    build, texts = DAMAGED[case]
    build(finished_output)
    refused(finished_output.parent, ["verify", finished_output], 1, *texts)


def test_the_first_bad_tensor_is_named(finished_output: Path) -> None:
    for tensor in ("proj_out_2.weight.codes", f"{QUERY}.codes"):
        damaged(tensor, b"\x13\x37")(finished_output)
    problem = run("verify", finished_output).problem()
    assert f"{shard_with(finished_output, f'{QUERY}.codes')}: tensor '{QUERY}'" in problem


@pytest.mark.parametrize("command", ["verify", "export"])
def test_what_thermoq_did_not_write(command: str, there: Path) -> None:
    target = [there / "dense"] if command == "export" else []
    text = "expected a checkpoint quantized by thermoq, got no thermoq.json"
    refused(there, [command, there / "model", *target], 1, "{there}/model: " + text)
    refused(there, [command, there / "gone", *target], 1, "{there}/gone: expected a model dir")
    refused(there, [command, there / "out", *target], 1, "{there}/out: ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (["q", "dense", "--dtype", "int8"], 2, "--dtype: expected float32, float16, bfloat16, got"),
        (["q", "dense", "--max-shard-size", "x"], 2, "--max-shard-size: expected a size"),
        (["q", "dense", "--threads", "-1"], 2, "--threads: expected"),
        (["q", "model"], 1, "model: already exists; --overwrite replaces it"),
        (["q", "q", "--overwrite"], 2, "q: expected an output apart from the input"),
        (["q", "q/dense"], 2, "q/dense: expected an output outside the input directory"),
        (["q", "gone/dense"], 1, "expected an existing directory to write into"),
        (["q", "/proc/dense"], 1, "/proc/dense: cannot be written"),
    ],
)
def test_an_export_that_cannot_be(
    arguments: list[str],
    exit_code: int,
    text: str,
    finished_output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(finished_output.parent)
    refused(finished_output.parent, ["export", *arguments], exit_code, text)


def test_an_export_that_would_overflow(there: Path) -> None:
    tensors: Tensors = {**small_tensors(), "blocks.0.bias": stored([1.0, 1e6, -1e6])}
    write_safetensors(there / "model" / WEIGHTS, tensors)
    succeed("baseline", "--model", there / "model", "--output", there / "q")
    text = "tensor 'blocks.0.bias': expected values within the range of F16, got 2 beyond it"
    refused(there, ["export", there / "q", there / "dense", "--dtype", "float16"], 1, text)
    succeed("export", there / "q", there / "dense", "--dtype", "bfloat16")


# A process of its own: no traceback, the same code.


def test_processes_say_the_same(there: Path) -> None:
    write_raw(there / "model" / WEIGHTS, "{}", length=50)
    before = tree(there)
    finished = run_process(*baseline(there))
    assert finished.exit_code == 1
    assert "truncated" in finished.problem()
    finished = run_process(*baseline(there, "--bit-width", 5))
    assert finished.exit_code == 2
    assert finished.problem() == "error: --bit-width: expected 2, 3, 4 or 8, got 5"
    assert tree(there) == before


def test_an_unknown_simd_level(there: Path) -> None:
    before = tree(there)
    finished = run_process(*baseline(there), environment={"THERMOQ_SIMD": "neon"})
    assert finished.exit_code == 2
    assert "THERMOQ_SIMD: expected" in finished.problem()
    assert tree(there) == before


def test_a_full_standard_output(there: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "thermoq", "inspect", str(there / "model")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: system: No space left on device\n"
