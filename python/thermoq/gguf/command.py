"""`export` to GGUF: what was asked for, checked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from thermoq.build import build_info
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.untrusted import shown
from thermoq.config import load_config
from thermoq.errors import InputError, UsageError
from thermoq.gguf.export import GgufOptions, write_gguf
from thermoq.gguf.layouts import NAMES
from thermoq.gguf.package import gguf_package
from thermoq.gguf.plan import FALLBACKS
from thermoq.gguf.result import GgufExport
from thermoq.progress import Progress
from thermoq.report.atomic import check_writable
from thermoq.staging import already_there, final_path

Word = TypeVar("Word", bound=str)


def export_gguf(
    source: Path,
    target: Path,
    *,
    names: str | None,
    fallback: str | None,
    component: str | None,
    overwrite: bool,
    threads: int | None,
    progress: Progress,
) -> GgufExport:
    """Write one component of the quantized checkpoint `source` to the file `target`.

    Arguments and errors: `thermoq.export`.
    """
    gguf_package()
    options = GgufOptions(
        _known("--names", names or "checkpoint", NAMES),
        None if fallback is None else _known("--fallback", fallback, FALLBACKS),
        load_config(None, {"threads": threads}).threads,
    )
    build_info()
    _, components = open_quantized(source)
    part = _chosen(source, components, component)
    _check_target(source, target, overwrite)
    name = source.resolve().name
    if part.component.name:
        name = f"{name} {part.component.name}"
    return write_gguf(part, target, options, name=name, overwrite=overwrite, progress=progress)


def _known(flag: str, value: str, words: tuple[Word, ...]) -> Word:
    for word in words:
        if value == word:
            return word
    raise UsageError(f"{flag}: expected {', '.join(words)}, got {value}")


def _chosen(
    source: Path, components: tuple[QuantizedComponent, ...], wanted: str | None
) -> QuantizedComponent:
    """One file holds one component: loaders take a denoiser, not a pipeline."""
    names = [part.component.name for part in components]
    if wanted is not None:
        if wanted not in names:
            known = ", ".join(shown(name) for name in names)
            raise UsageError(f"--component: expected one of {known}, got {shown(wanted)}")
        return components[names.index(wanted)]
    if len(components) > 1:
        raise UsageError(
            f"{source}: expected --component with several quantized components, "
            f"one of {', '.join(names)}; a GGUF file holds one"
        )
    return components[0]


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.suffix != ".gguf":
        raise UsageError(f"{target}: expected a file name that ends in .gguf")
    origin = final_path(source)
    if origin in final_path(target).parents:
        raise UsageError(
            f"{target}: expected an output outside the input directory, got one inside {source}"
        )
    check_writable(target)
    if os.path.lexists(target) and not overwrite:
        raise already_there(target)
    if target.is_dir():
        raise InputError(f"{target}: expected a file to write, got a directory of that name")
