"""`thermoq demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thermoq.cli import options
from thermoq.cli.compare import print_comparison
from thermoq.cli.console import shown_progress, shown_steps, warn, warn_of_leftovers


def demo(
    output: Annotated[
        Path, typer.Option(help="The directory to write; an earlier demo there is replaced.")
    ] = Path("thermoq-demo"),
    bit_width: options.DemoBitWidth = None,
    num_time_groups: options.NumTimeGroups = None,
    quiet: options.Quiet = False,
) -> None:
    """Run all phases on the bundled diffusion transformer and show the comparison's address."""
    from thermoq.demonstration import (
        compare_variants,
        evaluate_variants,
        files_of,
        has_torch,
        quantize_variants,
    )

    warn_of_leftovers(*files_of(output))
    with shown_progress(quiet) as progress:
        variants = quantize_variants(
            output, progress=progress, bit_width=bit_width, num_time_groups=num_time_groups
        )
    for one in variants:
        for warning in one.report.warnings:
            warn(f"{one.name}: {warning}")
    if has_torch():
        with shown_steps(quiet) as steps:
            variants = evaluate_variants(variants, progress=steps)
    shown = compare_variants(output, variants)
    if quiet:
        return
    print_comparison(shown.comparison)
    for variant, one in zip(shown.comparison.variants, variants, strict=True):
        typer.echo(
            f"{variant.label}: {one.checkpoint}, {one.json_report.name}, {one.html_report.name}"
        )
    typer.echo(f"{'open':<11} {shown.page.resolve().as_uri()}")
