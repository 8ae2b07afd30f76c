"""How the figures of a comparison are written, alike on the page and on the console."""

from __future__ import annotations

from thermoq.report.comparison_model import Cell, Change, ChangeKind, MetricRow, Unit
from thermoq.report.wording import close_to_one, duration, fixed, significant, size

NOTHING = "\N{EN DASH}"

KIND_NOTES: dict[ChangeKind, str] = {
    "paired": "interval of pairs: both models on the same samples",
    "unpaired": "interval of samples that are no pairs",
    "timed": "interval of turns, each model's by themselves",
    "exact": "nothing random in it",
    "single": "one run each",
}


def figure_text(value: float, unit: Unit) -> str:
    """A figure in its unit, e.g. `0.8209`, `98.4%`, `0.952 MB`."""
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "ratio":
        return f"{value:.3f}"
    if unit == "bytes":
        return size(round(value))
    if unit == "cosine":
        return close_to_one(value)
    if unit == "seconds":
        return duration(value)
    return fixed(value) if unit == "score" else significant(value)


def cell_text(row: MetricRow, cell: Cell) -> str:
    """A cell's figure, or a dash."""
    return NOTHING if cell.value is None else figure_text(cell.value, row.unit)


def interval_text(row: MetricRow, cell: Cell) -> str:
    """The figure's own interval, e.g. `[0.0223, 0.0268]`; empty where it has none."""
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return ""
    return f"[{figure_text(cell.low, row.unit)}, {figure_text(cell.high, row.unit)}]"


def change_text(change: Change, unit: Unit, *, interval: bool = True) -> str:
    """A change with its interval, e.g. `-38.1% [-40.2, -35.9]`, `+0.0031 [+0.0012, +0.0050]`."""
    points = unit == "share" and not change.relative

    def number(value: float) -> str:
        if change.relative:
            return _percent(100 * value)
        if points:
            return f"{100 * value:+.1f}"
        if unit == "count":
            return f"{value:+.0f}" if value else "0"
        return f"{'+' if value > 0 else '-' if value < 0 else ''}{significant(abs(value))}"

    suffix = "%" if change.relative else " points" if points else ""
    text = f"{number(change.value)}{suffix}"
    if not interval or change.low is None or change.high is None:
        return text
    return f"{text} [{number(change.low)}, {number(change.high)}]"


def target_text(cell: Cell) -> str:
    """What is expected and how it came out, e.g. `0.90 or more: met`; empty without a target."""
    if cell.target is None:
        return ""
    if cell.target.met is None:
        return cell.target.text
    return f"{cell.target.text}: {'met' if cell.target.met else 'not met'}"


def _percent(value: float) -> str:
    if value == 0.0:
        return "0"
    if abs(value) < 1.0:
        return f"{'+' if value > 0 else '-'}{significant(abs(value), 2)}"
    return f"{value:+.1f}" if abs(value) < 100.0 else f"{value:+,.0f}"
