"""`export`: a dense checkpoint or a GGUF file, for tools that know nothing of thermoq."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.build import build_info
from thermoq.checkpoint.atomic_directory import atomic_directory, check_target, sync_tree
from thermoq.checkpoint.carry import QUANTIZATION_KEY, carry_files
from thermoq.checkpoint.manifest import CopiedTensor
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.reader import MappedFiles
from thermoq.checkpoint.untrusted import bad_tensor
from thermoq.checkpoint.writer import CheckpointWriter, StoredPart
from thermoq.config import QuantizationConfig, load_config
from thermoq.errors import UsageError
from thermoq.progress import NoProgress, Progress
from thermoq.verification import verify_tensor
from thermoq.weights import FLOAT_TYPES

if TYPE_CHECKING:
    from thermoq.gguf.result import GgufExport

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@overload
def export(
    directory: Path | str,
    target: Path | str,
    *,
    format: Literal["safetensors"] = ...,
    dtype: str | None = ...,
    overwrite: bool = ...,
    max_shard_size: str | int | None = ...,
    threads: int | None = ...,
    progress: Progress | None = ...,
) -> Path: ...


@overload
def export(
    directory: Path | str,
    target: Path | str,
    *,
    format: Literal["gguf"],
    names: str | None = ...,
    fallback: str | None = ...,
    component: str | None = ...,
    overwrite: bool = ...,
    threads: int | None = ...,
    progress: Progress | None = ...,
) -> GgufExport: ...


@overload
def export(
    directory: Path | str,
    target: Path | str,
    *,
    format: str,
    dtype: str | None = ...,
    names: str | None = ...,
    fallback: str | None = ...,
    component: str | None = ...,
    overwrite: bool = ...,
    max_shard_size: str | int | None = ...,
    threads: int | None = ...,
    progress: Progress | None = ...,
) -> Path | GgufExport: ...


def export(
    directory: Path | str,
    target: Path | str,
    *,
    format: str = "safetensors",
    dtype: str | None = None,
    names: str | None = None,
    fallback: str | None = None,
    component: str | None = None,
    overwrite: bool = False,
    max_shard_size: str | int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path | GgufExport:
    """Decode the quantized checkpoint `directory` for other tools.

    `format` "safetensors": into the new directory `target`, which is returned. Floating-point
    tensors take `dtype` ("float32", "float16", "bfloat16"; None: each its original one), rounded
    half to even from the f32 value; integers, booleans, f64 and f8 stay as they are.

    `format` "gguf": one component (`component`; None: the only one that is quantized) into the new
    file `target`, codes as they are wherever a ggml type holds them; needs the gguf package.
    `names` is "checkpoint" (None), "full" or "original", `fallback` None, "q8_0" or "q4_0"
    (docs/gguf.md). Returns what became of each tensor.

    Raises UsageError for a wrong argument, InputError for a file that `verify` would refuse, where
    a finite weight would become infinite in `dtype`, or for a tensor that GGUF cannot hold; nothing
    is written then.
    """
    progress = progress or NoProgress()
    if format == "gguf":
        from thermoq.gguf.command import export_gguf

        _refuse("gguf", {"--dtype": dtype, "--max-shard-size": max_shard_size})
        return export_gguf(
            Path(directory),
            Path(target),
            names=names,
            fallback=fallback,
            component=component,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    if format != "safetensors":
        raise UsageError(f"--format: expected safetensors or gguf, got {format}")
    _refuse("safetensors", {"--names": names, "--fallback": fallback, "--component": component})
    settings = load_config(None, {"max_shard_size": max_shard_size, "threads": threads})
    return _export_dense(Path(directory), Path(target), dtype, overwrite, settings, progress)


def dropped_time_parameters(directory: Path | str) -> str | None:
    """Return what a dense checkpoint of `directory` leaves out; None if that is nothing.

    Dense checkpoints are weights alone: loaders of others know no time parameters, and a gain that
    varies along the trajectory is part of no weight.
    """
    _, components = open_quantized(Path(directory))
    names = [(part, name) for part in components for name in part.manifest.tensors]
    kinds = (
        ("activation parameters", sum(bool(part.activation_parts(name)) for part, name in names)),
        ("row gains and biases", sum(bool(part.row_parts(name)) for part, name in names)),
    )
    dropped = [
        f"{kind} of {count} {'layer' if count == 1 else 'layers'}" for kind, count in kinds if count
    ]
    if any(part.output_parts() for part in components):
        dropped.append("the output correction")
    return "; ".join(dropped) or None


def _refuse(format: str, flags: dict[str, object]) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise UsageError(f"{flag}: expected none with --format {format}, got {value}")


def _export_dense(
    source: Path,
    destination: Path,
    dtype: str | None,
    overwrite: bool,
    settings: QuantizationConfig,
    progress: Progress,
) -> Path:
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype: expected {', '.join(DTYPES)}, got {dtype}")
    build_info()
    checkpoint, components = open_quantized(source)
    check_target(destination, overwrite=overwrite, inputs=(source,))
    progress.start(
        "export",
        sum(len(part.manifest.tensors) for part in components),
        sum(t.nbytes for part in components for t in part.component.tensors.values()),
    )
    wanted = DTYPES[dtype] if dtype else None
    with atomic_directory(destination, replace=overwrite) as temporary, MappedFiles() as files:
        for part in components:
            exporter = _Exporter(part, wanted, settings.threads, files, progress)
            exporter.run(temporary / part.component.name, settings.max_shard_bytes)
        configs = {part.component.name: _dense_config(part, dtype) for part in components}
        carry_files(checkpoint, temporary, configs)
        sync_tree(temporary)
    return destination


class _Exporter:
    """Writes one component densely."""

    def __init__(
        self,
        part: QuantizedComponent,
        dtype: str | None,
        threads: int,
        files: MappedFiles,
        progress: Progress,
    ) -> None:
        self._part = part
        self._dtype = dtype
        self._threads = threads
        self._files = files
        self._progress = progress

    def run(self, directory: Path, max_shard_bytes: int) -> None:
        entries = self._part.manifest.tensors
        names = list(self._part.names())
        parts = {
            name: (StoredPart(name, self._target_dtype(name), entries[name].shape),)
            for name in names
        }
        stem = self._part.component.stem
        with CheckpointWriter(directory, stem, parts, max_shard_bytes) as writer:
            for name in names:
                writer.write(name, [self._dense(name)])
                self._part.release(name, self._files)
                self._progress.advance(name, self._stored_bytes(name))
            writer.finish()

    def _stored_bytes(self, name: str) -> int:
        """Count repeated tensors once."""
        if self._part.manifest.tensors[name].same_as is not None:
            return 0
        return sum(part.nbytes for part in self._part.parts(name))

    def _target_dtype(self, name: str) -> str:
        source = self._part.manifest.tensors[name].source_dtype
        return self._dtype if self._dtype and source in FLOAT_TYPES else source

    def _dense(self, name: str) -> NDArray[np.uint8]:
        entry = self._part.manifest.tensors[name]
        target = self._target_dtype(name)
        if entry.same_as is None:
            verify_tensor(self._part, name, self._files)
        decoded = self._part.decode(name, self._files, target, self._threads)
        overflows = 0
        if not isinstance(entry, CopiedTensor):
            if target == "F16":  # what it cannot hold has become infinite; no other type can
                overflows = int(np.count_nonzero(np.isinf(decoded.view(np.float16))))
        elif entry.source_dtype != target:
            source = FLOAT_TYPES[entry.source_dtype]
            decoded, overflows = _core.convert(decoded, source, FLOAT_TYPES[target], self._threads)
        if overflows:
            raise bad_tensor(
                self._part.parts(name)[0].path,
                name,
                f"expected values within the range of {target}, got {overflows} beyond it; "
                "--dtype float32 holds them",
            )
        return decoded


def _dense_config(part: QuantizedComponent, dtype: str | None) -> dict[str, Any] | None:
    """Return the original config.json, with the new dtype where it names one."""
    config = dict(part.component.config or {})
    config.pop(QUANTIZATION_KEY, None)
    for key in ("torch_dtype", "dtype"):
        if dtype and isinstance(config.get(key), str):
            config[key] = dtype
    return config or None
