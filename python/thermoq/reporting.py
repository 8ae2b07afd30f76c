"""Assembles the report of a run from its results; the arithmetic is in `summary` and `metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thermoq import summary
from thermoq.activations import Activations
from thermoq.assessment import assess
from thermoq.build import version
from thermoq.config import QuantizationConfig
from thermoq.error_curves import predicted_by
from thermoq.expectations import Figures
from thermoq.forecast import Forecast, prediction_note
from thermoq.interpolation import TimeSchedule, clamped_boundaries
from thermoq.metrics import ScoreStatistics, Smoothness
from thermoq.next_commands import Run
from thermoq.optimization.sequential_run import SequentialRun
from thermoq.optimization_summary import optimization_summary
from thermoq.output_correction import OutputCorrection
from thermoq.patterns import common_violation_patterns, find_patterns
from thermoq.phases import estimator_of
from thermoq.plan import TensorPlan
from thermoq.report.model import (
    BudgetResult,
    CalibrationSummary,
    LayerRow,
    Provenance,
    Report,
    Sizes,
)
from thermoq.report.thermodynamics_model import SmoothingSummary, SmoothnessBefore, Thermodynamics
from thermoq.size_budget import headline_settings
from thermoq.terms import ParameterSource
from thermoq.validation import Trajectory, Validated, sampling_steps_of
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


def build_report(
    *,
    model_name: str,
    config: QuantizationConfig,
    trajectory: Trajectory,
    results: Sequence[ComponentResult],
    validated: Validated,
    forecast: Forecast | None,
    activations: Activations | None,
    corrections: Mapping[str, OutputCorrection],
    sequential: SequentialRun | None,
    sizes: Sizes,
    warnings: Sequence[str],
    provenance: Provenance,
    run: Run,
) -> Report:
    """Return the report of a run.

    `forecast` is that of a run with a size budget, `activations` of one with a calibration;
    `corrections` are those of predictions, by component.
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
        phase=config.thermodynamic.phase,
        method=config.resolved_method,
        encoding=choice.encoding_of(headline.bit_width),
        bit_width=headline.bit_width,
        group_size=choice.group_size_of(headline.bit_width),
        super_block=config.super_block,
        scale_bits=choice.scale_bits_of(headline.bit_width),
        minimum_bits=choice.minimum_bits_of(headline.bit_width),
        window_bits=choice.window_bits_of(headline.bit_width),
        activation_bits=config.activation_bits,
        num_time_groups=config.num_time_groups,
        sampling_steps=sampling_steps_of(config, activations),
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
        optimization=optimization_summary(
            config, estimator_of(config, trajectory.schedule), layers, corrections, sequential
        ),
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
        evaluation=None,
        **_thermodynamic_part(config, trajectory, validated, layers, cosine, source, run),
    )


def _source(layers: Sequence[LayerRow]) -> ParameterSource:
    """Return where the layers' time parameters come from: all of a run's have one source."""
    sources = (row.time_parameters.parameter_source for row in layers if row.time_parameters)
    return next(sources, "none")


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
        predicted_by=predicted_by(config),
        prediction_note=prediction_note(config),
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
        phase=config.thermodynamic.phase,
        windows=validated.windows,
        score_before=_score(validated.before),
    )
    windows = validated.windows
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
            violations,
            config.num_time_groups,
            timesteps=timesteps,
            source=source,
            phase=config.thermodynamic.phase,
            windows=windows,
        ),
        "thermodynamics": _thermodynamics(config, trajectory, validated, layers),
        "assessment": assess(figures, run),
    }


def _thermodynamics(
    config: QuantizationConfig,
    trajectory: Trajectory,
    validated: Validated,
    layers: Sequence[LayerRow],
) -> Thermodynamics:
    measured = validated.smoothness
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
        layer_violation_count=measured.layer_violation_count if measured else None,
        group_smoothness_score=measured.group_score if measured else None,
        smoothing=_smoothing(config, trajectory.time_schedule),
        widest_window_scores=dict(validated.windows.scores) if validated.windows else None,
        default_window_scores=(
            dict(validated.windows.default_scores) if validated.windows else None
        ),
        before=_figures_before(validated.before),
    )


def _smoothing(config: QuantizationConfig, schedule: TimeSchedule) -> SmoothingSummary | None:
    if schedule.interpolation is None:
        return None
    window = config.thermodynamic.smoothing.window
    return SmoothingSummary(
        interpolation=schedule.interpolation,
        window=window,
        windows=list(schedule.windows),
        clamped_boundaries=list(clamped_boundaries(schedule.groups, window)),
    )


def _score(measured: Smoothness | None) -> float | None:
    return None if measured is None else ScoreStatistics.of(measured.boundary_scores).mean


def _figures_before(before: Smoothness | None) -> SmoothnessBefore | None:
    if before is None:
        return None
    scores = before.boundary_scores
    return SmoothnessBefore(
        smoothness_score=ScoreStatistics.of(scores).mean,
        violation_count=len(before.violations),
        layer_violation_count=before.layer_violation_count,
        boundary_scores=scores,
    )
