"""Which models a checkpoint directory holds, which of them are quantized, and what lies beside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thermoq.checkpoint.carried import MANIFEST_NAME, is_foreign_weights, remaining_files
from thermoq.checkpoint.reader import Component
from thermoq.checkpoint.shards import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    find_weight_files,
    is_safetensors,
    read_tensors,
)
from thermoq.checkpoint.strict_json import JsonObject, read_json_object
from thermoq.checkpoint.untrusted import bad_file, reading, shown, shown_path
from thermoq.errors import InputError, UsageError

DENOISERS = ("transformer", "transformer_2", "unet")
"""The component folders that are quantized without being asked for, in this order."""

Layout = Literal["diffusers", "transformers", "component"]


@dataclass(frozen=True)
class Checkpoint:
    """A model directory whose headers, indexes and configurations were read and found consistent.

    `components` are those to quantize. `other_files` are all else to carry over, relative to
    `directory`, sorted; a quantized component's config.json is among them, its thermoq.json is not.
    `notes` say, a line each, what is not carried over. `scheduler_config` and `pipeline_config` are
    scheduler_config.json and model_index.json, None where there is none.
    """

    directory: Path
    name: str
    layout: Layout
    components: tuple[Component, ...]
    other_files: tuple[Path, ...] = field(repr=False)
    scheduler_config: JsonObject | None = field(repr=False)
    pipeline_config: JsonObject | None = field(repr=False)
    notes: tuple[str, ...]


def open_checkpoint(
    directory: Path, extra_components: Sequence[str] = (), *, allow_quantized: bool = False
) -> Checkpoint:
    """Read everything about the checkpoint in `directory` but the tensors' bytes.

    Known are a diffusers pipeline (with model_index.json, or just `transformer`, `transformer_2` or
    `unet` folders), a transformers model, and a bare component. `extra_components` names further
    folders to quantize. `allow_quantized` opens checkpoints that are quantized already.

    Raises UsageError for an unknown extra component, InputError for whatever is wrong on the disk.
    """
    root = Path(directory)
    with reading(root):
        _check_directory(root)
        pipeline_config = _optional_json(root / "model_index.json")
        denoisers = _denoisers(root, pipeline_config)
        extras = _checked_extras(root, extra_components)
        is_pipeline = pipeline_config is not None or bool(denoisers)
        # A root without weights of its own is a pipeline too, if its parts are named.
        names = list(denoisers) if is_pipeline or (extras and not _has_weights(root)) else [""]
        names += [name for name in extras if name not in names]
        if not names:
            raise _no_denoiser(root)
        if not allow_quantized:
            for folder in dict.fromkeys([root, *(root / name for name in names)]):
                _refuse_quantized(folder)
        components = tuple(_open_component(root / name, name) for name in names)
        remainder = remaining_files(root, components)
        return Checkpoint(
            directory=root,
            name=_name(root),
            layout=_root_layout(components[0]) if "" in names else "diffusers",
            components=components,
            other_files=remainder.files,
            scheduler_config=_scheduler_config(root),
            pipeline_config=pipeline_config,
            notes=remainder.notes,
        )


def _check_directory(root: Path) -> None:
    if not root.exists():
        raise bad_file(root, "expected a model directory, got no such directory")
    if not root.is_dir():
        hint = f"; give its directory, {shown_path(root.parent)}" if is_safetensors(root) else ""
        raise bad_file(root, f"expected a model directory, got a file{hint}")


def _optional_json(path: Path) -> JsonObject | None:
    # lexists: a link to nothing, as an unfinished download leaves it, is not "no configuration".
    return read_json_object(path) if os.path.lexists(path) else None


def _denoisers(root: Path, pipeline_config: JsonObject | None) -> list[str]:
    """The denoiser folders in `root`; one that model_index.json names must be there."""
    found = []
    for name in DENOISERS:
        folder = root / name
        if folder.is_dir() and (_has_weights(folder) or (folder / "config.json").exists()):
            found.append(name)
            continue
        # [library, class]; pipelines write [null, null] for a part that they do without.
        entry = (pipeline_config or {}).get(name)
        if isinstance(entry, list) and any(part is not None for part in entry):
            problem = f"expected a folder {name} with weights, as model_index.json says, got none"
            raise bad_file(root, problem)
    return found


def _has_weights(folder: Path) -> bool:
    return any(is_safetensors(path) or is_foreign_weights(path) for path in folder.iterdir())


def _folders_with_safetensors(root: Path) -> list[str]:
    # glob passes over folders that may not be read.
    return sorted({path.parent.name for path in root.glob("*/*") if is_safetensors(path)})


def _checked_extras(root: Path, extra_components: Sequence[str]) -> list[str]:
    if not extra_components:
        return []
    known = _folders_with_safetensors(root)
    for name in extra_components:
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "none, no folder has safetensors"
            raise UsageError(f"unknown component {shown(name)}: expected {expected}")
    return list(dict.fromkeys(extra_components))


def _refuse_quantized(folder: Path) -> None:
    config = _optional_json(folder / "config.json") or {}
    entry = config.get("quantization_config") or config.get("compression_config")
    method = entry.get("quant_method") if isinstance(entry, dict) else entry
    if (folder / MANIFEST_NAME).exists() or method == "thermoq":
        problem = "expected an original model, got one already quantized by thermoq"
        raise bad_file(folder, f"{problem}; use the original")
    if entry:
        problem = f"expected an original model, got one already quantized by {shown(method)}"
        raise bad_file(folder / "config.json", f"{problem}; use the original")


def _open_component(folder: Path, name: str) -> Component:
    weights = find_weight_files(folder)
    if weights is None:
        raise bad_file(folder, f"expected safetensors weights, got none{_found_instead(folder)}")
    return Component(
        directory=folder,
        name=name,
        config=_optional_json(folder / "config.json"),
        tensors=read_tensors(weights),
        files=weights.shards + ((weights.index,) if weights.index else ()),
        stem=weights.stem,
    )


def _found_instead(folder: Path) -> str:
    """A hint, if `folder` or a folder in it has weights in another format or of another part."""
    foreign = next(filter(is_foreign_weights, sorted(folder.glob("*"))), None) or next(
        filter(is_foreign_weights, sorted(folder.glob("*/*"))), None
    )
    if foreign is not None:
        found = shown_path(foreign.relative_to(folder))
        return f"; there is {found}, but thermoq reads safetensors only"
    return _other_parts(folder)


def _no_denoiser(root: Path) -> InputError:
    expected = f"expected a folder {', '.join(DENOISERS[:-1])} or {DENOISERS[-1]}, got none"
    return bad_file(root, expected + _other_parts(root))


def _other_parts(folder: Path) -> str:
    parts = _folders_with_safetensors(folder)
    if not parts:
        return ""
    return f"; {', '.join(parts)} could be named as an extra component (--component)"


def _root_layout(component: Component) -> Layout:
    config = component.config
    if config is None or "_class_name" in config or component.stem == DIFFUSERS_STEM:
        return "component"
    is_transformers = component.stem == TRANSFORMERS_STEM or "model_type" in config
    return "transformers" if is_transformers else "component"


def _scheduler_config(root: Path) -> JsonObject | None:
    candidates = [root / "scheduler", root]
    resolved = root.resolve()
    if resolved.name in DENOISERS:
        candidates.append(resolved.parent / "scheduler")
    for folder in candidates:
        config = _optional_json(folder / "scheduler_config.json")
        if config is not None:
            return config
    return None


def _name(root: Path) -> str:
    """What to call the model: its directory's name, or the repository's in a hub cache."""
    resolved = root.resolve()
    if resolved.name in DENOISERS:
        resolved = resolved.parent
    # models--OWNER--NAME/snapshots/COMMIT
    if resolved.parent.name == "snapshots" and "--" in resolved.parent.parent.name:
        resolved = Path(resolved.parent.parent.name.rpartition("--")[2])
    return shown_path(Path(resolved.name)) if resolved.name else "model"
