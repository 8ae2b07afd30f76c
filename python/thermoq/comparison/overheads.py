"""The table's rows of overhead: what time parameters cost when quantizing and when running."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from thermoq.comparison.cells import Metric, evaluated_row, target_over_phase_1, unmeasured
from thermoq.comparison.differences import change_of_medians, verdict_of
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Cell, Change, MetricRow, Target
from thermoq.report.evaluation_model import Evaluation, Figure
from thermoq.report.wording import significant
from thermoq.terms import Phase

_OVERHEADS: dict[Phase, float] = {"smooth": 0.10, "optimize": 0.15}

TIMING_NOISE, TIMING_NOISE_S = 0.05, 1.0
"""By how much two runs of the same work may differ: a share, and seconds of start-up."""

_TIMED_APART = ("output_correction_s", "sequential_s")
"""Steps that run the model, which a run without them does not."""

_Pairs = Iterable[tuple[str, tuple[object, object]]]


def overhead_rows(sources: Sequence[Source]) -> Iterator[MetricRow]:
    """Yield the row of quantization time, then that of inference time."""
    yield _quantization_time(sources)
    yield _inference_time(sources)


def quantization_seconds(source: Source) -> float | None:
    """Return a run's time but for the steps that run the model; None where it is not noted."""
    times = source.report.provenance.times_s
    total = times.get("total_s")
    return None if total is None else total - _seconds_apart(source)


def _seconds_apart(source: Source) -> float:
    times = source.report.provenance.times_s
    return sum(times.get(key, 0.0) for key in _TIMED_APART)


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
    if not before:
        note = f"{reference.label} has no time to compare with"
        return result.model_copy(update={"verdict": "not measured", "note": note})
    problem = _first_difference(_of_quantization(reference, source))
    if problem is not None:
        return result.model_copy(update={"verdict": "not comparable", "note": problem})
    change = Change(value=seconds / before - 1.0, relative=True, kind="single")
    is_noise = abs(change.value) <= TIMING_NOISE or abs(seconds - before) <= TIMING_NOISE_S
    verdict = "no measurable difference" if is_noise else verdict_of(change, "lower")
    limit, target = _OVERHEADS.get(source.report.phase), None
    if limit is not None:
        text, met = f"below {limit:+.0%}", change.value < limit
        target = target_over_phase_1(reference, verdict, text, met=met)
    return result.model_copy(update={"change": change, "verdict": verdict, "target": target})


def _of_quantization(reference: Source, source: Source) -> _Pairs:
    """Yield what makes the times of two runs no measure of their phases, if it differs."""
    one, other = reference.report, source.report
    first, second = one.provenance, other.provenance
    rotated = [any(row.rotation is not None for row in each.layers) for each in (one, other)]
    yield "models", (first.input_fingerprint, second.input_fingerprint)
    yield "weight methods", (one.method, other.method)
    yield "encodings", (one.encoding, other.encoding)
    yield "bit widths", (one.bit_width, other.bit_width)
    yield "rotations", (rotated[0], rotated[1])
    yield "CPUs", (first.cpu, second.cpu)
    yield "numbers of threads", (first.threads, second.threads)


def _first_difference(pairs: _Pairs) -> str | None:
    return next((f"different {what}" for what, (one, other) in pairs if one != other), None)


def _inference_time(sources: Sequence[Source]) -> MetricRow:
    metric = Metric(
        "inference_time",
        "Overhead: inference time",
        "inference time",
        "of a forward pass over that of the same weights with static parameters, median of turns "
        "on one machine",
        "ratio",
        "lower",
    )

    def figure(evaluation: Evaluation) -> Figure | None:
        return evaluation.inference.over_static if evaluation.inference else None

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        if one.inference is None or other.inference is None:
            return None
        return change_of_medians(one.inference.ratios, other.inference.ratios)

    def apart(one: Evaluation, other: Evaluation) -> str | None:
        return _first_difference(_of_inference(one, other))

    row = evaluated_row(metric, sources, figure, change, apart=apart)
    cells = [_inference_cell(*pair, sources) for pair in zip(row.cells, sources, strict=True)]
    return row.model_copy(update={"cells": cells})


def _inference_cell(cell: Cell, source: Source, sources: Sequence[Source]) -> Cell:
    """Add the batch and the target, which is over static parameters; or the command that times."""
    evaluation = source.evaluation
    if evaluation is None or evaluation.inference is None:
        has_other_figures = evaluation is not None and source.shipped is None
        command = source.evaluate_command(sources) if has_other_figures else cell.command
        return cell.model_copy(update={"command": command})
    inference = evaluation.inference
    low, high = inference.over_static.low, inference.over_static.high
    beside = f"{low:.3f} to {high:.3f}; batch of {inference.batch_size}"
    limit, target = _OVERHEADS.get(source.report.phase), None
    if limit is not None:
        met = inference.over_static.value <= 1.0 + limit
        target = Target(text=f"at most {1.0 + limit:.2f}", met=met)
    return cell.model_copy(update={"beside": beside, "target": target})


def _of_inference(one: Evaluation, other: Evaluation) -> _Pairs:
    first, second = one.inference, other.inference
    if first is None or second is None:
        return
    yield "models", (one.model_fingerprint, other.model_fingerprint)
    yield "CPUs", (first.cpu, second.cpu)
    yield "numbers of threads", (first.threads, second.threads)
    yield "batch sizes", (first.batch_size, second.batch_size)
    yield "precisions", (one.precision, other.precision)
    if one.language is not None and other.language is not None:
        yield "lengths of text", (one.language.length, other.language.length)
    if one.inputs is not None and other.inputs is not None:
        yield "image sizes", (one.inputs.size, other.inputs.size)
