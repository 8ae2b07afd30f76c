"""Assembles the report of a run from its results; the arithmetic is in `summary` and `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from thermoq import summary
from thermoq.activations import Activations
from thermoq.assessment import Figures, Run, assess
from thermoq.build import version
from thermoq.config import QuantizationConfig
from thermoq.forecast import Forecast
from thermoq.metrics import ScoreStatistics, Smoothness, smoothness
from thermoq.patterns import common_violation_patterns, find_patterns
from thermoq.plan import TensorPlan
from thermoq.prior import prior_parameters
from thermoq.report.model import (
    BudgetResult,
    CalibrationSummary,
    LayerRow,
    Provenance,
    Report,
    Sizes,
    Thermodynamics,
    TimeGroupRow,
)
from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.size_budget import headline_settings
from thermoq.summary import LayerResult
from thermoq.terms import ParameterSource
from thermoq.work import ComponentResult

_WORST_LAYERS = 5

# What differs between machines and runs, and must not show in a checkpoint's bytes.
_VARYING_PROVENANCE = {
    "cpu",
    "simd_level",
    "openmp",
    "threads",
    "blas",
    "python_version",
    "platform",
    "command",
    "started_at",
    "input_path",
    "output_path",
    "times_s",
}

# What follows from a layer's scales and zero points, and would double the manifest.
_DERIVED_TIME_PARAMETERS = {
    "scale_jump",
    "zero_point_jump",
    "unclipped_scale_jump",
    "boundary_scores",
}


@dataclass(frozen=True)
class Trajectory:
    """The noise schedule and how it is cut into time groups."""

    schedule: NoiseSchedule
    time_groups: TimeGroups

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
    """The layers with their time parameters and jumps; `smoothness` None if no layer has any."""

    layers: tuple[LayerResult, ...]
    smoothness: Smoothness | None


def validate(
    layers: Sequence[LayerResult], trajectory: Trajectory, config: QuantizationConfig
) -> Validated:
    """Measure the jumps of the layers' time parameters (Phase 1).

    Layers that have none from a calibration, and a spectral concentration, get those of the prior.
    """
    if not config.thermodynamic.validation.enabled:
        return Validated(tuple(layers), None)
    layers = [_with_prior(layer, trajectory, config) for layer in layers]
    timed = [layer for layer in layers if layer.time_parameters is not None]
    if not timed:
        return Validated(tuple(layers), None)
    measured = smoothness(
        [layer.time_parameters for layer in timed if layer.time_parameters is not None],
        [layer.plan.num_weights for layer in timed],
        trajectory.time_groups,
        config.activation_bits,
        config.thermodynamic.validation.smoothness_threshold,
    )
    jumped = {
        (layer.component, layer.plan.tensor.name): replace(layer, jumps=jumps)
        for layer, jumps in zip(timed, measured.layers, strict=True)
    }
    return Validated(
        tuple(jumped.get((layer.component, layer.plan.tensor.name), layer) for layer in layers),
        measured,
    )


def _with_prior(
    layer: LayerResult, trajectory: Trajectory, config: QuantizationConfig
) -> LayerResult:
    if layer.spectral_concentration is None:
        return layer
    parameters = prior_parameters(
        layer.spectral_concentration,
        trajectory.schedule,
        trajectory.time_groups,
        config.activation_bits,
    )
    return replace(layer, time_parameters=parameters)


def build_report(
    *,
    model_name: str,
    config: QuantizationConfig,
    trajectory: Trajectory,
    results: Sequence[ComponentResult],
    validated: Validated,
    forecast: Forecast | None,
    activations: Activations | None,
    sizes: Sizes,
    warnings: Sequence[str],
    provenance: Provenance,
    run: Run,
) -> Report:
    """Return the report of a run.

    `forecast` is that of a run with a size budget, `activations` of one with a calibration.
    """
    plans = [plan for result in results for plan in result.plan.tensors]
    layers = [summary.layer_row(layer) for layer in validated.layers]
    headline = headline_settings(config, [result.plan for result in results])
    choice = headline.encoding_choice
    source = _source(layers)
    cosine = summary.cosine_similarity(layers)
    return Report(
        thermoq_version=version(),
        model_name=model_name,
        phase="baseline",
        method=config.resolved_method,
        encoding=choice.encoding_of(headline.bit_width),
        bit_width=headline.bit_width,
        group_size=choice.group_size_of(headline.bit_width),
        super_block=config.super_block,
        scale_bits=choice.scale_bits_of(headline.bit_width),
        minimum_bits=choice.minimum_bits_of(headline.bit_width),
        activation_bits=config.activation_bits,
        num_time_groups=config.num_time_groups,
        sampling_steps=_sampling_steps(config, activations),
        settings=config.model_dump(mode="json"),
        parameter_source=source,
        cosine_similarity=cosine,
        output_cosine_similarity=summary.output_cosine_similarity(layers),
        relative_squared_error=summary.relative_squared_error(layers),
        compression_ratio=sizes.source_bytes / sizes.model_bytes,
        nominal_compression_ratio=summary.nominal_compression_ratio(plans, headline.bit_width),
        model_size_mb=sizes.model_bytes / 1e6,
        budget=_budget(config, forecast, layers, plans, sizes),
        calibration=_calibration(activations),
        sizes=sizes,
        layer_classes=summary.class_rows(layers, plans),
        layers=layers,
        copied=[
            summary.copied_row(result.plan.component.name, plan)
            for result in results
            for plan in result.plan.tensors
            if plan.scheme is None
        ],
        warnings=list(warnings),
        provenance=provenance,
        **_thermodynamic_part(config, trajectory, validated, layers, cosine, source, run),
    )


def _source(layers: Sequence[LayerRow]) -> ParameterSource:
    """Return where the layers' time parameters come from: all of a run's have one source."""
    sources = (row.time_parameters.parameter_source for row in layers if row.time_parameters)
    return next(sources, "none")


def _sampling_steps(config: QuantizationConfig, activations: Activations | None) -> int:
    """Return the sampler steps that were asked for, else those of the calibration, else 50."""
    if config.sampling_steps is None and activations is not None:
        return activations.calibration.description.steps
    return config.resolved_sampling_steps


def _calibration(activations: Activations | None) -> CalibrationSummary | None:
    if activations is None:
        return None
    description = activations.calibration.description
    return CalibrationSummary(
        sampler=description.sampler,
        steps=description.steps,
        guidance=description.guidance,
        seed=description.seed,
        num_samples=description.num_samples,
        data_share=description.data_share,
        bin_starts=list(description.bin_starts),
        rows_per_bin=description.rows_per_bin,
        num_layers=len(activations.parameters),
        not_measured=list(activations.not_measured),
    )


def _budget(
    config: QuantizationConfig,
    forecast: Forecast | None,
    layers: Sequence[LayerRow],
    plans: Sequence[TensorPlan],
    sizes: Sizes,
) -> BudgetResult | None:
    if forecast is None:
        return None
    predicted = forecast.total
    return BudgetResult(
        target_bits=config.target_bits,
        max_size_bytes=config.max_size_bytes,
        achieved_bits=sizes.bits_per_weight_quantized,
        achieved_bytes=sizes.model_bytes,
        predicted_bytes=forecast.files.total_bytes,
        squared_error=sum(row.squared_error for row in layers),
        predicted_squared_error=predicted.squared_error,
        predicted_relative_squared_error=predicted.relative_squared_error,
        predicted_lower_bound=forecast.lower_bound,
        schemes=summary.scheme_rows(plans),
    )


def report_for_manifest(report: Report) -> dict[str, Any]:
    """Return the report without what differs between machines and runs, or follows from the rest.

    The same input gives the same bytes on any number of threads and any SIMD level.
    """
    exclude: dict[str, Any] = {
        "provenance": _VARYING_PROVENANCE,
        "settings": {"threads", "calibration"},
        "assessment": {"next_command", "then_command"},
        "layers": {"__all__": {"time_parameters": _DERIVED_TIME_PARAMETERS}},
    }
    return report.model_dump(mode="json", exclude=exclude, exclude_none=True)


def _thermodynamic_part(
    config: QuantizationConfig,
    trajectory: Trajectory,
    validated: Validated,
    layers: Sequence[LayerRow],
    cosine: float | None,
    source: ParameterSource,
    run: Run,
) -> dict[str, Any]:
    """Return the fields that `validation.enabled: false` leaves out."""
    if not config.thermodynamic.validation.enabled:
        return {}
    measured = validated.smoothness
    scores = measured.boundary_scores if measured else []
    statistics = ScoreStatistics.of(scores) if measured else None
    violations = measured.violations if measured else []
    figures = Figures(
        smoothness_score=statistics.mean if statistics else None,
        boundary_scores=scores,
        min_boundary_score=statistics.minimum if statistics else None,
        max_boundary_score=statistics.maximum if statistics else None,
        mean_boundary_score=statistics.mean if statistics else None,
        std_boundary_score=statistics.std if statistics else None,
        violations=violations,
        cosine_similarity=cosine,
        parameter_source=source,
        relative_squared_error=summary.relative_squared_error(layers),
    )
    timesteps = [boundary.timestep for boundary in measured.boundaries] if measured else []
    return {
        "smoothness_score": figures.smoothness_score,
        "violation_count": len(violations),
        "violations": violations,
        "boundary_scores": scores,
        "min_boundary_score": figures.min_boundary_score,
        "max_boundary_score": figures.max_boundary_score,
        "mean_boundary_score": figures.mean_boundary_score,
        "std_boundary_score": figures.std_boundary_score,
        "common_violation_patterns": common_violation_patterns(violations),
        "patterns": find_patterns(
            violations, config.num_time_groups, timesteps=timesteps, source=source
        ),
        "thermodynamics": _thermodynamics(config, trajectory, measured, layers),
        "assessment": assess(figures, run),
    }


def _thermodynamics(
    config: QuantizationConfig,
    trajectory: Trajectory,
    measured: Smoothness | None,
    layers: Sequence[LayerRow],
) -> Thermodynamics:
    boundaries = list(measured.boundaries) if measured else []
    timed = {
        f"{row.component}/{row.name}".lstrip("/"): row.time_parameters.smoothness_score
        for row in layers
        if row.time_parameters is not None
    }
    return Thermodynamics(
        smoothness_threshold=config.thermodynamic.validation.smoothness_threshold,
        max_possible_jump=2.0 * (config.num_time_groups - 1),
        total_jump=sum(b.scale_jump + b.zero_point_jump for b in boundaries) if measured else None,
        boundaries=boundaries,
        time_groups=trajectory.rows(),
        schedule=trajectory.schedule.description,
        num_timesteps=trajectory.schedule.num_timesteps,
        num_layers_with_time_parameters=len(timed),
        worst_layers=sorted(timed, key=lambda name: (timed[name], name))[:_WORST_LAYERS],
    )
