"""Whether a calibration is of the model at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thermoq.calibration.file import CalibratedComponent, Calibration, layer_name
from thermoq.checkpoint import Component, MappedFiles
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.errors import InputError
from thermoq.fingerprint import Fingerprint


def calibrated_component(component: Component, files: MappedFiles) -> CalibratedComponent:
    """Return what a calibration notes of a model: all of its weights are read."""
    fingerprint = Fingerprint()
    for tensor in component.tensors.values():
        fingerprint.add(component.name, tensor, files.bytes(tensor))
        files.release(tensor)
    return CalibratedComponent(
        fingerprint=fingerprint.value(), architecture=architecture_of(component)
    )


def architecture_of(component: Component) -> str:
    """Return the class that a component's configuration names; "" if it names none."""
    config = component.config or {}
    architectures = config.get("architectures")
    name = config.get("_class_name") or (architectures[:1] or [""] if architectures else [""])[0]
    return name if isinstance(name, str) else ""


def check_model(
    calibration: Calibration, path: Path, components: Sequence[Component], files: MappedFiles
) -> Calibration:
    """Return `calibration` with the names that the layers have here.

    A model that was calibrated in its pipeline may be at hand on its own, or the other way round.
    Raises InputError, which names `path`, unless every model of the calibration that is at hand has
    the same weights, and at least one is. All of the weights are read.
    """
    noted = calibration.description.components
    pairs: dict[str, Component] = {}
    for component in components:
        name = component.name if component.name in noted else _only_name(noted, components)
        if name is not None:
            _check_component(path, calibration, name, component, files)
            pairs[name] = component
    if not pairs:
        wanted = " or ".join(shown(component.name) for component in components)
        got = ", ".join(shown(name) for name in noted)
        raise bad_file(path, f"expected a calibration of the component {wanted}, got {got}")
    return _renamed(calibration, {name: part.name for name, part in pairs.items()})


def _only_name(
    noted: Mapping[str, CalibratedComponent], components: Sequence[Component]
) -> str | None:
    """Return the one model of a calibration if the one at hand can only be that."""
    return next(iter(noted)) if len(noted) == len(components) == 1 else None


def _check_component(
    path: Path, calibration: Calibration, name: str, component: Component, files: MappedFiles
) -> None:
    noted = calibration.description.components[name]
    architecture = architecture_of(component)
    if noted.architecture and architecture and noted.architecture != architecture:
        raise bad_file(
            path,
            f"expected a calibration of {shown(architecture)}, the model in "
            f"{component.directory}, got one of another architecture, {shown(noted.architecture)}",
        )
    _check_columns(path, calibration, name, component)
    found = calibrated_component(component, files).fingerprint
    if noted.fingerprint != found:
        raise bad_file(
            path,
            f"expected a calibration of the weights in {component.directory} ({found}), got one of "
            f"other weights ({noted.fingerprint}); calibrate this model",
        )


def _check_columns(path: Path, calibration: Calibration, name: str, component: Component) -> None:
    """Check that the calibrated layers exist and take inputs of the width that was measured."""
    for layer, source in calibration.description.layers.items():
        owner, tensor_name = split_layer(layer, calibration.description.components)
        if owner != name:
            continue
        tensor = component.tensors.get(tensor_name)
        columns = calibration.inputs[source].num_columns
        if tensor is None or len(tensor.shape) < 2:
            raise _mismatch(
                path, component, tensor_name, f"{columns} input columns", "no such layer"
            )
        # Transposed convolutions have their rows in dimension 1.
        possible = tensor.shape[: 1 if len(tensor.shape) == 2 else 2]
        if math.prod(tensor.shape) not in [columns * rows for rows in possible]:
            has = f"the shape {list(tensor.shape)}"
            raise _mismatch(path, component, tensor_name, f"{columns} input columns", has)


def _mismatch(
    path: Path, component: Component, tensor: str, calibrated: str, found: str
) -> InputError:
    return bad_file(
        path,
        f"expected a calibration of the model in {component.directory}, got one of another "
        f"architecture: layer {shown(tensor)} has {calibrated} there, the model has {found}",
    )


def split_layer(layer: str, components: Mapping[str, object]) -> tuple[str, str]:
    """Return component and tensor of what `layer_name` made, given all components' names."""
    folder, slash, tensor = layer.partition("/")
    return (folder, tensor) if slash and folder in components else ("", layer)


def _renamed(calibration: Calibration, names: Mapping[str, str]) -> Calibration:
    """Return the calibration with other component names; layers of components left out go."""
    description = calibration.description

    def renamed(layers: Sequence[str]) -> dict[str, str]:
        owned = ((layer, *split_layer(layer, description.components)) for layer in layers)
        return {
            layer: layer_name(names[owner], tensor)
            for layer, owner, tensor in owned
            if owner in names
        }

    layers = renamed(list(description.layers))
    changed = description.model_copy(
        update={
            "components": {new: description.components[old] for old, new in names.items()},
            "layers": {layers[layer]: source for layer, source in description.layers.items()
                       if layer in layers},
            "not_reached": tuple(renamed(description.not_reached).values()),
        }
    )  # fmt: skip
    return replace(calibration, description=changed)
