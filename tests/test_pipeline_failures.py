"""End to end: weights that cannot be quantized, and what a run that fails leaves behind."""

from __future__ import annotations

import builtins
import errno
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from safetensors_files import write_json, write_safetensors
from thermoq.errors import InputError, UsageError
from thermoq.staging import leftovers

Quantized = Callable[[str, str], Run]

# Bad weights.


def spoil(source: Path, name: str, values: dict[int, float]) -> None:
    """Put values into the F32 tensor `name`."""
    for path in models.safetensors_files(source):
        if name not in models.read_tensors(path.parent):
            continue

        def change(tensors: models.Tensors) -> models.Tensors:
            if name in tensors:
                dtype, shape, data = tensors[name]
                array = np.frombuffer(data, np.float32).copy()
                for position, value in values.items():
                    array[position] = value
                tensors[name] = (dtype, shape, array.tobytes())
            return tensors

        models.replace_tensors(path, change)


def test_nan_weights_are_named_and_counted(tmp_path: Path) -> None:
    source = models.unet(tmp_path / "unet", "F32")
    name = "down_blocks.0.attentions.0.to_q.weight"
    spoil(source / "unet", name, {3: np.nan, 5: np.inf, 7: np.nan})
    message = rf"diffusion_pytorch_model\.safetensors: tensor '{name}': expected finite weights, "
    with pytest.raises(InputError, match=message + r"got 2 NaN and 1 infinite; a `layers` rule"):
        thermoq.quantize(source, tmp_path / "out", report=tmp_path / "r.json")
    assert {path.name for path in tmp_path.iterdir()} == {"unet"}


def test_weights_beyond_float16_are_named_and_can_be_skipped(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "dream", "F32", 1)
    spoil(source, "lm_head.weight", {0: 70000.0})
    with pytest.raises(InputError, match=r"'lm_head.weight': expected weights within \+-65504"):
        thermoq.quantize(source, tmp_path / "out")
    config = tmp_path / "thermoq.yaml"
    config.write_text("quantization: {layers: [{match: lm_head.*, skip: true}]}")
    thermoq.quantize(source, tmp_path / "out", config=config)
    stored, before = models.read_tensors(tmp_path / "out"), models.read_tensors(source)
    assert stored["lm_head.weight"] == before["lm_head.weight"]


@pytest.mark.parametrize(
    ("settings", "suffix"),
    [
        ({"method": "minmax"}, "scale"),
        ({"encoding": "coded"}, "super_scale"),
        ({"encoding": "coded"}, "scale_codes"),
        ({"encoding": "trellis"}, "codes"),
    ],
)
def test_two_tensors_of_one_name_are_refused(
    tmp_path: Path, settings: dict[str, str], suffix: str
) -> None:
    maker = models.Maker("F32")
    maker.add("a.weight", 8, 16)
    maker.add(f"a.weight.{suffix}", 3)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/config.json", {})
    with pytest.raises(InputError, match=rf"got a\.weight\.{suffix} for 'a\.weight' too"):
        thermoq.quantize(tmp_path / "in", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


# What a failure leaves behind.


class Interrupting:
    """A progress that does something at the third tensor."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._count = 0

    def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
        assert task == "quantize"
        assert total_tensors > 3
        assert total_bytes > 0

    def advance(self, tensor: str, nbytes: int) -> None:
        self._count += 1
        if self._count == 3:
            self._action()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupt_leaves_what_was_there(tmp_path: Path, overwrite: bool) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    output = tmp_path / "out"
    if overwrite:
        thermoq.quantize(source, output, bit_width=4)
    before = models.tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        thermoq.quantize(source, output, overwrite=overwrite, progress=Interrupting(interrupt))
    assert models.tree(tmp_path) == before
    assert output.exists() == overwrite


def test_progress_counts_every_tensor_and_byte(quantized: Quantized, tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
            self.total = (total_tensors, total_bytes)

        def advance(self, tensor: str, nbytes: int) -> None:
            self.seen.append((tensor, nbytes))

    counting = Counting()
    run = quantized("dit", "F16")
    thermoq.quantize(run.source, tmp_path / "out", progress=counting)
    tensors = models.read_tensors(run.source / "transformer")
    assert sorted(counting.seen) == sorted((n, len(t[2])) for n, t in tensors.items())
    assert counting.total == (len(tensors), sum(len(t[2]) for t in tensors.values()))


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    thermoq.quantize(source, tmp_path / "out", bit_width=4)
    before = models.tree(tmp_path)
    with pytest.raises(InputError, match=r"out: already exists; --overwrite replaces it$"):
        thermoq.quantize(source, tmp_path / "out")
    assert models.tree(tmp_path) == before


def test_overwriting_replaces_the_whole_directory(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "BF16")
    output = tmp_path / "out"
    thermoq.quantize(run.source, output, bit_width=4, max_shard_size="8KB")
    (output / "notes.txt").write_text("mine")
    thermoq.quantize(run.source, output, overwrite=True)
    assert models.tree(output) == models.tree(run.output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_output_survives_a_run_that_fails(tmp_path: Path) -> None:
    source = models.unet(tmp_path / "unet", "F32")
    thermoq.quantize(source, tmp_path / "out", report=tmp_path / "r.json")
    spoil(source / "unet", "conv_out.weight", {0: np.nan})
    before = models.tree(tmp_path)
    with pytest.raises(InputError, match=r"conv_out\.weight"):
        thermoq.quantize(source, tmp_path / "out", report=tmp_path / "r.json", overwrite=True)
    assert models.tree(tmp_path) == before


@pytest.mark.parametrize("output", ["dream", "dream/out", "."])
def test_the_output_is_apart_from_the_input(tmp_path: Path, output: str) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    before = models.tree(tmp_path)
    with pytest.raises(UsageError, match="expected an output"):
        thermoq.quantize(source, tmp_path / output, overwrite=True)
    assert models.tree(tmp_path) == before


def test_an_output_without_a_parent(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    with pytest.raises(InputError, match=r"expected an existing directory to write into"):
        thermoq.quantize(source, tmp_path / "missing/out")


def test_a_quantized_input_is_refused(quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already quantized by thermoq; use the original"):
        thermoq.quantize(quantized("unet", "F32").output, tmp_path / "out")


SCRIPT = """
import os, resource, signal, sys
import thermoq

class Killing:
    count = 0
    def start(self, *args): pass
    def advance(self, *args):
        self.count += 1
        if self.count == 3:
            os.kill(os.getpid(), signal.SIGKILL)

source, output, what, limit = sys.argv[1:]
if what == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
if what == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    thermoq.quantize(
        source,
        output,
        overwrite=True,
        max_shard_size=1 if what == "files" else None,
        progress=Killing() if what == "kill" else None,
        html_report=output + ".html" if what == "limit" else None,
    )
except thermoq.ThermoqError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def in_subprocess(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_run_leaves_a_leftover_that_is_found(tmp_path: Path, existing: bool) -> None:
    source, output = models.dream(tmp_path / "dream", "BF16"), tmp_path / "out"
    if existing:
        thermoq.quantize(source, output, bit_width=4)
    before = models.tree(output)
    assert leftovers(output) == []
    done = in_subprocess(source, output, "kill", 0)
    assert done.returncode == -signal.SIGKILL
    assert models.tree(output) == before
    assert output.exists() == existing
    (leftover,) = leftovers(output)
    assert leftover.name.startswith(".out.thermoq-partial-")
    assert leftovers(tmp_path / "ou") == leftovers(tmp_path / "another") == []
    thermoq.quantize(source, output, overwrite=True)
    thermoq.verify(output)
    assert leftovers(output) == [leftover]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("limit", [0, 1000, 20_000, 48_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, limit: int, existing: bool) -> None:
    """Between the last two limits lies the page: the checkpoint fits and the report does not."""
    source, output = models.dream(tmp_path / "dream", "BF16"), tmp_path / "out"
    if existing:
        thermoq.quantize(source, output, bit_width=4)
    before = models.tree(tmp_path)
    done = in_subprocess(source, output, "limit", limit)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"InputError: {output}")
    assert "cannot be written: File too large" in done.stderr
    assert models.tree(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"dream"} | (
        {"out"} if existing else set()
    )


def test_more_shards_than_files_can_be_open(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    for number in range(100):
        maker.add(f"blocks.{number}.fc.weight", 8, 16)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/config.json", {})
    done = in_subprocess(tmp_path / "in", tmp_path / "out", "files", 40)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(models.safetensors_files(tmp_path / "out")) == 100
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    thermoq.verify(tmp_path / "out")


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """As when two runs were started with the same output."""
    source, output = models.dream(tmp_path / "dream", "BF16"), tmp_path / "out"
    report = tmp_path / "r.json"
    report.write_text("an earlier one")

    def another_run() -> None:
        thermoq.quantize(source, output, bit_width=8)

    with pytest.raises(InputError, match=r"out: already exists; --overwrite replaces it$"):
        thermoq.quantize(source, output, report=report, progress=Interrupting(another_run))
    assert thermoq.inspect(output).quantized
    manifest = json.loads((output / "thermoq.json").read_text())
    assert manifest["bit_width"] == 8
    assert report.read_text() == "an earlier one"
    assert {path.name for path in tmp_path.iterdir()} == {"dream", "out", "r.json"}


def test_a_carried_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    (source / "notes.txt").write_text("text")
    real_open = open

    class Broken(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    def opening(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(path) == source / "notes.txt":
            return Broken(path)
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", opening)
    message = rf"^{source / 'notes.txt'}: cannot be read: Input/output error$"
    with pytest.raises(InputError, match=message):
        thermoq.quantize(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"dream"}


@pytest.mark.parametrize("method", ["lsq", 3])
def test_the_baseline_has_one_method(tmp_path: Path, method: Any) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    with pytest.raises(UsageError, match=rf"^baseline: expected method minmax, got {method}$"):
        thermoq.baseline(source, tmp_path / "out", method=method)
    thermoq.baseline(source, tmp_path / "out", method="minmax")


@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a directory that no one can write"
)
def test_an_unwritable_parent(tmp_path: Path) -> None:
    """File modes would not do: they do not stop root."""
    source = models.dream(tmp_path / "dream", "BF16")
    with pytest.raises(InputError, match=r"^/proc/out: cannot be written: "):
        thermoq.quantize(source, Path("/proc/out"))
