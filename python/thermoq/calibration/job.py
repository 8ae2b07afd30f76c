"""A model made ready to be sampled: which modules to watch, and how to run them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from thermoq.calibration.file import layer_name
from thermoq.calibration.storage import physical_memory
from thermoq.checkpoint import Checkpoint, Component
from thermoq.layers import classify

if TYPE_CHECKING:
    from torch import nn

At = Callable[[Sequence[float]], AbstractContextManager[None]]
"""Given a timestep, or one for each sample; the forward pass happens in its block."""


@dataclass(frozen=True)
class Step:
    """A step that was made, counted from 1, and how many samples are begun."""

    step: int
    samples: int


@dataclass(frozen=True)
class Watched:
    """A module, and the path in it of each layer, by COMPONENT/TENSOR."""

    module: nn.Module
    layers: dict[str, str]


@dataclass(frozen=True)
class Job:
    """A model that is ready to be sampled, in batches that do not depend on each other.

    `batches` are the numbers of the samples that go through the model together. `run` makes every
    forward pass in a block of its first argument, tells its second of each step and its third how
    many batches are done, and leaves out as many as the last one says. `notes` are worth a warning
    each.
    """

    watched: tuple[Watched, ...]
    batches: tuple[range, ...]
    steps: int
    sampler: str
    guidance: float | None
    data_share: float
    precision: str
    run: Callable[[At, Callable[[Step], None], Callable[[int], None], int], None]
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_SHARE_OF_MEMORY = 0.5


def precision_for(checkpoint: Checkpoint) -> Literal["float32", "bfloat16"]:
    """Return what to run a model in: f32, unless its weights would take over half of the memory."""
    files = [path for part in checkpoint.components for path in part.files]
    files += [checkpoint.directory / path for path in checkpoint.other_files]
    stored_bytes = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    tensors = [tensor for part in checkpoint.components for tensor in part.tensors.values()]
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    bytes_each = sum(tensor.nbytes for tensor in tensors) / max(1, weights)
    widened_bytes = stored_bytes * 4 / max(1.0, bytes_each)
    return "float32" if widened_bytes <= _SHARE_OF_MEMORY * physical_memory() else "bfloat16"


def layers_to_watch(component: Component, path_of: Callable[[str], str]) -> dict[str, str]:
    """Return the layers of `component` that quantization touches and that multiply, with paths."""
    found = {}
    for name, tensor in component.tensors.items():
        layer_class = classify(name, tensor.shape, tensor.dtype).layer_class
        if layer_class not in (None, "table"):
            found[layer_name(component.name, name)] = path_of(name)
    return found
