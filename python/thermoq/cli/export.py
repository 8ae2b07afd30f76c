"""`thermoq export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import megabytes, print_json, shown_progress, warn_of_leftovers
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from thermoq.gguf.result import GgufExport


def export(
    directory: Annotated[Path, typer.Argument(help="A checkpoint that thermoq wrote.")],
    target: Annotated[Path, typer.Argument(help="The dense checkpoint or GGUF file to write.")],
    format: Annotated[
        str, typer.Option(help="safetensors (a dense checkpoint) or gguf (one file).")
    ] = "safetensors",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or bfloat16 for all floating-point tensors.",
            show_default="each its original one",
        ),
    ] = None,
    max_shard_size: options.MaxShardSize = None,
    component: Annotated[
        str | None,
        typer.Option(
            help="gguf: the component to write.", show_default="the only one that is quantized"
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            help="gguf: checkpoint (at most 63 bytes), full, or original (as first published).",
            show_default="checkpoint",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            help="gguf: round what no exact type holds to q8_0 or q4_0.",
            show_default="f16 or f32 without loss",
        ),
    ] = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: Annotated[
        bool, typer.Option("--json", help="gguf: print what became of each tensor as JSON.")
    ] = False,
) -> None:
    """Decode a quantized checkpoint for other tools: a dense one, or one component as GGUF."""
    from thermoq.exporting import dropped_time_parameters
    from thermoq.exporting import export as run

    if json and format == "safetensors":
        raise UsageError("--json: expected --format gguf beside it, got safetensors")
    warn_of_leftovers(target)
    with shown_progress(quiet) as progress:
        written = run(
            directory,
            target,
            format=format,
            dtype=dtype,
            names=names,
            fallback=fallback,
            component=component,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
            threads=threads,
            progress=progress,
        )
    if isinstance(written, Path):
        if not quiet:
            typer.echo(f"{target}: written")
            dropped = dropped_time_parameters(directory)
            if dropped is not None:
                typer.echo(f"left out, as weights alone are exported: {dropped}")
    elif json:
        print_json(written)
    elif not quiet:
        _print_tensors(written, hint=fallback is None)


def _print_tensors(written: GgufExport, *, hint: bool) -> None:
    """Print a line a type, a reason for no block type or for leaving out, and a rounded tensor."""
    from thermoq.report.wording import counted, significant

    rounded, dropped = written.rounded, written.dropped()
    state = f"{len(rounded)} not exact" if rounded else "all exact"
    num_tensors = len(written.tensors) - sum(group.num_tensors for group in dropped)
    typer.echo(
        f"{written.path}: {counted(num_tensors, 'tensor')}, {state}, "
        f"{megabytes(written.nbytes)} (architecture {written.architecture})"
    )
    for total in written.type_totals():
        bits = 8 * total.nbytes / total.num_weights if total.num_weights else 0.0
        typer.echo(
            f"{total.type:<11} {counted(total.num_tensors, 'tensor')}, "
            f"{megabytes(total.nbytes)}, {bits:.4g} bits per weight"
        )
    _print_unblocked(written, hint)
    if written.shortened:
        typer.echo(
            f"{counted(len(written.shortened), 'name')} shortened to 63 bytes; "
            "--names full keeps them, as diffusers and ComfyUI want them"
        )
    for group in dropped:
        typer.echo(
            f"{counted(group.num_tensors, 'tensor')} dropped ({group.reason}), "
            f"such as {group.example}"
        )
    for tensor in rounded:
        error = significant(tensor.relative_squared_error)
        typer.echo(
            f"{tensor.name}: {tensor.stored} -> {tensor.type}, relative squared error {error} "
            f"({tensor.note})"
        )


def _print_unblocked(written: GgufExport, hint: bool) -> None:
    """Print what of the quantized tensors no block type held; with a `hint` at `--fallback`."""
    from thermoq.report.wording import counted

    for group in written.unblocked():
        typer.echo(
            f"{counted(group.num_tensors, 'quantized tensor')} became {group.type} "
            f"({megabytes(group.nbytes)}): {group.reason}; such as {group.example}"
        )
    if hint and written.could_shrink:
        typer.echo("--fallback q8_0 or q4_0 makes them smaller, rounded a second time")
