"""From Phase 3's results to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from thermoq.config import QuantizationConfig
from thermoq.optimization import OptimizedLayer
from thermoq.optimization.sequential_run import SequentialRun
from thermoq.output_correction import OutputCorrection
from thermoq.report.model import LayerRow
from thermoq.report.optimization_model import (
    LayerOptimization,
    OptimizationSummary,
    RowChoiceTotal,
    SequentialSummary,
    StoredCorrection,
)
from thermoq.terms import ROW_CHOICES, GainEstimator, RowChoice


def layer_optimization(optimized: OptimizedLayer | None) -> LayerOptimization | None:
    """Return the report's part on one layer."""
    if optimized is None:
        return None
    return LayerOptimization(
        row_choice=optimized.choice,
        held_out_errors=dict(optimized.held_out_errors),
        output_errors=dict(optimized.output_errors),
        fallback_rows=optimized.fallback_rows,
        row_values=optimized.row_values,
        searched_groups=optimized.searched_groups,
        log_scale_tau_squared=optimized.log_scale_tau_squared,
        zero_point_tau_squared=optimized.zero_point_tau_squared,
        gain_tau_squared=optimized.gain_tau_squared,
        range_coupling=optimized.range_coupling,
    )


def optimization_summary(
    config: QuantizationConfig,
    estimator: GainEstimator | None,
    layers: Sequence[LayerRow],
    corrections: Mapping[str, OutputCorrection],
    sequential: SequentialRun | None = None,
) -> OptimizationSummary | None:
    """Return the report's part on the run; None without Phase 3.

    `corrections` go by component.
    """
    if estimator is None:
        return None
    coupling = config.thermodynamic.optimization.coupling
    parts = [(row, row.optimization) for row in layers if row.optimization is not None]
    return OptimizationSummary(
        coupling=coupling,
        gain_estimator=estimator,
        weakened_layers=sum((part.range_coupling or 0.0) < coupling for _, part in parts),
        sequential=None if sequential is None else SequentialSummary(**asdict(sequential)),
        num_layers=len(parts),
        row_choices=[_total(choice, parts) for choice in ROW_CHOICES],
        fallback_rows=sum(part.fallback_rows for _, part in parts),
        row_values=sum(part.row_values for _, part in parts),
        output_errors=_mean_errors(parts),
        output_corrections=[
            StoredCorrection(
                component=component,
                kind=correction.kind,
                num_bins=len(correction.bins),
                stored_bytes=correction.stored_bytes,
            )
            for component, correction in corrections.items()
        ],
    )


def _total(
    choice: RowChoice, parts: Sequence[tuple[LayerRow, LayerOptimization]]
) -> RowChoiceTotal:
    alike = [part for _, part in parts if part.row_choice == choice]
    return RowChoiceTotal(
        row_choice=choice,
        num_layers=len(alike),
        stored_bytes=sum(4 * part.row_values for part in alike),  # two f16 numbers a pair
    )


def _mean_errors(parts: Sequence[tuple[LayerRow, LayerOptimization]]) -> dict[RowChoice, float]:
    """Average by weights; with one time group there is no choice per group, and so no figure."""
    means: dict[RowChoice, float] = {}
    for choice in ROW_CHOICES:
        known = [(row.num_weights, part.output_errors) for row, part in parts if part.output_errors]
        if known and all(choice in errors for _, errors in known):
            total = sum(weights for weights, _ in known)
            means[choice] = sum(weights * errors[choice] for weights, errors in known) / total
    return means
