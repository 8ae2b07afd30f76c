"""The rows of the comparison table: a metric each, over all variants, against the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thermoq.comparison.cells import Metric, exact_row, unmeasured
from thermoq.comparison.equalities import threshold_of
from thermoq.comparison.evaluated import evaluated_rows
from thermoq.comparison.overheads import overhead_rows
from thermoq.comparison.sources import Source
from thermoq.expectations import PHASE_2_TARGET, PHASE_3_TARGET
from thermoq.report.comparison_model import Cell, MetricRow, Target
from thermoq.report.model import Report
from thermoq.terms import Phase

_SCORES: dict[Phase, float] = {"smooth": PHASE_2_TARGET, "optimize": PHASE_3_TARGET}
_VIOLATIONS: dict[Phase, int] = {"smooth": 1, "optimize": 0}


def rows(sources: Sequence[Source]) -> Iterator[MetricRow]:
    """Yield the specification's rows and, where evaluations have them, those of samples."""
    yield _smoothness(sources)
    yield _violations(sources)
    yield from evaluated_rows(sources)
    yield from overhead_rows(sources)
    yield _size(sources)


def _smoothness(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "smoothness_score",
        "Smoothness score",
        "smoothness",
        "of the largest changes of activation parameters that one sampling step crosses",
        "score",
        "higher",
    )

    def cell(source: Source) -> Cell:
        report, score = source.report, source.report.smoothness_score
        if score is None or report.thermodynamics is None:
            return unmeasured(_why_not_smooth(source))
        wanted, target = _SCORES.get(report.phase), None
        if wanted is not None and _has_targets(report):
            target = Target(text=f"{wanted:.2f} or more", met=score >= wanted)
        between = report.thermodynamics.group_smoothness_score
        beside = None if between is None else f"{between:.4f} between time groups"
        return Cell(value=score, beside=beside, target=target)

    return exact_row(metric, sources, cell, apart=_parameters_apart)


def _violations(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "violation_count",
        "Violations",
        "violations",
        "boundaries of the whole model at which a jump exceeds the threshold",
        "count",
        "lower",
    )

    def cell(source: Source) -> Cell:
        report, count = source.report, source.report.violation_count
        if count is None or report.thermodynamics is None:
            return unmeasured(_why_not_smooth(source))
        most, target = _VIOLATIONS.get(report.phase), None
        if most is not None and _has_targets(report):
            target = Target(text=f"at most {most}" if most else "0", met=count <= most)
        layers = report.thermodynamics.layer_violation_count
        beside = None if layers is None else f"{layers:,} in single layers"
        return Cell(value=count, beside=beside, target=target)

    def apart(reference: Source, source: Source) -> str | None:
        thresholds = [threshold_of(one.report) for one in (reference, source)]
        if thresholds[0] != thresholds[1]:
            return f"different thresholds: {thresholds[0]} and {thresholds[1]}"
        return _parameters_apart(reference, source)

    return exact_row(metric, sources, cell, apart=apart)


def _parameters_apart(reference: Source, source: Source) -> str | None:
    """Name what makes the time parameters of two runs no measure of each other's smoothness."""
    one, other = reference.report, source.report
    if one.parameter_source != other.parameter_source:
        return f"other parameter source: {other.parameter_source}, not {one.parameter_source}"
    if (one.num_time_groups == 1) != (other.num_time_groups == 1):
        return "one time group has no boundaries"
    return None


def _has_targets(report: Report) -> bool:
    """Whether smoothness was measured, and there is a boundary: targets are of nothing else."""
    return report.parameter_source == "calibration" and report.num_time_groups > 1


def _why_not_smooth(source: Source) -> str:
    if source.report.thermodynamics is None:
        return "not measured: validation was switched off"
    return "not measured: no layer has time parameters"


def _size(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "size",
        "Size",
        "size",
        "of the quantized components' safetensors files",
        "bytes",
        "lower",
    )

    def cell(source: Source) -> Cell:
        sizes = source.report.sizes
        share = sizes.time_parameter_bytes / max(1, sizes.model_bytes)
        return Cell(value=sizes.model_bytes, beside=f"{share:.1%} of it time parameters")

    return exact_row(metric, sources, cell, relative=True)
