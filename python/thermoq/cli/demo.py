"""`thermoq demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import shown_progress, warn, warn_of_leftovers
from thermoq.cli.summary import print_summary


def demo(
    output: Annotated[
        Path, typer.Option(help="The directory to write; an earlier demo there is replaced.")
    ] = Path("thermoq-demo"),
    bit_width: options.BitWidth = None,
    num_time_groups: options.NumTimeGroups = None,
    quiet: options.Quiet = False,
) -> None:
    """Quantize the bundled diffusion transformer and show the report's address."""
    from thermoq.demonstration import demonstrate, files_of

    warn_of_leftovers(*files_of(output))
    with shown_progress(quiet) as progress:
        shown = demonstrate(
            output, progress=progress, bit_width=bit_width, num_time_groups=num_time_groups
        )
    for warning in shown.report.warnings:
        warn(warning)
    if not quiet:
        print_summary(shown.report, shown.checkpoint, shown.json_report, shown.html_report)
        typer.echo(f"{'open':<11} {shown.html_report.resolve().as_uri()}")
