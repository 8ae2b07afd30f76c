"""A run's activation parameters, where a calibration gives them: which layers have which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from thermoq.calibration.activation import measured_parameters
from thermoq.calibration.file import Calibration, layer_name, read_calibration
from thermoq.calibration.grouping import first_bins_of, groups_of_bins, time_groups_from
from thermoq.calibration.matching import check_model
from thermoq.calibration.noise import most_different, noise_levels, timesteps_of_levels
from thermoq.calibration.statistics import CalibratedInput
from thermoq.checkpoint import Checkpoint, MappedFiles
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.config import QuantizationConfig
from thermoq.errors import UsageError
from thermoq.hessian import DAMPING
from thermoq.plan import ComponentPlan, TensorPlan, check_names, plan_component
from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.summary import LayerResult, runs_along_the_trajectory
from thermoq.time_parameters import TimeParameters
from thermoq.weights import matrix_shape

_NAMED_LAYERS = 5
_ROWS_A_PASS = 2


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

    def planned(self, plan: ComponentPlan, *, optimizes: bool = False) -> ComponentPlan:
        """Return `plan` with room for the activation parameters.

        `optimizes`: in a late shard, and with room for the most row gains and biases that an
        optimization may add. Raises InputError for a tensor of the source that has the name of one
        of them.
        """
        count, component = len(self.time_groups), plan.component.name
        tensors = tuple(
            replace(
                tensor,
                num_time_groups=count,
                num_row_sets=count if optimizes and self.fits_rows(component, tensor) else 0,
            )
            if (component, tensor.tensor.name) in self.parameters
            else tensor
            for tensor in plan.tensors
        )
        check_names(tensors)
        has_some = any(tensor.num_time_groups for tensor in tensors)
        return replace(plan, tensors=tensors, late_shard=optimizes and has_some)

    def input_of(self, component: str, plan: TensorPlan) -> CalibratedInput | None:
        """Return what the calibration knows of a layer's inputs, if that is in its columns."""
        source = self.calibration.input_of(layer_name(component, plan.tensor.name))
        _, num_columns = matrix_shape(plan.tensor.shape, plan.layer.row_dimension)
        return source if source is not None and source.num_columns == num_columns else None

    def fits_rows(self, component: str, plan: TensorPlan) -> bool:
        """Tell whether a layer's rows may get gains and biases: if enough inputs were kept.

        Not those of embedders and modulation, which see one input a sample and step, with guidance
        two: a handful that differ along the trajectory and by nothing else.
        """
        source = self.input_of(component, plan)
        if source is None or not source.num_rows.any():
            return False
        description = self.calibration.description
        passes = description.num_samples * description.steps
        return int(source.count.sum()) > _ROWS_A_PASS * passes

    @cached_property
    def groups_of_bins(self) -> list[slice]:
        """The calibration's bins of each time group."""
        starts = list(self.calibration.description.bin_starts)
        first_bins = [starts.index(start) for start in self.time_groups.starts]
        return groups_of_bins(first_bins, self.calibration.num_bins)

    def warnings(self) -> list[str]:
        """Return a line on layers without activation parameters, and one on bins without inputs."""
        return [*self._layers_left_out(), *self._bins_left_out()]

    def _layers_left_out(self) -> list[str]:
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

    def _bins_left_out(self) -> list[str]:
        empty = self.calibration.empty_bins
        if not empty:
            return []
        starts = self.calibration.description.bin_starts
        groups = [self.time_groups.group_of(start) for start in starts]
        guessed = set(groups) - {groups[bin] for bin in {*range(len(groups))} - {*empty}}
        whole = f"; {len(guessed)} of {len(self.time_groups)} time groups have no other bins"
        return [
            f"calibration: no forward pass came to {len(empty)} of {len(starts)} time bins, which "
            f"take the ranges of the nearest others{whole if guessed else ''}; `thermoq calibrate` "
            f"with more --steps (these were {self.calibration.description.steps}) or fewer --bins "
            "leaves fewer empty"
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
    (path,) = calibration_files(config)
    written = read_calibration(path)
    _check_schedule(path, written, schedule, named=checkpoint.scheduler_config is not None)
    layers = layers_along_the_trajectory(checkpoint, config)
    if config.num_time_groups > written.num_bins:  # before the weights are read
        first_bins_of(written, config.num_time_groups, "uniform", {})
    calibration = check_model(written, path, checkpoint.components, files)
    weights = {layer_name(*key): plan.num_weights for key, plan in layers.items()}
    first_bins = first_bins_of(calibration, config.num_time_groups, config.grouping, weights)
    parameters, not_measured = {}, []
    for key in layers:
        source, bits = calibration.input_of(layer_name(*key)), layers[key].activation_bits(config)
        if bits is None:
            continue
        if source is None or not source.count.any():
            not_measured.append(layer_name(*key))
        else:
            rotation = layers[key].rotation(config)
            parameters[key] = measured_parameters(
                source,
                groups_of_bins(first_bins, calibration.num_bins),
                bits,
                rotate=None if rotation is None else rotation.forward,
            )
    return Activations(
        calibration,
        written.fingerprint,
        time_groups_from(calibration, first_bins),
        parameters,
        tuple(not_measured),
    )


def calibration_files(config: QuantizationConfig) -> tuple[Path, ...]:
    """Return the calibration of a run, if it has one. Raises UsageError for a directory."""
    if config.calibration is None:
        return ()
    path = Path(config.calibration)
    if path.is_dir():
        raise UsageError(f"--calibration: expected a file, got a directory, {path}")
    return (path,)


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


def _check_schedule(
    path: Path, calibration: Calibration, schedule: NoiseSchedule, *, named: bool
) -> None:
    """Refuse a calibration over another noise schedule than the model's.

    `named`: the checkpoint has a scheduler. Without one a schedule may be assumed, which is no
    reason to refuse a denoiser that was calibrated beside its scheduler and is now alone.
    """
    description = calibration.description
    wanted = f"expected a calibration over the model's noise schedule ({schedule.description})"
    expected = schedule.kind, schedule.num_timesteps
    got = description.schedule_kind, description.num_timesteps
    if expected != got:
        raise bad_file(path, f"{wanted}, got {shown(got[0])} with {got[1]} timesteps")
    if description.noise_levels is None or (schedule.assumed and not named):
        return
    levels = noise_levels(schedule)
    where = most_different(levels, description.noise_levels)
    if where is not None:
        timestep = timesteps_of_levels(schedule.num_timesteps)[where]
        raise bad_file(
            path,
            f"{wanted}, got one over {shown(description.schedule)}: at timestep {timestep:g} its "
            f"noise variance is {description.noise_levels[where]:.4g}, the model's "
            f"{levels[where]:.4g}; calibrate again",
        )
