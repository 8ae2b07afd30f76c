"""`thermoq demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import shown_progress
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
    from thermoq.demonstration import demonstrate

    with shown_progress(quiet) as progress:
        shown = demonstrate(
            output, progress=progress, bit_width=bit_width, num_time_groups=num_time_groups
        )
    if not quiet:
        print_summary(shown.report, shown.checkpoint, shown.json_report, shown.html_report)
        typer.echo(f"{'open':<11} {shown.html_report.resolve().as_uri()}")
