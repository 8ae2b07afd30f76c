"""Models of diffusers from their directory, by its own classes, with no code that lies there."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from thermoq.calibration.failures import one_line
from thermoq.calibration.job import precision_for
from thermoq.calibration.packages import silenced
from thermoq.checkpoint import Checkpoint, Component
from thermoq.checkpoint.shards import variant_of
from thermoq.checkpoint.strict_json import read_json_object
from thermoq.checkpoint.untrusted import bad_file, shown

_GENERIC = "DiffusionPipeline"  # names no way of sampling: transformer and scheduler alone


@dataclass(frozen=True)
class DiffusersModel:
    """What there is to sample with. `pipeline` is set if only the pipeline itself can do it."""

    directory: Path
    denoisers: Mapping[str, nn.Module]
    scheduler: Any
    pipeline: Any = None
    vae: Any = None
    class_name: str = ""
    dtype: torch.dtype = torch.float32


def load_diffusers(checkpoint: Checkpoint) -> DiffusersModel:
    """Build the denoisers and the scheduler of a checkpoint, and the pipeline if it takes prompts.

    Weights are taken from safetensors alone, in the precision that `precision_for` says.

    Raises InputError for what is missing, unknown to diffusers, or would need code of its own.
    """
    root = checkpoint.directory
    index = checkpoint.pipeline_config
    if index is not None:
        _check_index(root, index)
    for component in checkpoint.components:
        denoiser_class(component)
    scheduler_folder = _scheduler_folder(checkpoint)
    dtype = getattr(torch, precision_for(checkpoint))
    name = (index or {}).get("_class_name", "")
    with loading(root):
        scheduler = _scheduler(scheduler_folder)
        denoisers = {part.name: _denoiser(part, dtype) for part in checkpoint.components}
        pipeline, vae = None, None
        if index is not None and _takes_prompts(name):
            pipeline = getattr(diffusers, name).from_pretrained(
                root,
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=_variant(checkpoint.components[0]),
                **denoisers,
            )
            pipeline.set_progress_bar_config(disable=True)
            scheduler, vae = pipeline.scheduler, getattr(pipeline, "vae", None)
        elif index is not None:
            vae = _autoencoder(root, index, dtype)
    return DiffusersModel(root, denoisers, scheduler, pipeline, vae, str(name), dtype)


@contextmanager
def loading(root: Path) -> Iterator[None]:
    """Turn what goes wrong in other packages into an error of one line."""
    with one_line(root, f"diffusers {diffusers.__version__} cannot load it"), silenced():
        yield


# The pipeline's index.


def _check_index(root: Path, index: Mapping[str, Any]) -> None:
    """Refuse a pipeline with code or classes of its own, or with a part that is not there."""
    path = root / "model_index.json"
    name = index.get("_class_name")
    own_code = next(iter(sorted(root.glob("*.py")) + sorted(root.glob("*/*.py"))), None)
    if not isinstance(name, str):
        raise bad_file(path, f"expected a pipeline of diffusers, got {_custom(name)}")
    if not _is_pipeline(name):
        there = f" ({own_code.relative_to(root)})" if own_code else ""
        raise bad_file(
            path,
            f"expected a pipeline that diffusers {diffusers.__version__} knows, got {shown(name)}"
            f"{there}; code from the directory is not run: upgrade diffusers, or calibrate a "
            "directory with only the denoiser's and the scheduler's folders",
        )
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or not entry[1]:
            continue
        _check_part(root, path, part, *entry)


def _custom(name: object) -> str:
    parts = ", ".join(map(str, name)) if isinstance(name, list) else str(name)
    return (
        f"a custom one with code of its own ({shown(parts)}), which is not run; calibrate a "
        "directory with only the denoiser's and the scheduler's folders"
    )


def _check_part(root: Path, path: Path, part: str, library: object, name: object) -> None:
    homes: list[Any] = [{"diffusers": diffusers, "transformers": transformers}.get(str(library))]
    homes.append(getattr(diffusers.pipelines, str(library), None))  # such as a safety checker
    if not any(inspect.isclass(getattr(home, str(name), None)) for home in homes if home):
        raise bad_file(
            path,
            f"{part}: expected a class of diffusers or transformers, got {shown(name)} of "
            f"{shown(library)}; code from the directory is not run: upgrade the package, or "
            "calibrate a directory with only the denoiser's and the scheduler's folders",
        )
    folder = root / part
    if not folder.is_dir():
        raise bad_file(root, f"expected a folder {part}, as model_index.json says, got none")
    config = folder / "config.json"
    if config.exists() and "auto_map" in read_json_object(config):
        problem = "expected a class of diffusers or transformers, got one with code of its own"
        raise bad_file(config, problem)


def _is_pipeline(name: str) -> bool:
    found = getattr(diffusers, name, None)
    return inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline)


def _takes_prompts(name: object) -> bool:
    if not isinstance(name, str) or name == _GENERIC:
        return False
    return "prompt" in inspect.signature(getattr(diffusers, name).__call__).parameters


# Parts.


def denoiser_class(component: Component) -> Any:
    """Return the class of diffusers that a denoiser's config.json names; InputError for another."""
    config = component.config or {}
    name = config.get("_class_name")
    path = component.directory / "config.json"
    if name is None:
        problem = "expected a config.json that names its class (_class_name), got none"
        raise bad_file(component.directory, problem)
    found = getattr(diffusers, str(name), None)
    if "auto_map" in config or not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise bad_file(
            path,
            f"expected a model class that diffusers {diffusers.__version__} knows, got "
            f"{shown(name)}; code from the directory is not run: upgrade diffusers",
        )
    return found


def _denoiser(component: Component, dtype: torch.dtype) -> nn.Module:
    module, found = denoiser_class(component).from_pretrained(
        component.directory,
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        variant=_variant(component),
        output_loading_info=True,
    )
    check_complete(component, found["missing_keys"])  # diffusers draws them at random
    assert isinstance(module, nn.Module)
    return module.eval()


def check_complete(component: Component, missing: Collection[str]) -> None:
    """Raise InputError if parameters of the model are `missing` in its files."""
    if missing:
        raise bad_file(component.directory, f"expected a tensor {min(missing)}, got none")


def _variant(component: Component) -> str | None:
    return variant_of(component.files[0]) or None


def _scheduler_folder(checkpoint: Checkpoint) -> Path:
    root = checkpoint.directory
    for folder in (root / "scheduler", root, root.resolve().parent / "scheduler"):
        path = folder / "scheduler_config.json"
        if path.is_file():
            name = read_json_object(path).get("_class_name")
            found = getattr(diffusers, str(name), None)
            if not (inspect.isclass(found) and issubclass(found, diffusers.SchedulerMixin)):
                raise bad_file(
                    path,
                    f"expected a scheduler class that diffusers {diffusers.__version__} knows, got "
                    f"{shown(name)}; code from the directory is not run",
                )
            return folder
    raise bad_file(root, "expected a folder scheduler with scheduler_config.json, got none")


def load_scheduler(checkpoint: Checkpoint) -> Any:
    """Build the scheduler of a checkpoint. Raises InputError as `load_diffusers` does."""
    folder = _scheduler_folder(checkpoint)
    with loading(checkpoint.directory):
        return _scheduler(folder)


def _scheduler(folder: Path) -> Any:
    name = read_json_object(folder / "scheduler_config.json")["_class_name"]
    return getattr(diffusers, str(name)).from_pretrained(folder, local_files_only=True)


def _autoencoder(root: Path, index: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return the autoencoder that the index names: images of the user go through it."""
    entry = index.get("vae") or index.get("vqvae")
    if not isinstance(entry, list) or entry[0] != "diffusers":
        return None
    folder = root / ("vae" if index.get("vae") else "vqvae")
    module = getattr(diffusers, str(entry[1])).from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return module.eval()
