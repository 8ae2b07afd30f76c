"""A run's activation parameters, where a calibration gives them: which layers have which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thermoq.calibration.activation import measured_parameters
from thermoq.calibration.file import Calibration, layer_name, read_calibration
from thermoq.calibration.grouping import first_bins_of, groups_of_bins, time_groups_from
from thermoq.calibration.matching import check_model
from thermoq.checkpoint import Checkpoint, MappedFiles
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.config import QuantizationConfig
from thermoq.hessian import DAMPING
from thermoq.plan import ComponentPlan, TensorPlan, check_names, plan_component
from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.summary import LayerResult, runs_along_the_trajectory
from thermoq.time_parameters import TimeParameters

_NAMED_LAYERS = 5


@dataclass(frozen=True)
class Activations:
    """What a calibration says of a run's layers.

    `parameters` go by component and tensor. `not_measured` are the layers that would have some and
    do not, because they never ran while calibrating or were left out of it. `fingerprint` is that
    of the file.
    """

    calibration: Calibration = field(repr=False)
    fingerprint: str
    time_groups: TimeGroups
    parameters: Mapping[tuple[str, str], TimeParameters] = field(repr=False)
    not_measured: tuple[str, ...]

    def planned(self, plan: ComponentPlan) -> ComponentPlan:
        """Return `plan` with room for the activation parameters.

        Raises InputError for a tensor of the source that has the name of one of them.
        """
        count, component = len(self.time_groups), plan.component.name
        tensors = tuple(
            replace(tensor, num_time_groups=count)
            if (component, tensor.tensor.name) in self.parameters
            else tensor
            for tensor in plan.tensors
        )
        check_names(tensors)
        return replace(plan, tensors=tensors)

    def warnings(self) -> list[str]:
        """Return a line that names the layers without activation parameters, if there are any."""
        if not self.not_measured:
            return []
        names = ", ".join(self.not_measured[:_NAMED_LAYERS])
        more = len(self.not_measured) - _NAMED_LAYERS
        rest = f" and {more} more" if more > 0 else ""
        count = len(self.not_measured)
        return [
            f"calibration: {count} {'layer was' if count == 1 else 'layers were'} not reached or "
            f"left out, and {'has' if count == 1 else 'have'} no time parameters: {names}{rest}"
        ]


def sample_warnings(
    activations: Activations, layers: Sequence[LayerResult], hessian: bool
) -> list[str]:
    """Return a line on layers without rows for `hessian`, and one on those with few.

    The Gram matrix of the latter is singular but for its damping.
    """
    scarce, without = [], []
    for layer in layers:
        plan = layer.plan
        known = activations.calibration.input_of(layer_name(layer.component, plan.tensor.name))
        if layer.method == "hessian" and known is not None:
            rows = int(known.num_rows.sum())
            if rows < known.num_columns:
                scarce.append(f"{plan.tensor.name} ({rows} of {known.num_columns})")
        elif hessian and known is not None and not known.num_rows.any():
            without.append(plan.tensor.name)
    lines = []
    if without:
        lines.append(
            f"calibration: no input rows were kept of {len(without)} layers (such as "
            f"{without[0]}), which are rounded by lsq; `thermoq calibrate --rows` keeps some"
        )
    if scarce:
        lines.append(
            f"calibration: {len(scarce)} of the layers rounded by hessian have fewer rows than "
            f"columns (such as {scarce[0]}); their Gram matrices are singular but for the damping "
            f"of {DAMPING:.0%}; more --samples, --steps or --rows of `thermoq calibrate` help"
        )
    return lines


def measured_activations(
    checkpoint: Checkpoint,
    schedule: NoiseSchedule,
    config: QuantizationConfig,
    files: MappedFiles,
) -> Activations | None:
    """Return what the calibration of a run gives its layers; None without one.

    Raises InputError for a file that cannot be used, or is not of this model and schedule, and
    UsageError for more time groups than it has bins. Reads all of the weights, to tell.
    """
    if config.calibration is None:
        return None
    path = Path(config.calibration)
    written = read_calibration(path)
    _check_schedule(path, written, schedule)
    layers = layers_along_the_trajectory(checkpoint, config)
    if config.num_time_groups > written.num_bins:  # before the weights are read
        first_bins_of(written, config.num_time_groups, "uniform", {})
    calibration = check_model(written, path, checkpoint.components, files)
    weights = {layer_name(*key): plan.num_weights for key, plan in layers.items()}
    first_bins = first_bins_of(calibration, config.num_time_groups, config.grouping, weights)
    parameters, not_measured = {}, []
    for key in layers:
        source = calibration.input_of(layer_name(*key))
        if source is None or not source.count.any():
            not_measured.append(layer_name(*key))
        else:
            rotation = layers[key].rotation(config)
            parameters[key] = measured_parameters(
                source,
                groups_of_bins(first_bins, calibration.num_bins),
                config.activation_bits,
                rotate=None if rotation is None else rotation.forward,
            )
    return Activations(
        calibration,
        written.fingerprint,
        time_groups_from(calibration, first_bins),
        parameters,
        tuple(not_measured),
    )


def layers_along_the_trajectory(
    checkpoint: Checkpoint, config: QuantizationConfig
) -> dict[tuple[str, str], TensorPlan]:
    """Return the quantized layers that run at every timestep."""
    plans: Sequence[ComponentPlan] = [
        plan_component(part, config, None) for part in checkpoint.components
    ]
    return {
        (plan.component.name, tensor.tensor.name): tensor
        for plan in plans
        for tensor in plan.tensors
        if tensor.scheme is not None and runs_along_the_trajectory(plan.component.name, tensor)
    }


def _check_schedule(path: Path, calibration: Calibration, schedule: NoiseSchedule) -> None:
    description = calibration.description
    expected = schedule.kind, schedule.num_timesteps
    got = description.schedule_kind, description.num_timesteps
    if expected != got:
        raise bad_file(
            path,
            f"expected a calibration over the model's noise schedule ({schedule.description}), got "
            f"{shown(got[0])} with {got[1]} timesteps",
        )
