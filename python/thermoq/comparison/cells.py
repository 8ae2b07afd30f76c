"""The cells of the comparison table: a figure, its change against the reference, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from thermoq.comparison.differences import verdict_of
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Cell, Change, MetricRow, Unit
from thermoq.report.evaluation_model import Evaluation, Figure


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
) -> MetricRow:
    """Return a row of figures that have nothing random in them."""
    cells = [cell(source) for source in sources]
    before = cells[0].value
    for i, one in enumerate(cells[1:], 1):
        if one.value is None or before is None:
            cells[i] = one.model_copy(update={"verdict": "not measured"})
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
) -> MetricRow:
    """Return a row of figures that evaluations have.

    `change` is given the reference's evaluation, another, and whether their samples are pairs.
    """

    def cell(source: Source) -> Cell:
        evaluation = source.evaluation
        found = None if evaluation is None else figure(evaluation)
        if evaluation is None or found is None:
            return _unevaluated(source, sources)
        shipped = source.shipped is not None
        result = Cell(value=found.value, low=found.low, high=found.high, shipped=shipped)
        if source is sources[0]:
            return result
        first, reference = sources[0].evaluation, sources[0].label
        against, note = None, f"{reference} has no such figure"
        if first is not None and same_kind(first, evaluation):
            against = change(first, evaluation, are_pairs(first, evaluation))
            note = f"{reference} has no such figure above 0"
        if against is None:
            return result.model_copy(update={"verdict": "not measured", "note": note})
        verdict = verdict_of(against, metric.better)
        return result.model_copy(update={"change": against, "verdict": verdict})

    return metric.row(cell(source) for source in sources)


def unmeasured(note: str) -> Cell:
    """Return a cell without a figure."""
    return Cell(value=None, verdict="not measured", note=note)


def are_pairs(one: Evaluation, other: Evaluation) -> bool:
    """Tell whether both evaluations were given the same inputs."""
    return one.inputs_key == other.inputs_key


def same_kind(one: Evaluation, other: Evaluation) -> bool:
    """Tell whether both are of language models, or both are of others."""
    return (one.language is None) == (other.language is None)


def _unevaluated(source: Source, sources: Sequence[Source]) -> Cell:
    if source.evaluation is not None:
        return unmeasured("not measured by its evaluation")
    if source.evaluation_note is not None:
        return unmeasured(f"not measured: {source.evaluation_note}")
    command = source.evaluate_command(sources)
    return unmeasured("not measured").model_copy(update={"command": command})
