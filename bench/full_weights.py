"""The demo model with its own weights and quantized inputs: time parameters and nothing else.

No checkpoint is quantized. Each layer's ranges come from the calibration, Phase 3 fits them to the
weights as they are, and the runtime's own layers quantize the inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_model import MODEL, load
from numpy.typing import NDArray
from thermoq.activations import Activations, layers_along_the_trajectory, measured_activations
from thermoq.calibration.activation import measured_parameters
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.config import QuantizationConfig, load_config
from thermoq.evaluation.output_correction import fit_output_correction
from thermoq.interpolation import TimeSchedule, piecewise, smoothed
from thermoq.optimization import OptimizationChoices, layer_sample, optimize_layer
from thermoq.output_correction import OutputCorrection
from thermoq.phases import searches_ranges
from thermoq.plan import TensorPlan
from thermoq.rotation import Rotation, rotation_for
from thermoq.runtime.correction import Corrector
from thermoq.runtime.modules import TimedSettings, make_timed
from thermoq.runtime.parameters import LayerParameters, ParameterTable
from thermoq.runtime.rotation import InputRotation
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime
from thermoq.schedule import schedule_for
from thermoq.terms import LAYER_CLASSES, LayerClass
from thermoq.timestep_values import TimestepArgument, TimestepValues

ROTATED_BITS = 4  # layers of 8-bit weights are not rotated; here no layer has codes
Parameters = Mapping[str, LayerParameters]


@dataclass(frozen=True)
class _Layer:
    """A layer's tensor, its weights [out, in] as its inputs need them, and their rotation."""

    plan: TensorPlan
    weights: NDArray[np.float32]
    rotation: Rotation | None


class FullWeights:
    """The layers of the demo model, calibrated, with `bits` bits for inputs in `groups` groups.

    By default those are of the body's inputs; `settings` are more of a run's. `classes` are those
    whose inputs are quantized; those of other layers stay as they are.
    """

    def __init__(
        self,
        calibration: Path,
        bits: int,
        groups: int,
        *,
        rotated: bool,
        classes: Collection[LayerClass] = LAYER_CLASSES,
        **settings: Any,
    ) -> None:
        given = {
            "calibration": str(calibration), "activation_bits": bits, "num_time_groups": groups,
            "method": "lsq", "rotation": "none", **settings,
        }  # fmt: skip
        self._config: QuantizationConfig = load_config(None, given)
        checkpoint = open_checkpoint(MODEL)
        self._schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
        with MappedFiles() as files:
            found = measured_activations(checkpoint, self._schedule, self._config, files)
        assert found is not None
        self._activations: Activations = found
        values = load(MODEL).state_dict()
        self._layers = {}
        for (component, name), plan in layers_along_the_trajectory(
            checkpoint, self._config
        ).items():
            kind = plan.layer.layer_class
            if (component, name) not in found.parameters or kind is None or kind not in classes:
                continue
            self._component = component
            rotation = None
            if rotated:
                shape = tuple(plan.tensor.shape)
                rotation = rotation_for(shape, kind, ROTATED_BITS, self._config.seed)
            weights = values[name].flatten(1).numpy()
            turned = weights if rotation is None else rotation.forward(weights)
            self._layers[name] = _Layer(plan, turned, rotation)

    def measured(self) -> dict[str, LayerParameters]:
        """Phase 1's ranges."""
        found = {}
        for name, layer in self._layers.items():
            source = self._activations.input_of(self._component, layer.plan)
            bits = layer.plan.activation_bits(self._config)
            assert source is not None
            assert bits is not None
            activation = measured_parameters(
                source,
                self._activations.groups_of_bins,
                bits,
                rotate=None if layer.rotation is None else layer.rotation.forward,
            )
            found[name] = LayerParameters(activation, None)
        return found

    def optimized(self, **choices: Any) -> dict[str, LayerParameters]:
        """Phase 3's ranges, row gains and biases; `choices` are `OptimizationChoices`'."""
        found = {}
        for name, parameters in self.measured().items():
            layer = self._layers[name]
            source = self._activations.input_of(self._component, layer.plan)
            assert source is not None
            assert parameters.activation is not None
            bits = parameters.activation.activation_bits
            sample = layer_sample(
                source,
                self._activations.groups_of_bins,
                layer.weights,
                layer.weights,
                parameters.activation,
                bits,
                rotate=None if layer.rotation is None else layer.rotation.forward,
            )
            fits = self._activations.fits_rows(self._component, layer.plan)
            usual = {"clip_search": searches_ranges(self._config, bits), "fits_rows": fits}
            one = optimize_layer(sample, OptimizationChoices(**{**usual, **choices}))
            found[name] = LayerParameters(one.activation, one.rows)
        return found

    def model(
        self,
        parameters: Parameters,
        *,
        smooth: bool,
        window: float | None = None,
        correction: OutputCorrection | None = None,
    ) -> Any:
        """Return the demo model whose layers follow `parameters` along the trajectory."""
        groups = self._activations.time_groups
        schedule: TimeSchedule = piecewise(groups)
        if smooth and len(groups) > 1:
            schedule = smoothed(groups, "linear", window)
        model = load(MODEL)
        argument = TimestepArgument(model.forward)
        meaning = TimestepValues(self._schedule.kind, self._schedule.num_timesteps)

        def read(args: Any, kwargs: Any) -> list[float] | None:
            values = argument.values(args, kwargs)
            return None if values is None else meaning.timesteps(values)

        time = CurrentTime(ParameterTable(schedule, [*parameters.values()]), read)
        rotations: dict[Rotation, InputRotation] = {}
        for slot, name in enumerate(parameters):
            layer = model.get_submodule(name.removesuffix(".weight"))
            found = self._layers[name]
            rotation = None
            if found.rotation is not None:
                rotation = rotations.setdefault(found.rotation, InputRotation(found.rotation))
                layer.weight = torch.nn.Parameter(torch.from_numpy(found.weights))
            make_timed(layer, TimedSettings(name, slot, time, layer, rotation))
        object.__setattr__(model, ATTRIBUTE, time)  # from here on as the runtime's Assembly
        model.register_forward_pre_hook(time.before, with_kwargs=True)
        if correction is not None:
            time.always = True
            model.register_forward_hook(Corrector(correction, time))
        model.register_forward_hook(time.after, always_call=True)
        return model.requires_grad_(False).eval()

    def corrected(self, parameters: Parameters, threads: int) -> Any:
        """Return the smoothed model with its output correction, fitted as a run fits it."""
        description = self._activations.calibration.description
        plain = self.model(parameters, smooth=True)
        fits = fit_output_correction(MODEL, [plain], description, threads=threads)
        (fit,) = fits.values()
        return self.model(parameters, smooth=True, correction=fit.correction)
