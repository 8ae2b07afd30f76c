"""The trajectory of a run, and what its layers' parameters do along it: jumps, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from thermoq.activations import Activations
from thermoq.config import QuantizationConfig
from thermoq.expectations import Windows
from thermoq.interpolation import TimeSchedule, default_windows, piecewise, smoothed, window_limits
from thermoq.metrics import ScoreStatistics, Smoothness, smoothness
from thermoq.prior import prior_parameters
from thermoq.report.thermodynamics_model import TimeGroupRow
from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.summary import LayerResult
from thermoq.terms import INTERPOLATIONS, Interpolation
from thermoq.time_parameters import TimeParameters

_Measure = Callable[[Sequence[TimeParameters], TimeSchedule], Smoothness]


@dataclass(frozen=True)
class Trajectory:
    """The noise schedule, how it is cut into time groups, and how parameters pass between these.

    `smoothing` is Phase 2's schedule over the same groups; None: piecewise constant.
    """

    schedule: NoiseSchedule
    time_groups: TimeGroups
    smoothing: TimeSchedule | None = None

    @property
    def time_schedule(self) -> TimeSchedule:
        """What is in force at each timestep."""
        return self.smoothing or piecewise(self.time_groups)

    def rows(self) -> list[TimeGroupRow]:
        """Return the report's row of each time group."""
        groups = self.time_groups
        rows = []
        for group, (start, end, middle) in enumerate(
            zip(groups.starts, groups.ends, groups.middles, strict=True)
        ):
            signal, noise = self.schedule.variances(middle)
            rows.append(
                TimeGroupRow(
                    group=group,
                    start_timestep=start,
                    end_timestep=end,
                    signal_variance=signal,
                    noise_variance=noise,
                )
            )
        return rows


@dataclass(frozen=True)
class Validated:
    """The layers with their time parameters and jumps; `smoothness` None if no layer has any.

    `before` is what Phase 1 measures on the same layers, where a later phase changed something.
    `windows` are Phase 2's, as they are or could be; None where there is no boundary.
    """

    layers: tuple[LayerResult, ...]
    smoothness: Smoothness | None
    before: Smoothness | None = None
    windows: Windows | None = None


def validate(
    layers: Sequence[LayerResult],
    trajectory: Trajectory,
    config: QuantizationConfig,
    activations: Activations | None = None,
) -> Validated:
    """Measure the jumps of the layers' time parameters under the trajectory's schedule.

    Layers that have none from a calibration, and a spectral concentration, get those of the prior.
    `activations` are a calibrated run's, as measured: what an optimization of them is held against.
    """
    if not config.thermodynamic.validation.enabled:
        return Validated(tuple(layers), None)
    layers = [_with_prior(layer, trajectory, config) for layer in layers]
    timed = [layer for layer in layers if layer.time_parameters is not None]
    if not timed:
        return Validated(tuple(layers), None)
    steps = sampling_steps_of(config, activations)

    def measure(parameters: Sequence[TimeParameters], schedule: TimeSchedule) -> Smoothness:
        return smoothness(
            parameters,
            [layer.plan.num_weights for layer in timed],
            schedule,
            config.thermodynamic.validation.smoothness_threshold,
            steps,
        )

    parameters = [layer.time_parameters for layer in timed if layer.time_parameters is not None]
    measured = measure(parameters, trajectory.time_schedule)
    first = _before(timed, parameters, activations)
    before = None
    if trajectory.time_schedule.is_smoothed or first is not parameters:
        before = measure(first, piecewise(trajectory.time_groups))
    jumped = {
        (layer.component, layer.plan.tensor.name): replace(layer, jumps=jumps)
        for layer, jumps in zip(timed, measured.layers, strict=True)
    }
    return Validated(
        tuple(jumped.get((layer.component, layer.plan.tensor.name), layer) for layer in layers),
        measured,
        before,
        _windows(trajectory, parameters, measure),
    )


def _windows(
    trajectory: Trajectory, parameters: Sequence[TimeParameters], measure: _Measure
) -> Windows | None:
    """Return the windows of a run, and what others would do to its parameters."""
    schedule = trajectory.time_schedule
    limits = window_limits(schedule.groups)
    if not limits:
        return None

    def scores(window: float | None) -> dict[Interpolation, float]:
        schedules = ((kind, smoothed(schedule.groups, kind, window)) for kind in INTERPOLATIONS)
        return {
            kind: ScoreStatistics.of(measure(parameters, one).boundary_scores).mean
            for kind, one in schedules
        }

    return Windows(
        interpolation=schedule.interpolation,
        limits=limits,
        defaults=default_windows(schedule.groups),
        has_room=any(schedule.window(i) < limit for i, limit in enumerate(limits)),
        scores=scores(max(limits)),
        default_scores=scores(None),
    )


def _before(
    timed: Sequence[LayerResult],
    parameters: list[TimeParameters],
    activations: Activations | None,
) -> list[TimeParameters]:
    """Return the parameters of Phase 1; `parameters` itself where they are the same."""
    if activations is None:
        return parameters
    keys = [(layer.component, layer.plan.tensor.name) for layer in timed]
    first = [
        activations.parameters.get(key, own) for key, own in zip(keys, parameters, strict=True)
    ]
    same = all(a is b for a, b in zip(first, parameters, strict=True))
    return parameters if same else first


def _with_prior(
    layer: LayerResult, trajectory: Trajectory, config: QuantizationConfig
) -> LayerResult:
    bits = layer.plan.activation_bits(config)
    if layer.spectral_concentration is None or bits is None:
        return layer
    parameters = prior_parameters(
        layer.spectral_concentration,
        trajectory.schedule,
        trajectory.time_groups,
        bits,
    )
    return replace(layer, time_parameters=parameters)


def sampling_steps_of(config: QuantizationConfig, activations: Activations | None) -> int:
    """Return the sampler steps that were asked for, else those of the calibration, else 50."""
    if config.sampling_steps is None and activations is not None:
        return activations.calibration.description.steps
    return config.resolved_sampling_steps
