"""A comparison as one self-contained HTML page, in the style of the report's."""

from __future__ import annotations

from pathlib import Path

from thermoq.report import comparison_wording
from thermoq.report.atomic import atomic_text
from thermoq.report.comparison_charts import error_chart, score_chart, size_bars
from thermoq.report.comparison_model import Comparison, Verdict
from thermoq.report.html import page_environment

_TONES: dict[Verdict, str] = {
    "better": "good",
    "worse": "bad",
    "no measurable difference": "neutral",
    "not comparable": "neutral",
    "not measured": "neutral",
}
_ORDER: dict[Verdict | None, int] = {
    None: 0,
    "better": 1,
    "no measurable difference": 2,
    "worse": 3,
    "not comparable": 4,
    "not measured": 5,
}


def write_comparison_page(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`, all of it or none. Raises InputError if it cannot."""
    atomic_text(path, render_comparison(comparison))


def render_comparison(comparison: Comparison) -> str:
    """The page as text. Names, paths and commands are escaped, whatever they hold."""
    names = list(dict.fromkeys(one.model_name for one in comparison.variants))
    commands = dict.fromkeys(
        cell.command for row in comparison.rows for cell in row.cells if cell.command
    )
    return (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            title=" and ".join(names),
            scores=score_chart(comparison),
            errors=error_chart(comparison),
            bars=size_bars(comparison),
            commands=list(commands),
            shipped=any(cell.shipped for row in comparison.rows for cell in row.cells),
            tones=_TONES,
            order=_ORDER,
            words=comparison_wording,
        )
    )
