"""`thermoq export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import shown_progress, warn_of_leftovers


def export(
    directory: Annotated[Path, typer.Argument(help="A checkpoint that thermoq wrote.")],
    target: Annotated[Path, typer.Argument(help="The dense checkpoint to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or bfloat16 for all floating-point tensors.",
            show_default="each its original one",
        ),
    ] = None,
    max_shard_size: options.MaxShardSize = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode a quantized checkpoint into a dense one that any tool loads."""
    from thermoq.exporting import export as run

    warn_of_leftovers(target)
    with shown_progress(quiet) as progress:
        run(
            directory,
            target,
            dtype=dtype,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
            threads=threads,
            progress=progress,
        )
    if not quiet:
        typer.echo(f"{target}: written")
