"""`thermoq calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import megabytes, shown_steps, warn, warn_of_leftovers
from thermoq.cli.stopping import Stopped
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from thermoq.calibration.file import Calibration

_LARGE_BYTES = 100_000_000  # from here on the summary says what makes the file smaller


def calibrate(
    output: Annotated[Path, typer.Option(help="The calibration file to write.")],
    model: Annotated[
        Path | None,
        typer.Option(help="The checkpoint directory: diffusers or transformers layout."),
    ] = None,
    samples: options.Samples = None,
    steps: options.Steps = None,
    bins: options.Bins = None,
    rows: options.Rows = None,
    seed: options.CalibrationSeed = None,
    guidance: options.Guidance = None,
    prompts: options.Prompts = None,
    data: options.Data = None,
    mix: options.Mix = None,
    length: options.Length = None,
    size: options.Size = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep finished batches in OUTPUT.partial; go on from there."),
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the calibration FILES of one model instead.")
    ] = False,
    files: Annotated[
        list[Path] | None, typer.Argument(help="With --merge: calibrations of the same model.")
    ] = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Run MODEL along its own trajectory and write what its layers see (needs the torch extra)."""
    partial = output.with_name(output.name + ".partial")
    warn_of_leftovers(output, partial)
    settings = {
        "samples": samples,
        "steps": steps,
        "bins": bins,
        "rows": rows,
        "guidance": guidance,
        "prompts": prompts,
        "data": data,
        "mix": mix,
        "length": length,
        "size": size,
    }
    if merge:
        given = [name for name, value in {"model": model, **settings}.items() if value is not None]
        if given:
            raise UsageError(f"--{given[0]}: expected no such flag with --merge")
        from thermoq.calibration.merge import merge as run_merge

        merged = run_merge(files or [], output, seed=seed or 0, replace=overwrite)
        if not quiet:
            _print(merged, output)
        return
    if files:
        raise UsageError(f"{files[0]}: expected no file without --merge")
    if model is None:
        raise UsageError("Missing option '--model'.")
    from thermoq.calibration.run import calibrate as run

    with _told_of(partial if resume else None), shown_steps(quiet) as progress:
        calibration = run(
            model,
            output,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
            **settings,
        )
    note = calibration.description.details.get("note")
    if note:
        warn(note)
    if not quiet:
        _print(calibration, output)


@contextmanager
def _told_of(partial: Path | None) -> Iterator[None]:
    """Have the line on a signal name the partial file, if the run leaves one."""
    try:
        yield
    except Stopped as stopped:
        if partial is not None and partial.exists():
            stopped.left = (
                f"{partial} has the finished batches, and the same command goes on from there"
            )
        raise


def _print(calibration: Calibration, output: Path) -> None:
    """Print what is in the file, a labelled line each."""
    from thermoq.report.wording import counted

    about = calibration.description
    layers = f"{counted(len(about.layers), 'layer')}, {counted(len(calibration.inputs), 'input')}"
    if about.not_reached:
        layers += f"; {len(about.not_reached)} never ran, such as {about.not_reached[0]}"
    sampled = f"{counted(about.num_samples, 'sample')}, {counted(about.steps, 'step')}"
    if about.guidance is not None:
        sampled += f", guidance {about.guidance:g}"
    if about.data_share:
        sampled += f", {about.data_share:.0%} of them data"
    bins = f"{counted(calibration.num_bins, 'time bin')}, {counted(about.rows_per_bin, 'row')} each"
    empty = len(calibration.empty_bins)
    if empty:
        bins += f"; {empty} empty, as no step came there: more --steps or fewer --bins fill them"
    nbytes = output.stat().st_size
    written = f"{output}, {megabytes(nbytes)}"
    if nbytes > _LARGE_BYTES:
        written += "; fewer --rows or --bins make it smaller"
    lines = [
        ("output", written),
        ("sampled", f"{sampled} ({about.sampler})"),
        ("layers", layers),
        ("bins", bins),
    ]
    for name, text in lines:
        typer.echo(f"{name:<11} {text}")
