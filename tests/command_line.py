"""Runs of the command line, in this process and in others, and small checkpoints to run it on."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors_files import Tensors, write_json, write_safetensors
from thermoq.cli.app import main
from thermoq.interrupts import STOPPING_SIGNALS

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "thermoq"]


@dataclass(frozen=True)
class Finished:
    """How a run ended and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    def problem(self) -> str:
        """The one line that a failed run prints."""
        assert self.stdout == ""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("error: ")
        return lines[0]


def run(*arguments: object) -> Finished:
    """Run the command line in this process: fast, with all that a process of its own would do."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["thermoq", *map(str, arguments)]
    with (
        signal_handlers_kept(),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Finished(code, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Put the handlers of the stopping signals back, which `main` replaces for its process."""
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def succeed(*arguments: object) -> Finished:
    """Run the command line in this process, which must go well."""
    finished = run(*arguments)
    assert finished.exit_code == 0, finished.stderr
    return finished


def run_process(
    *arguments: object,
    command: Sequence[str] = COMMAND,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Finished:
    """Run the command line as a process of its own."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def tree(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below `directory`: a file's bytes, a link's target, None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def stored(values: Any, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    """`values` as a tensor for `write_safetensors`, cut to bf16 by dropping bits."""
    array = np.asarray(values, np.float32)
    if dtype == "BF16":
        data = (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = array.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()
    return dtype, array.shape, data


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seeded weights of a usual size."""
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def small_tensors() -> Tensors:
    """A denoiser with a tensor of every layer class and every float type, rows of ragged groups."""
    block = "transformer_blocks.0"
    return {
        "pos_embed.proj.weight": stored(noise(16, 24, seed=1)),
        f"{block}.attn1.to_q.weight": stored(noise(24, 72, seed=2)),
        f"{block}.ff.net.0.proj.weight": stored(noise(32, 24, seed=3), "F16"),
        f"{block}.norm1.linear.weight": stored(noise(48, 24, seed=4), "BF16"),
        f"{block}.norm1.linear.bias": stored(noise(48, seed=5), "BF16"),
        "proj_out_2.weight": stored(noise(8, 24, seed=6)),
    }


WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_model(root: Path, tensors: Tensors | None = None) -> Path:
    """A bare diffusers component with small files beside its weights."""
    write_json(root / "config.json", {"_class_name": "DiTTransformer2DModel", "num_layers": 1})
    (root / "README.md").write_text("# A model\n")
    (root / "samples").mkdir(exist_ok=True)
    (root / "samples" / "one.bin.txt").write_text("text")
    write_safetensors(root / WEIGHTS, tensors or small_tensors())
    return root


def small_pipeline(root: Path) -> Path:
    """A diffusers pipeline with the same denoiser, a scheduler and a part that is carried over."""
    index = {
        "_class_name": "DiTPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(root / "model_index.json", index)
    scheduler = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}
    write_json(root / "scheduler" / "scheduler_config.json", scheduler)
    small_model(root / "transformer")
    write_json(root / "vae" / "config.json", {"_class_name": "AutoencoderKL"})
    write_safetensors(root / "vae" / WEIGHTS, {"conv.weight": stored(noise(4, 3, 3, 3, seed=7))})
    return root


def first_byte_of(path: Path, tensor: str) -> int:
    """Where the bytes of `tensor` begin in the safetensors file at `path`."""
    import json

    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return 8 + length + int(json.loads(data[8 : 8 + length])[tensor]["data_offsets"][0])


def overwrite_bytes(path: Path, offset: int, data: bytes) -> None:
    """Change bytes in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
