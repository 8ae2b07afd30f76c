"""The cells of the comparison table: a figure, its change against the reference, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from thermoq.comparison.conditions import are_pairs, conditions_apart
from thermoq.comparison.differences import verdict_of
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Cell, Change, MetricRow, Target, Unit, Verdict
from thermoq.report.evaluation_model import Evaluation, Figure

_Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """What a row is of; `short` names it within a sentence."""

    key: str
    title: str
    short: str
    meaning: str
    unit: Unit
    better: Literal["higher", "lower"]

    def row(self, cells: Iterable[Cell]) -> MetricRow:
        """Return the row with these cells, of which the first is held against nothing."""
        first, *others = cells
        if first.value is not None:
            first = first.model_copy(update={"verdict": None, "change": None})
        return MetricRow(
            key=self.key,
            title=self.title,
            short=self.short,
            meaning=self.meaning,
            unit=self.unit,
            better=self.better,
            cells=[first, *others],
        )


def exact_row(
    metric: Metric,
    sources: Sequence[Source],
    cell: Callable[[Source], Cell],
    *,
    relative: bool = False,
    apart: Callable[[Source, Source], str | None] = lambda reference, other: None,
) -> MetricRow:
    """Return a row of figures that have nothing random in them.

    `apart` names what keeps a figure from being compared with the reference's, if anything does.
    """
    cells = [cell(source) for source in sources]
    before = cells[0].value
    for i, one in enumerate(cells[1:], 1):
        if one.value is None or before is None:
            cells[i] = one.model_copy(update={"verdict": "not measured"})
            continue
        problem = apart(sources[0], sources[i])
        if problem is not None:
            cells[i] = one.model_copy(update={"verdict": "not comparable", "note": problem})
            continue
        share = relative and before != 0.0
        value = one.value / before - 1.0 if share else one.value - before
        change = Change(value=value, relative=share, kind="exact")
        update = {"change": change, "verdict": verdict_of(change, metric.better)}
        cells[i] = one.model_copy(update=update)
    return metric.row(cells)


def evaluated_row(
    metric: Metric,
    sources: Sequence[Source],
    figure: Callable[[Evaluation], Figure | None],
    change: Callable[[Evaluation, Evaluation, bool], Change | None],
    *,
    apart: Callable[[Evaluation, Evaluation], str | None] = conditions_apart,
    of_reference: bool = False,
) -> MetricRow:
    """Return a row of figures that evaluations have.

    `change` is given the reference's evaluation, another, and whether their samples are pairs.
    `apart` names what keeps the two from being compared, if anything does. `of_reference`: the
    figures themselves are shares of the reference's.
    """
    reference = sources[0]

    def cell(source: Source) -> Cell:
        evaluation = source.evaluation
        if evaluation is None:
            return _unevaluated(source, sources)
        problem = None if source is reference else _problem(reference, evaluation, apart)
        if of_reference and problem is not None:
            return Cell(value=None, **problem)
        found = figure(evaluation)
        if found is None:
            return unmeasured("not measured: its evaluation has no such figure")
        shipped = source.shipped is not None
        result = Cell(value=found.value, low=found.low, high=found.high, shipped=shipped)
        if source is reference:
            return result
        return result.model_copy(update=problem or held_against(evaluation))

    def held_against(evaluation: Evaluation) -> _Fields:
        first = reference.evaluation
        assert first is not None
        against = change(first, evaluation, are_pairs(first, evaluation))
        if against is not None:
            return {"change": against, "verdict": verdict_of(against, metric.better)}
        above = "" if figure(first) is None else " above 0"
        return {"verdict": "not measured", "note": f"{reference.label} has no such figure{above}"}

    return metric.row(cell(source) for source in sources)


def _problem(
    reference: Source,
    evaluation: Evaluation,
    apart: Callable[[Evaluation, Evaluation], str | None],
) -> _Fields | None:
    """Return the verdict and the note of what cannot be held against the reference."""
    if reference.evaluation is None:
        return {"verdict": "not measured", "note": f"{reference.label} was not evaluated"}
    found = apart(reference.evaluation, evaluation)
    return None if found is None else {"verdict": "not comparable", "note": found}


def target_over_phase_1(
    reference: Source, verdict: Verdict, text: str, *, met: bool
) -> Target | None:
    """Return a target that is relative to Phase 1; None where the reference is none.

    Without a measurable difference it is neither met nor missed.
    """
    if reference.report.phase != "baseline":
        return None
    return Target(text=text, met=None if verdict == "no measurable difference" else met)


def unmeasured(note: str) -> Cell:
    """Return a cell without a figure."""
    return Cell(value=None, verdict="not measured", note=note)


def _unevaluated(source: Source, sources: Sequence[Source]) -> Cell:
    if source.evaluation_note is not None:
        return unmeasured(f"not measured: {source.evaluation_note}")
    command = source.evaluate_command(sources)
    return unmeasured("not measured").model_copy(update={"command": command})
