"""What will be done with every tensor, decided before the first byte is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thermoq.candidates import candidates_for
from thermoq.checkpoint import Checkpoint, Component, MappedFiles, StoredTensor
from thermoq.checkpoint.time_parts import activation_parts, row_parts
from thermoq.checkpoint.untrusted import bad_tensor, shown
from thermoq.checkpoint.writer import StoredPart
from thermoq.config import LayerRule, QuantizationConfig
from thermoq.duplicates import find_duplicates
from thermoq.encodings import Q8_GROUP_SIZE, scheme_for
from thermoq.layers import QUANTIZABLE_DTYPES, UNRECOGNISED, LayerPlan, resolve, unmatched
from thermoq.rotation import Rotation, rotation_for
from thermoq.terms import RotationKind
from thermoq.weights import Scheme, matrix_shape

_MANY_COPIED = 0.05  # share of a component's weights: biases and position tables stay below


@dataclass(frozen=True)
class TensorPlan:
    """One tensor: what it is, how it is stored (`scheme` None: copied), and whether it repeats.

    `candidates` are what it may be stored as: one, or those that a size budget chooses between;
    until it has chosen, `scheme` is what a run of 2 bits would take. None are of copied tensors.
    With `num_time_groups` above 0 that many activation parameters are stored beside it, and with
    `num_row_sets` that many gains and biases a row: of a plan whose rows are yet to be fitted the
    most there can be.
    """

    tensor: StoredTensor
    layer: LayerPlan
    scheme: Scheme | None
    candidates: tuple[Scheme, ...]
    same_as: str | None
    num_time_groups: int = 0
    num_row_sets: int = 0

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
        """Bytes of it on disk: none of the weights where they lie under `same_as`."""
        return self.time_bytes + (0 if self.same_as else self.encoded_bytes)

    def rotation(self, config: QuantizationConfig) -> Rotation | None:
        """Return the rotation of its inputs that the settings ask for, if it can have one."""
        return _rotation(self.tensor.shape, self.layer, self.scheme, config)

    def rotation_kind(self, config: QuantizationConfig) -> RotationKind | None:
        """Return what a report calls that rotation; None without one."""
        return None if self.rotation(config) is None else "hadamard"

    def activation_bits(self, config: QuantizationConfig) -> int | None:
        """Return the bits that the settings ask for of its layer's inputs; None: as they are."""
        rule = self.layer.rule
        if rule is None or rule.activation_bits is None:
            return config.activation_bits_of(self.layer.layer_class)
        return None if rule.activation_bits == "none" else rule.activation_bits

    @property
    def activation_parts(self) -> tuple[StoredPart, ...]:
        """The tensors that hold its activation parameters; none if it has none."""
        return activation_parts(self.tensor.name, self.num_time_groups)

    @property
    def row_parts(self) -> tuple[StoredPart, ...]:
        """The tensors that hold its row gains and biases; none if it has none."""
        num_rows, _ = matrix_shape(self.tensor.shape, self.layer.row_dimension)
        return row_parts(self.tensor.name, self.num_row_sets, num_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of the row gains and biases."""
        return sum(part.nbytes for part in self.row_parts) if self.num_row_sets else 0

    @property
    def time_parts(self) -> tuple[StoredPart, ...]:
        """All that holds what varies along the trajectory."""
        return (*self.activation_parts, *(self.row_parts if self.num_row_sets else ()))

    @property
    def time_bytes(self) -> int:
        """Bytes of the time parameters."""
        return sum(part.nbytes for part in self.time_parts)


@dataclass(frozen=True)
class ComponentPlan:
    """The tensors of a component, in the order they are worked on: as they lie in its files.

    With `late_shard`, time parameters come at the end, in a shard of their own.
    """

    component: Component
    tensors: tuple[TensorPlan, ...]
    late_shard: bool = False

    @property
    def late_parts(self) -> tuple[StoredPart, ...]:
        """What the late shard holds, or may hold at most; nothing without one."""
        if not self.late_shard:
            return ()
        return tuple(part for plan in self.tensors for part in plan.time_parts)

    @property
    def stored_parts(self) -> Mapping[str, tuple[StoredPart, ...]]:
        """What the writer has to expect before the late shard.

        Activation parameters go by the name of their first.
        """
        expected: dict[str, tuple[StoredPart, ...]] = {}
        for plan in self.tensors:
            if not plan.same_as:
                expected[plan.tensor.name] = plan.encoded_parts
            if plan.activation_parts and not self.late_shard:
                expected[plan.activation_parts[0].name] = plan.activation_parts
        return expected


def plan_component(
    component: Component,
    config: QuantizationConfig,
    files: MappedFiles | None,
) -> ComponentPlan:
    """Decide class, bits and scheme of each tensor; with `files`, also which repeat another."""
    layers: dict[str, tuple[LayerPlan, Scheme | None, tuple[Scheme, ...]]] = {}
    for name, tensor in component.tensors.items():
        layer = resolve(
            name, component.name, tensor.shape, tensor.dtype, config.bit_width, config.layers
        )
        scheme = _scheme(tensor, layer, config)
        layers[name] = (layer, scheme, _candidates(tensor, layer, config, scheme))
    same_as: dict[str, str] = {}
    if files is not None:
        treatment = {
            name: (
                scheme,
                candidates,
                layer.row_dimension,
                _rotation(component.tensors[name].shape, layer, scheme, config),
            )
            for name, (layer, scheme, candidates) in layers.items()
        }
        same_as = find_duplicates(component.tensors, treatment, files)
    plans = tuple(
        TensorPlan(tensor, *layers[name], same_as.get(name))
        for name, tensor in component.tensors.items()
    )
    check_names(plans)
    return ComponentPlan(component, plans)


def _rotation(
    shape: tuple[int, ...], layer: LayerPlan, scheme: Scheme | None, config: QuantizationConfig
) -> Rotation | None:
    if scheme is None or not config.rotates(scheme.encoding):
        return None
    assert layer.layer_class is not None
    return rotation_for(shape, layer.layer_class, scheme.bit_width, config.seed)


def _scheme(tensor: StoredTensor, layer: LayerPlan, config: QuantizationConfig) -> Scheme | None:
    """Return how the settings store a tensor; None: copied."""
    if layer.bit_width is None:
        return None
    rows, cols = matrix_shape(tensor.shape, layer.row_dimension)
    choice = config.encoding_choice.for_rule(layer.encoding, layer.group_size)
    return scheme_for(layer.bit_width, cols, choice, rows)


def _candidates(
    tensor: StoredTensor, layer: LayerPlan, config: QuantizationConfig, scheme: Scheme | None
) -> tuple[Scheme, ...]:
    """Return what the settings leave open: the scheme alone, unless there is a size budget and no
    rule sets the tensor's bits.
    """
    if scheme is None or layer.layer_class is None:
        return ()
    if not config.has_budget or (layer.rule is not None and layer.rule.bit_width is not None):
        return (scheme,)
    rows, cols = matrix_shape(tensor.shape, layer.row_dimension)
    choice = config.encoding_choice.for_rule(layer.encoding, layer.group_size)
    found = candidates_for(layer.layer_class, cols, choice, rows)
    if layer.rule is not None and layer.rule.encoding == "trellis":  # for these tensors alone
        return tuple(one for one in found if one.encoding in ("trellis", "q8"))
    return found


def check_names(plans: Sequence[TensorPlan]) -> None:
    """Refuse two tensors that would be stored under the same name."""
    owners: dict[str, str] = {}
    for plan in plans:
        for part in _all_parts(plan):
            other = owners.setdefault(part.name, plan.tensor.name)
            if other != plan.tensor.name:
                problem = (
                    f"expected a name that nothing else is stored under, got {part.name} for "
                    f"{shown(other)} too; a `layers` rule with skip: true copies one of them"
                )
                raise bad_tensor(plan.tensor.path, plan.tensor.name, problem)


def _all_parts(plan: TensorPlan) -> list[StoredPart]:
    schemes = plan.candidates or (None,)
    encoded = [part for one in schemes for part in replace(plan, scheme=one).encoded_parts]
    return [*encoded, *plan.time_parts]


def pattern_warnings(checkpoint: Checkpoint, config: QuantizationConfig) -> list[str]:
    """Return a line for each `layers` rule that changes nothing, or less than it says."""
    if not config.layers:
        return []
    names = [
        (component.name, name) for component in checkpoint.components for name in component.tensors
    ]
    plans = [
        plan
        for component in checkpoint.components
        for plan in plan_component(component, config, None).tensors
    ]
    none_matched = unmatched(config.layers, names)
    warnings = []
    for rule in config.layers:
        if rule.match in none_matched:
            problem = "matches no tensor"
        else:
            problem = _without_effect(rule, [plan for plan in plans if plan.layer.rule is rule])
        if problem:
            warnings.append(f"layers: pattern {rule.match!r} {problem}")
    return warnings


def _without_effect(rule: LayerRule, plans: Sequence[TensorPlan]) -> str:
    """Return what the rule does not do to the tensors that it decides on, or ""."""
    if not plans:
        return "has no effect: earlier patterns match the same tensors"
    if rule.skip:
        return ""
    if all(plan.scheme is None for plan in plans):
        first = plans[0]
        return (
            "has no effect: what it matches is copied anyway, "
            f"such as {first.tensor.name} ({first.layer.reason})"
        )
    if rule.activation_bits and all(p.layer.layer_class in (None, "table") for p in plans):
        return (
            f"sets activation_bits {rule.activation_bits}, but what it matches has no inputs to "
            f"quantize, such as {plans[0].tensor.name} ({plans[0].layer.reason})"
        )
    for key, wanted in (("group_size", rule.group_size), ("encoding", rule.encoding)):
        fixed = [p for p in plans if wanted and p.scheme and getattr(p.scheme, key) != wanted]
        if fixed:
            return (
                f"sets {key} {wanted}, which does not apply to {len(fixed)} of its tensors, such "
                f"as {fixed[0].tensor.name} (8 bits are q8, with groups of {Q8_GROUP_SIZE})"
            )
    return ""


def plan_warnings(plans: Sequence[ComponentPlan], config: QuantizationConfig) -> list[str]:
    """Return a line for whatever final plans leave undone that was asked for, or hoped for."""
    return [*_rotation_warnings(plans, config), *_copied_warnings(plans)]


def _rotation_warnings(plans: Sequence[ComponentPlan], config: QuantizationConfig) -> list[str]:
    """Return a line if a rotation was asked for and no tensor has one."""
    tensors = [tensor for plan in plans for tensor in plan.tensors]
    if config.rotation != "hadamard" or any(tensor.rotation(config) for tensor in tensors):
        return []
    return [
        f"{config.place_of('rotation')}: hadamard has no effect: no tensor is a matrix of 2, 3 or "
        "4 bits with an even number of columns"
    ]


def _copied_warnings(plans: Sequence[ComponentPlan]) -> list[str]:
    """Return a line for each component with many weights copied because of their names alone."""
    lines = []
    for plan in plans:
        floating = [t for t in plan.tensors if t.tensor.dtype in QUANTIZABLE_DTYPES]
        copied = [t for t in floating if t.scheme is None and t.layer.reason == UNRECOGNISED]
        total = sum(t.num_weights for t in floating)
        num_copied = sum(t.num_weights for t in copied)
        if num_copied > _MANY_COPIED * total:
            largest = max(copied, key=lambda t: t.num_weights).tensor.name
            lines.append(
                f"{plan.component.name or 'model'}: {num_copied / total:.0%} of the "
                "floating-point weights are copied, in matrices that are not named like layer "
                f"weights (largest: {shown(largest)}); a `layers` rule with bit_width that matches "
                "them quantizes them"
            )
    return lines


def weight_files(component: Component) -> tuple[Path, ...]:
    """Return the component's safetensors files, without the index."""
    return tuple(path for path in component.files if path.suffix == ".safetensors")
