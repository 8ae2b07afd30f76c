"""The comparison in sentences, and what limits it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thermoq.comparison.conditions import are_pairs, conditions_apart
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Cell, MetricRow
from thermoq.report.comparison_wording import change_text


def summary_of(table: Sequence[MetricRow], labels: Sequence[str]) -> list[str]:
    """Return a sentence a variant: what is better, what is worse, what cannot be told."""
    reference = labels[0]
    return [
        _sentence(label, reference, [(row, row.cells[i]) for row in table])
        for i, label in enumerate(labels)
        if i > 0
    ]


def _sentence(label: str, reference: str, cells: Sequence[tuple[MetricRow, Cell]]) -> str:
    by_verdict = {
        verdict: [
            _named(row, cell) for row, cell in cells if cell.verdict == verdict and cell.change
        ]
        for verdict in ("better", "worse", "no measurable difference")
    }
    parts = []
    for verdict, words in (("better", "better"), ("worse", "worse")):
        if by_verdict[verdict]:
            parts.append(f"{words} in {_listed(by_verdict[verdict])}")
    same = by_verdict["no measurable difference"]
    if same:
        parts.append(f"no measurable difference in {_listed(same)}")
    apart: dict[str | None, list[str]] = {}
    for row, cell in cells:
        if cell.verdict == "not comparable":
            apart.setdefault(cell.note, []).append(row.short)
    missing = [row.short for row, cell in cells if cell.verdict == "not measured"]
    text = f"{label} against {reference}: {'; '.join(parts) or 'nothing could be compared'}."
    if apart:
        reasons = (f"{_listed(names)} ({note})" for note, names in apart.items())
        text += f" Not comparable: {'; '.join(reasons)}."
    if missing:
        text += f" Not measured: {_listed(missing)}."
    return text


def _named(row: MetricRow, cell: Cell) -> str:
    assert cell.change is not None
    if cell.verdict == "no measurable difference":
        return row.short
    return f"{row.short} ({change_text(cell.change, row.unit, interval=False)})"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def notes_on(sources: Sequence[Source], table: Sequence[MetricRow]) -> Iterator[str]:
    """Yield what a reader has to know of the figures."""
    first = sources[0]
    if any(one.fingerprint != first.fingerprint for one in sources):
        yield "The models differ, so no figure tells the methods apart by itself."
    shipped = [one for one in sources if one.shipped is not None]
    if shipped:
        labels = _listed([one.label for one in shipped])
        yield f"{labels}: evaluation figures are {shipped[0].shipped}."
    unpaired = [
        one.label
        for one in sources[1:]
        if one.evaluation
        and first.evaluation
        and not are_pairs(first.evaluation, one.evaluation)
        and conditions_apart(first.evaluation, one.evaluation) is None
    ]
    if unpaired:
        yield (
            f"{_listed(unpaired)}: evaluated on other samples than {first.label}, so that the "
            "intervals of differences are unpaired, and wider than they could be."
        )
    prior = [one.label for one in sources if one.report.parameter_source == "noise-schedule prior"]
    if prior:
        yield (
            f"{_listed(prior)}: smoothness is that of the noise-schedule prior, a model and not a "
            "measurement."
        )
    missed, open_ones = (_with_outcome(sources, table, met) for met in (False, None))
    if missed:
        yield f"Short of the specification's target: {_listed(missed)}."
    if open_ones:
        yield (
            "No measurable difference, so that the specification's target is neither met nor "
            f"missed: {_listed(open_ones)}."
        )
    yield from _room(sources, table)
    yield from _other_jumps(sources)


def _with_outcome(
    sources: Sequence[Source], table: Sequence[MetricRow], met: bool | None
) -> list[str]:
    return [
        f"{row.short} of {one.label}"
        for row in table
        for one, cell in zip(sources, row.cells, strict=True)
        if cell.target is not None and cell.target.met is met
    ]


def _other_jumps(sources: Sequence[Source]) -> Iterator[str]:
    """Say on what else than phases smoothness and violations depend here."""
    reports = [one.report for one in sources]
    if len({report.sampling_steps for report in reports}) > 1:
        yield "Jumps are those of different numbers of sampling steps, on which scores depend."
    if len({report.num_time_groups for report in reports}) > 1:
        yield (
            "Jumps are those between different numbers of time groups, on which scores and "
            "violations depend."
        )


def _room(sources: Sequence[Source], table: Sequence[MetricRow]) -> Iterator[str]:
    """Say where a share of the reference's accuracy is asked for that 1 does not leave room for."""
    row = next((row for row in table if row.key == "accuracy"), None)
    before = row.cells[0].value if row else None
    if row is None or not before or before <= 0.0:
        return
    most = 1.0 / before - 1.0
    short = [
        one.label
        for one, cell in zip(sources, row.cells, strict=True)
        if cell.target is not None and cell.target.met is not True
    ]
    if short and most < 0.06:
        yield (
            f"{row.title}: {sources[0].label} leaves room for {most:+.1%} at most, as nothing is "
            "above 1."
        )
