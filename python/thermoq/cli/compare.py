"""`thermoq compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import warn_of_leftovers
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from thermoq.report.comparison_model import Comparison

_INDENT = "  "
_WIDTH = 79


def compare(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="JSON reports or quantized directories; the first is the reference."),
    ] = None,
    html_report: options.HtmlReport = None,
    allow_different_models: Annotated[
        bool, typer.Option("--allow-different-models", help="Compare reports of other models too.")
    ] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Hold reports against the first of them: smoothness, accuracy, overhead, with verdicts."""
    from thermoq.comparison.run import compare as run

    if not sources:
        raise UsageError("Missing argument 'SOURCES...'.")
    warn_of_leftovers(html_report)
    found = run(sources, allow_different_models=allow_different_models, html_report=html_report)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    elif not quiet:
        print_comparison(found)
        if html_report is not None:
            typer.echo(f"{'page':<11} {html_report}")


def print_comparison(comparison: Comparison) -> None:
    """Print the table metric by metric, a line a variant, then what it comes to."""
    for line in _table_lines(comparison):
        typer.echo(line)
    typer.echo("")
    for text in (*comparison.summary, *comparison.notes):
        for line in _wrapped(text):
            typer.echo(line)
    different = [row.name for row in comparison.equalities if row.equal is False]
    known = [row.name for row in comparison.equalities if row.equal]
    for name, rows in (("equal", known), ("different", different)):
        for line in _wrapped(f"{name}: {'; '.join(rows) or 'nothing'}"):
            typer.echo(line)
    for command in dict.fromkeys(
        cell.command for row in comparison.rows for cell in row.cells if cell.command
    ):
        typer.echo(f"{'to measure':<11} {command}")


def _table_lines(comparison: Comparison) -> list[str]:
    from thermoq.report import comparison_wording as words

    labels = [variant.label for variant in comparison.variants]
    label_width = max(map(len, labels))
    lines = []
    for row in comparison.rows:
        notes = {cell.note for cell in row.cells}
        if len(notes) == 1 and all(cell.value is None for cell in row.cells):
            lines.append(row.title)
            lines += _wrapped(f"not measured: {_note(*notes)}".rstrip(": "), _INDENT)
            continue
        lines.append(f"{row.title} ({row.better} is better)")
        rows = [
            (
                label,
                words.cell_text(row, cell) + (" shipped" if cell.shipped else ""),
                words.change_text(cell.change, row.unit) if cell.change else "",
                cell.verdict or "",
            )
            for label, cell in zip(labels, row.cells, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths[0] = label_width
        fits = len(_INDENT) + sum(widths) + 2 * (len(widths) - 1) <= _WIDTH
        for cells, cell in zip(rows, row.cells, strict=True):
            shown = cells if fits else cells[:-1]
            padded = [text.ljust(width) for text, width in zip(shown, widths, strict=False)]
            lines.append(f"{_INDENT}{'  '.join(padded)}".rstrip())
            beside = ["" if fits else cells[-1], cell.beside or ""]
            beside += [_target(words.target_text(cell)), _note(cell.note)]
            details = "; ".join(filter(None, beside))
            if details:
                lines += _wrapped(details, " " * (len(_INDENT) + label_width + 2))
    return lines


def _target(text: str) -> str:
    return f"target {text}" if text else ""


def _note(note: str | None) -> str:
    return "" if note in (None, "not measured") else str(note).removeprefix("not measured: ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
