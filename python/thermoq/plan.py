"""What will be done with every tensor, decided before the first byte is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thermoq.checkpoint import Checkpoint, Component, MappedFiles, StoredTensor
from thermoq.checkpoint.untrusted import bad_tensor, shown
from thermoq.checkpoint.writer import StoredPart
from thermoq.config import QuantizationConfig
from thermoq.duplicates import find_duplicates
from thermoq.layers import LayerPlan, resolve, unmatched
from thermoq.weights import Scheme, matrix_shape, scheme_for


@dataclass(frozen=True)
class TensorPlan:
    """One tensor: what it is, how it is stored (`scheme` None: copied), and whether it repeats."""

    tensor: StoredTensor
    layer: LayerPlan
    scheme: Scheme | None
    same_as: str | None

    @property
    def num_weights(self) -> int:
        """Number of elements."""
        return math.prod(self.tensor.shape)

    @property
    def encoded_parts(self) -> tuple[StoredPart, ...]:
        """The tensors of the output that hold it, whether stored here or under `same_as`."""
        name, shape = self.tensor.name, self.tensor.shape
        if self.scheme is None:
            return (StoredPart(name, self.tensor.dtype, shape),)
        parts = self.scheme.stored_parts(*matrix_shape(shape, self.layer.row_dimension))
        return tuple(StoredPart(f"{name}.{suffix}", *part) for suffix, part in parts.items())

    @property
    def encoded_bytes(self) -> int:
        """Bytes of the encoded tensor."""
        return sum(part.nbytes for part in self.encoded_parts)

    @property
    def stored_bytes(self) -> int:
        """Bytes of it on disk: none where the bytes lie under `same_as`."""
        return 0 if self.same_as else self.encoded_bytes


@dataclass(frozen=True)
class ComponentPlan:
    """The tensors of a component, in the order they are worked on: as they lie in its files."""

    component: Component
    tensors: tuple[TensorPlan, ...]

    @property
    def stored_parts(self) -> Mapping[str, tuple[StoredPart, ...]]:
        """What the writer has to expect."""
        return {plan.tensor.name: plan.encoded_parts for plan in self.tensors if not plan.same_as}


def plan_component(
    component: Component, config: QuantizationConfig, files: MappedFiles | None
) -> ComponentPlan:
    """Decide class, bits and scheme of each tensor; with `files`, also which repeat another."""
    layers: dict[str, tuple[LayerPlan, Scheme | None]] = {}
    for name, tensor in component.tensors.items():
        layer = resolve(
            name, component.name, tensor.shape, tensor.dtype, config.bit_width, config.layers
        )
        scheme = None
        if layer.bit_width is not None:
            scheme = scheme_for(layer.bit_width, layer.group_size or config.affine_group_size)
        layers[name] = (layer, scheme)
    same_as: dict[str, str] = {}
    if files is not None:
        treatment = {
            name: (scheme, layer.row_dimension) for name, (layer, scheme) in layers.items()
        }
        same_as = find_duplicates(component.tensors, treatment, files)
    plans = tuple(
        TensorPlan(tensor, *layers[name], same_as.get(name))
        for name, tensor in component.tensors.items()
    )
    _check_names(plans)
    return ComponentPlan(component, plans)


def _check_names(plans: Sequence[TensorPlan]) -> None:
    """Refuse two tensors that would be stored under the same name."""
    owners: dict[str, str] = {}
    for plan in plans:
        for part in plan.encoded_parts:
            other = owners.setdefault(part.name, plan.tensor.name)
            if other != plan.tensor.name:
                problem = (
                    f"expected a name that nothing else is stored under, got {part.name} for "
                    f"{shown(other)} too; a `layers` rule with skip: true copies one of them"
                )
                raise bad_tensor(plan.tensor.path, plan.tensor.name, problem)


def pattern_warnings(checkpoint: Checkpoint, config: QuantizationConfig) -> list[str]:
    """Return a line for each `layers` pattern that matches no tensor."""
    names = [
        (component.name, name) for component in checkpoint.components for name in component.tensors
    ]
    return [
        f"layers: pattern {pattern!r} matches no tensor"
        for pattern in unmatched(config.layers, names)
    ]


def weight_files(component: Component) -> tuple[Path, ...]:
    """Return the component's safetensors files, without the index."""
    return tuple(path for path in component.files if path.suffix == ".safetensors")
