"""`thermoq evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import console_and_table, shown_steps, warn, warn_of_leftovers

if TYPE_CHECKING:
    from thermoq.report.evaluation_model import Evaluation
    from thermoq.report.evaluation_wording import EvaluationTable

_GAP, _EDGES = 3, 2  # of a table: characters between its columns, and at its sides


def evaluate(
    model: options.Model,
    quantized: Annotated[Path, typer.Option(help="The directory that MODEL was quantized into.")],
    report: Annotated[
        Path | None,
        typer.Option(help="Put the evaluation into this JSON report (and its log), or begin it."),
    ] = None,
    html_report: options.HtmlReport = None,
    samples: options.Samples = None,
    steps: options.Steps = None,
    seed: options.CalibrationSeed = None,
    guidance: options.Guidance = None,
    prompts: options.Prompts = None,
    data: options.HeldOutData = None,
    length: options.Length = None,
    size: options.Size = None,
    judged: options.Judged = None,
    timing: options.Timing = True,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Run MODEL and QUANTIZED on the same held-out inputs and report how far they are apart."""
    from thermoq.evaluation.run import evaluate as run

    log = None if report is None else report.with_suffix(".log")
    warn_of_leftovers(report, log, html_report)
    with shown_steps(quiet) as progress:
        found = run(
            model,
            quantized,
            report=report,
            html_report=html_report,
            samples=samples,
            steps=steps,
            seed=seed,
            guidance=guidance,
            prompts=prompts,
            data=data,
            length=length,
            size=size,
            judged=judged,
            timing=timing,
            threads=threads,
            progress=progress,
        )
    for note in found.notes:
        warn(note)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    elif not quiet:
        _print(found)


def _print(found: Evaluation) -> None:
    from thermoq.report.evaluation_wording import evaluation_tables, evaluation_text

    typer.echo(evaluation_text(found))
    for table in evaluation_tables(found):
        typer.echo(f"\n{table.title}")
        _print_table(table)


def _print_table(table: EvaluationTable) -> None:
    console, shown = console_and_table()
    widths = _column_widths(table, console.width)
    if widths is None:
        _print_lines(table)
        return
    for number, (head, width) in enumerate(zip(table.columns, widths, strict=True)):
        shown.add_column(head, justify="right" if number else "left", width=width)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def _column_widths(table: EvaluationTable, room: int) -> list[int] | None:
    """Return widths that break cells between words alone; None if there is too little room.

    The first columns get what is left.
    """
    columns = list(zip(table.columns, *table.rows, strict=True))
    widths = [max(len(word) for word in " ".join(cells).split()) for cells in columns]
    room -= sum(widths) + _GAP * (len(widths) - 1) + _EDGES
    if room < 0:
        return None
    for number, cells in enumerate(columns):
        more = min(room, max(map(len, cells)) - widths[number])
        widths[number] += more
        room -= more
    return widths


def _print_lines(table: EvaluationTable) -> None:
    """Print a table that is too wide: figures in lines of their own rather than cut."""
    for name, *cells in table.rows:
        typer.echo(name)
        for head, cell in zip(table.columns[1:], cells, strict=True):
            typer.echo(f"  {head}: {cell}")
