"""`thermoq verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import megabytes, print_json, shown_progress


def verify(
    directory: Annotated[Path, typer.Argument(help="A checkpoint that thermoq wrote.")],
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Re-read a quantized checkpoint: checksums, shapes, ranges, finite parameters."""
    from thermoq.verification import verify as run

    with shown_progress(quiet) as progress:
        found = run(directory, progress=progress)
    if json:
        print_json(found)
    elif not quiet:
        typer.echo(
            f"{directory}: {found.num_tensors} tensors in order "
            f"({found.num_quantized} quantized), {megabytes(found.nbytes)}"
        )
