"""The rows of the comparison table: a metric each, over all variants, against the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thermoq.comparison.cells import Metric, exact_row, unmeasured
from thermoq.comparison.differences import verdict_of
from thermoq.comparison.evaluated import evaluated_rows
from thermoq.comparison.sources import Source
from thermoq.expectations import PHASE_2_TARGET, PHASE_3_TARGET
from thermoq.report.comparison_model import Cell, Change, MetricRow, Target
from thermoq.report.wording import significant
from thermoq.terms import Phase

_SCORES: dict[Phase, float] = {"smooth": PHASE_2_TARGET, "optimize": PHASE_3_TARGET}
_VIOLATIONS: dict[Phase, int] = {"smooth": 1, "optimize": 0}
_OVERHEADS: dict[Phase, float] = {"smooth": 0.10, "optimize": 0.15}

TIMING_NOISE, TIMING_NOISE_S = 0.05, 1.0
"""By how much two runs of the same work may differ: a share, and seconds of start-up."""

_TIMED_APART = ("output_correction_s", "sequential_s")
"""Steps that run the model, which a run without them does not."""


def rows(sources: Sequence[Source]) -> Iterator[MetricRow]:
    """Yield the specification's rows and, where evaluations have them, those of samples."""
    yield _smoothness(sources)
    yield _violations(sources)
    yield from evaluated_rows(sources)
    yield _quantization_time(sources)
    yield _inference_time(sources)
    yield _size(sources)


def quantization_seconds(source: Source) -> float | None:
    """Return a run's time but for the steps that run the model; None where it is not noted."""
    times = source.report.provenance.times_s
    total = times.get("total_s")
    return None if total is None else total - _seconds_apart(source)


def _seconds_apart(source: Source) -> float:
    times = source.report.provenance.times_s
    return sum(times.get(key, 0.0) for key in _TIMED_APART)


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
        wanted = _SCORES.get(report.phase)
        target = (
            None if wanted is None else Target(text=f"{wanted:.2f} or more", met=score >= wanted)
        )
        between = report.thermodynamics.group_smoothness_score
        beside = None if between is None else f"{between:.4f} between time groups"
        return Cell(value=score, beside=beside, target=target)

    return exact_row(metric, sources, cell)


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
        most = _VIOLATIONS.get(report.phase)
        text = f"at most {most}" if most else "0"
        target = None if most is None else Target(text=text, met=count <= most)
        layers = report.thermodynamics.layer_violation_count
        beside = None if layers is None else f"{layers:,} in single layers"
        return Cell(value=count, beside=beside, target=target)

    return exact_row(metric, sources, cell)


def _why_not_smooth(source: Source) -> str:
    if source.report.thermodynamics is None:
        return "not measured: validation was switched off"
    return "not measured: no layer has time parameters"


def _quantization_time(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "quantization_time",
        "Overhead: quantization time",
        "quantization time",
        f"with the same weight method; of one run each, and less than {TIMING_NOISE:.0%} or "
        f"{TIMING_NOISE_S:g} s is no difference",
        "seconds",
        "lower",
    )
    return metric.row(_time_cell(source, sources[0]) for source in sources)


def _time_cell(source: Source, reference: Source) -> Cell:
    seconds, before = quantization_seconds(source), quantization_seconds(reference)
    if seconds is None:
        return unmeasured("not noted in a checkpoint; the run's own JSON report has it")
    apart = _seconds_apart(source)
    beside = f"and {significant(apart)} s of running the model" if apart >= 0.1 else None
    result = Cell(value=seconds, beside=beside)
    if source is reference:
        return result
    problem = "no time to compare with" if not before else _not_comparable(reference, source)
    if problem is not None or not before:
        return result.model_copy(update={"verdict": "not measured", "note": problem})
    change = Change(value=seconds / before - 1.0, relative=True, kind="single")
    limit, target = _OVERHEADS.get(source.report.phase), None
    if limit is not None:
        target = Target(text=f"below {limit:+.0%}", met=change.value < limit)
    is_noise = abs(change.value) <= TIMING_NOISE or abs(seconds - before) <= TIMING_NOISE_S
    verdict = "no measurable difference" if is_noise else verdict_of(change, "lower")
    return result.model_copy(update={"change": change, "verdict": verdict, "target": target})


def _not_comparable(reference: Source, source: Source) -> str | None:
    """Return what makes the times of two runs no measure of their difference."""
    one, other = reference.report, source.report
    first, second = one.provenance, other.provenance
    for what, values in (
        ("models", (first.input_fingerprint, second.input_fingerprint)),
        ("weight methods", (one.method, other.method)),
        ("CPUs", (first.cpu, second.cpu)),
        ("numbers of threads", (first.threads, second.threads)),
    ):
        if values[0] != values[1]:
            return f"not comparable: different {what}"
    return None


def _inference_time(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "inference_time",
        "Overhead: inference time",
        "inference time",
        "over that with static parameters",
        "ratio",
        "lower",
    )
    return metric.row(unmeasured("not measured: reports hold no inference times") for _ in sources)


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
