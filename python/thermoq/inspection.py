"""`inspect`: what is in a checkpoint, quantized or not, from headers and manifests alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thermoq.checkpoint import StoredTensor, open_checkpoint
from thermoq.checkpoint.manifest import CopiedTensor, QuantizedTensor, TensorEntry
from thermoq.checkpoint.quantized import QuantizedComponent, is_quantized, open_quantized
from thermoq.config import QuantizationConfig, load_config
from thermoq.plan import (
    ComponentPlan,
    TensorPlan,
    pattern_warnings,
    plan_component,
    plan_warnings,
)
from thermoq.summary import runs_along_the_trajectory
from thermoq.terms import LAYER_CLASSES, RotationKind

_NO_BUDGET = (
    "the size budget is left out here, as it is chosen by measuring weights; `thermoq quantize "
    "--dry-run` shows its plan"
)


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor: as it is stored, or as it would be. `layer_class` None: copied, for `reason`.

    `rotation` tells that its codes are, or would be, those of a matrix with rotated inputs. Of the
    `stored_bytes`, `time_bytes` are of time parameters; `row_sets` of them are gains and biases for
    each row: none, 1, or one a time group. `activation_bits` are of its layer's inputs, where they
    are quantized, or would be with a calibration.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    num_weights: int
    layer_class: str | None
    reason: str
    encoding: str
    bit_width: int | None
    rotation: RotationKind | None
    source_bytes: int
    stored_bytes: int
    same_as: str | None
    time_bytes: int = 0
    row_sets: int = 0
    activation_bits: int | None = None

    @property
    def bits_per_weight(self) -> float:
        """Of what is stored; 0 where the bytes lie under `same_as`."""
        return 8 * self.stored_bytes / self.num_weights if self.num_weights else 0.0


@dataclass(frozen=True)
class InspectedTrajectory:
    """What of a quantized component varies along the trajectory.

    `windows` are half widths in timesteps, one a boundary; none without an `interpolation`. Layers
    are counted by what they have: activation parameters, one set of row gains and biases (pooled),
    one a time group. `other_activations` are those of `num_activations` with other bits than
    `activation_bits`, by their bits. `correction` of the prediction is None, or its kind.
    """

    component: str
    phase: str
    num_time_groups: int
    interpolation: str | None
    windows: tuple[float, ...]
    activation_bits: int | None
    num_activations: int
    other_activations: Mapping[int, int]
    num_pooled: int
    num_per_time_group: int
    time_bytes: int
    correction: str | None
    correction_bins: int


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
    trajectories: tuple[InspectedTrajectory, ...] = ()

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
    trajectories: tuple[InspectedTrajectory, ...] = ()
    if quantized:
        checkpoint, components = open_quantized(root)
        tensors = [row for part in components for row in _stored(part)]
        trajectories = tuple(_trajectory(part) for part in components)
        notes: tuple[str, ...] = checkpoint.notes
    else:
        checkpoint = open_checkpoint(root, resolved.components)
        plans = [plan_component(part, resolved, None) for part in checkpoint.components]
        tensors = [row for plan in plans for row in _planned(plan, resolved)]
        notes = (
            *checkpoint.notes,
            *pattern_warnings(checkpoint, resolved),
            *plan_warnings(plans, resolved),
            *([_NO_BUDGET] if resolved.has_budget else []),
        )
    return Inspection(
        root, checkpoint.name, checkpoint.layout, quantized, tuple(tensors), notes, trajectories
    )


def _total(name: str, members: Sequence[InspectedTensor]) -> ClassTotal:
    return ClassTotal(
        name,
        len(members),
        sum(tensor.num_weights for tensor in members),
        sum(tensor.source_bytes for tensor in members),
        sum(tensor.stored_bytes for tensor in members),
    )


def _planned(plan: ComponentPlan, config: QuantizationConfig) -> list[InspectedTensor]:
    return [_planned_tensor(plan.component.name, tensor, config) for tensor in plan.tensors]


def _planned_tensor(
    component: str, plan: TensorPlan, config: QuantizationConfig
) -> InspectedTensor:
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
        rotation=plan.rotation_kind(config),
        source_bytes=plan.tensor.nbytes,
        stored_bytes=plan.encoded_bytes,
        same_as=None,
        activation_bits=_planned_activation_bits(component, plan, config),
    )


def _planned_activation_bits(
    component: str, plan: TensorPlan, config: QuantizationConfig
) -> int | None:
    if plan.scheme is None or not runs_along_the_trajectory(component, plan):
        return None
    return plan.activation_bits(config)


def _stored(part: QuantizedComponent) -> list[InspectedTensor]:
    return [_stored_tensor(part, name, part.manifest.tensors[name]) for name in part.names()]


def _stored_under(part: QuantizedComponent, name: str, entry: TensorEntry) -> list[StoredTensor]:
    """Return what lies on the disk for this tensor alone."""
    weights = [] if entry.same_as else part.parts(name)
    return [*weights, *part.time_parts(name)]


def _trajectory(part: QuantizedComponent) -> InspectedTrajectory:
    manifest, correction = part.manifest, part.manifest.output_correction
    entries = [e for e in manifest.tensors.values() if isinstance(e, QuantizedTensor)]
    sets = [entry.time_groups_of_rows for entry in entries if entry.time_groups_of_rows]
    stored = [t for name in manifest.tensors for t in part.time_parts(name)]
    return InspectedTrajectory(
        component=part.component.name,
        phase=manifest.phase,
        num_time_groups=len(manifest.time_groups.time_group_starts),
        interpolation=manifest.smoothing.interpolation if manifest.smoothing else None,
        windows=manifest.smoothing.windows if manifest.smoothing else (),
        activation_bits=manifest.activation_bits,
        num_activations=sum(entry.activation_sha256 is not None for entry in entries),
        other_activations=dict(Counter(e.activation_bits for e in entries if e.activation_bits)),
        num_pooled=sum(num_sets == 1 for num_sets in sets),
        num_per_time_group=sum(num_sets > 1 for num_sets in sets),
        time_bytes=sum(t.nbytes for t in [*stored, *part.output_parts()]),
        correction=correction.kind if correction else None,
        correction_bins=len(correction.bin_starts) if correction else 0,
    )


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
        rotation=quantized.rotation if quantized else None,
        source_bytes=entry.source_bytes,
        stored_bytes=sum(p.nbytes for p in _stored_under(part, name, entry)),
        same_as=entry.same_as,
        time_bytes=sum(p.nbytes for p in part.time_parts(name)),
        row_sets=(quantized.time_groups_of_rows or 0) if quantized else 0,
        activation_bits=part.activation_bits(name),
    )
