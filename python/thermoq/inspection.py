"""`inspect`: what is in a checkpoint, quantized or not, from headers and manifests alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thermoq.checkpoint import StoredTensor, open_checkpoint
from thermoq.checkpoint.manifest import CopiedTensor, QuantizedTensor, TensorEntry
from thermoq.checkpoint.quantized import QuantizedComponent, is_quantized, open_quantized
from thermoq.config import QuantizationConfig, load_config
from thermoq.plan import (
    ComponentPlan,
    TensorPlan,
    copied_warnings,
    pattern_warnings,
    plan_component,
)
from thermoq.terms import LAYER_CLASSES

_NO_BUDGET = (
    "the size budget is left out here, as it is chosen by measuring weights; `thermoq quantize "
    "--dry-run` shows its plan"
)


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor: as it is stored, or as it would be. `layer_class` None: copied, for `reason`."""

    component: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    num_weights: int
    layer_class: str | None
    reason: str
    encoding: str
    bit_width: int | None
    source_bytes: int
    stored_bytes: int
    same_as: str | None

    @property
    def bits_per_weight(self) -> float:
        """Of what is stored; 0 where the bytes lie under `same_as`."""
        return 8 * self.stored_bytes / self.num_weights if self.num_weights else 0.0


@dataclass(frozen=True)
class ClassTotal:
    """What a layer class, or the copied tensors, add up to."""

    layer_class: str
    num_tensors: int
    num_weights: int
    source_bytes: int
    stored_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Of what is stored."""
        return 8 * self.stored_bytes / self.num_weights if self.num_weights else 0.0


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's tensors. `quantized` tells whether thermoq wrote it or this is a plan."""

    directory: Path
    name: str
    layout: str
    quantized: bool
    tensors: tuple[InspectedTensor, ...]
    notes: tuple[str, ...]

    def class_totals(self) -> list[ClassTotal]:
        """Return a row for each layer class that occurs, for the copied tensors, and for all."""
        rows = []
        for name in (*LAYER_CLASSES, "copied"):
            members = [t for t in self.tensors if (t.layer_class or "copied") == name]
            if members:
                rows.append(_total(name, members))
        return [*rows, _total("all", self.tensors)]


def inspect(
    directory: Path | str,
    *,
    config: QuantizationConfig | Path | str | None = None,
    **settings: object,
) -> Inspection:
    """Describe the checkpoint `directory`; of one that is not quantized, what thermoq would do.

    `config` and `settings` are those of `quantize`. Reads headers only: identical tensors, which
    are stored once, are known of quantized checkpoints alone.

    Raises InputError and UsageError as `quantize` does.
    """
    root = Path(directory)
    resolved = load_config(Path(config) if isinstance(config, str) else config, settings)
    checkpoint = open_checkpoint(root, resolved.components, allow_quantized=True)
    quantized = any(is_quantized(part) for part in checkpoint.components)
    if quantized:
        checkpoint, components = open_quantized(root)
        tensors = [row for part in components for row in _stored(part)]
        notes: tuple[str, ...] = checkpoint.notes
    else:
        checkpoint = open_checkpoint(root, resolved.components)
        plans = [plan_component(part, resolved, None) for part in checkpoint.components]
        tensors = [row for plan in plans for row in _planned(plan)]
        notes = (
            *checkpoint.notes,
            *pattern_warnings(checkpoint, resolved),
            *copied_warnings(plans),
            *([_NO_BUDGET] if resolved.has_budget else []),
        )
    return Inspection(root, checkpoint.name, checkpoint.layout, quantized, tuple(tensors), notes)


def _total(name: str, members: Sequence[InspectedTensor]) -> ClassTotal:
    return ClassTotal(
        name,
        len(members),
        sum(tensor.num_weights for tensor in members),
        sum(tensor.source_bytes for tensor in members),
        sum(tensor.stored_bytes for tensor in members),
    )


def _planned(plan: ComponentPlan) -> list[InspectedTensor]:
    return [_planned_tensor(plan.component.name, tensor) for tensor in plan.tensors]


def _planned_tensor(component: str, plan: TensorPlan) -> InspectedTensor:
    return InspectedTensor(
        component=component,
        name=plan.tensor.name,
        shape=plan.tensor.shape,
        dtype=plan.tensor.dtype,
        num_weights=plan.num_weights,
        layer_class=plan.layer.layer_class,
        reason=plan.layer.reason,
        encoding=plan.scheme.encoding if plan.scheme else "copied",
        bit_width=plan.scheme.bit_width if plan.scheme else None,
        source_bytes=plan.tensor.nbytes,
        stored_bytes=plan.encoded_bytes,
        same_as=None,
    )


def _stored(part: QuantizedComponent) -> list[InspectedTensor]:
    return [_stored_tensor(part, name, part.manifest.tensors[name]) for name in part.names()]


def _stored_under(part: QuantizedComponent, name: str, entry: TensorEntry) -> list[StoredTensor]:
    """Return what lies on the disk for this tensor alone."""
    weights = [] if entry.same_as else part.parts(name)
    return [*weights, *part.activation_parts(name)]


def _stored_tensor(part: QuantizedComponent, name: str, entry: TensorEntry) -> InspectedTensor:
    quantized = entry if isinstance(entry, QuantizedTensor) else None
    return InspectedTensor(
        component=part.component.name,
        name=name,
        shape=entry.shape,
        dtype=entry.source_dtype,
        num_weights=entry.num_weights,
        layer_class=quantized.layer_class if quantized else None,
        reason=entry.reason if isinstance(entry, CopiedTensor) else "",
        encoding=entry.encoding,
        bit_width=quantized.bit_width if quantized else None,
        source_bytes=entry.source_bytes,
        stored_bytes=sum(p.nbytes for p in _stored_under(part, name, entry)),
        same_as=entry.same_as,
    )
