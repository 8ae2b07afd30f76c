"""Filling a model without weights from a quantized component: layers, tables, copied tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from thermoq.calibration.loading import check_complete
from thermoq.checkpoint.manifest import CopiedTensor
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.checkpoint.untrusted import bad_tensor
from thermoq.rotation import Rotation
from thermoq.runtime.correction import Corrector
from thermoq.runtime.modules import (
    TimedSettings,
    is_layer,
    make_packed,
    make_timed,
    num_rows,
    refuse_saving,
)
from thermoq.runtime.parameters import LayerParameters, ParameterTable
from thermoq.runtime.rotation import InputRotation
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime, Read
from thermoq.runtime.weights import Weights
from thermoq.time_parameters import RowParameters


class Assembly:
    """Makes a quantized model of `module`, whose parameters may lie on torch's "meta" device.

    `names` gives the tensor in the checkpoint of each name in the module; `dtype_of` the dtype of
    each name's values; `read` tells the timestep of a forward pass.
    """

    def __init__(
        self,
        part: QuantizedComponent,
        module: nn.Module,
        names: Mapping[str, str],
        dtype_of: Callable[[str], torch.dtype],
        read: Read,
    ) -> None:
        self._part = part
        self._module = module
        self._names = names
        self._dtype_of = dtype_of
        self._read = read
        self._rotations: dict[Rotation, InputRotation] = {}

    def run(self, *, packed: bool) -> None:
        """Fill the module. Raises InputError for tensors that are missing or do not fit."""
        with MappedFiles() as files:
            parameters = self._layer_parameters(files)
            table = ParameterTable(self._part.schedule(), [*parameters.values()])
            time = CurrentTime(table, self._read)
            correction = self._part.output_correction(files)
            self._fill(Weights(self._part, files), time, parameters, packed=packed)
        module = self._module
        object.__setattr__(module, ATTRIBUTE, time)
        if hasattr(module, "save_pretrained"):
            object.__setattr__(module, "save_pretrained", refuse_saving)
        module.register_forward_pre_hook(time.before, with_kwargs=True)
        if correction is not None:
            time.always = True
            module.register_forward_hook(Corrector(correction, time))
        module.register_forward_hook(time.after, always_call=True)

    def _layer_parameters(self, files: MappedFiles) -> dict[str, LayerParameters]:
        """Return what varies over the trajectory, of each name that has anything."""
        found = {}
        for name, stored in self._names.items():
            activation = self._part.activation(stored, files)
            rows = self._part.rows(stored, files)
            if activation is not None or rows is not None:
                found[name] = LayerParameters(activation, rows)
        return found

    def _fill(
        self,
        weights: Weights,
        time: CurrentTime,
        parameters: Mapping[str, LayerParameters],
        *,
        packed: bool,
    ) -> None:
        layers = dict(self._module.named_modules(remove_duplicate=False))
        slots = {name: slot for slot, name in enumerate(parameters)}
        state: dict[str, Tensor] = {}
        done = []
        for name, stored in self._names.items():
            layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            rotation = self._rotation_of(stored, parameters.get(name))
            if name in parameters:
                self._check_layer(name, stored, layer, parameters[name].rows)
            rotated, dtype = rotation is not None, self._dtype_of(name)
            if packed and layer is not None and self._is_packable(stored, layer):
                make_packed(layer, weights.packed(stored, rotated=rotated), dtype)
                done.append(name)
            else:
                state[name] = weights.tensor(stored, dtype, rotated=rotated)
            if name in parameters and layer is not None:
                settings = TimedSettings(stored, slots[name], time, layer, rotation)
                make_timed(layer, settings)
        self._load(state, done)

    def _load(self, state: dict[str, Tensor], done: Collection[str]) -> None:
        found = self._module.load_state_dict(state, strict=False, assign=True)
        check_complete(self._part.component, set(found.missing_keys) - set(done))
        self._module.requires_grad_(False).eval()

    def _rotation_of(self, stored: str, parameters: LayerParameters | None) -> InputRotation | None:
        """Return the rotation of the inputs of a layer that quantizes them.

        Where they stay as they are, decoding undoes the rotation once and for all instead.
        """
        entry = self._part.manifest.tensors[stored]
        if isinstance(entry, CopiedTensor) or entry.rotation_seed is None:
            return None
        if parameters is None or parameters.activation is None:
            return None
        rotation = Rotation(entry.rotation_seed, entry.shape[1])
        return self._rotations.setdefault(rotation, InputRotation(rotation))

    def _is_packable(self, stored: str, layer: nn.Module) -> bool:
        is_copied = isinstance(self._part.manifest.tensors[stored], CopiedTensor)
        return not is_copied and (is_layer(layer) or isinstance(layer, nn.Embedding))

    def _check_layer(
        self, name: str, stored: str, layer: nn.Module | None, rows: RowParameters | None
    ) -> None:
        """Check that the model has the layer that a tensor's time parameters are for."""
        directory = self._part.component.directory
        if layer is None or not is_layer(layer):
            got = type(layer).__name__ if layer is not None else "none"
            problem = f"expected a linear layer or a convolution {name} in the model, got {got}"
            raise bad_tensor(directory, stored, problem)
        expected = num_rows(layer)
        if rows is not None and rows.gain.shape[1] != expected:
            problem = f"expected {expected} row gains, got {rows.gain.shape[1]}"
            raise bad_tensor(directory, stored, problem)
