"""What `thermoq inspect` prints of a calibration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thermoq.cli.console import megabytes, one_line, print_json

if TYPE_CHECKING:
    from thermoq.calibration_inspection import CalibrationInspection


def show_calibration(path: Path, *, json: bool) -> None:
    """Print a calibration file's summary, a labelled line each."""
    from thermoq.calibration_inspection import inspect_calibration

    found = inspect_calibration(path)
    if json:
        print_json(found)
        return
    writer, size = f"thermoq {found.thermoq_version}", megabytes(found.nbytes)
    typer.echo(one_line(f"{path}: a calibration by {writer}, {size}"))
    for name, text in _lines(found):
        typer.echo(f"{name:<11} {one_line(text)}")


def _lines(found: CalibrationInspection) -> list[tuple[str, str]]:
    from thermoq.report.wording import counted

    lines = [
        ("model", " ".join(filter(None, (name, part["architecture"], part["fingerprint"]))))
        for name, part in found.components.items()
    ]
    inputs = f"{counted(found.num_layers, 'layer')} with {counted(found.num_inputs, 'input')}"
    not_reached = f"; not reached: {', '.join(found.not_reached)}" if found.not_reached else ""
    sampler = f"{found.sampler}, {counted(found.num_samples, 'sample')} in "
    sampler += f"{counted(found.steps, 'step')}, seed {found.seed}"
    if found.guidance is not None:
        sampler += f", guidance {found.guidance:g}"
    if found.data_share > 0:
        sampler += f", {found.data_share:.0%} of the samples from given data"
    lines += [
        ("layers", inputs + not_reached),
        (
            "schedule",
            f"{found.schedule_kind}, {counted(found.num_timesteps, 'timestep')} in "
            f"{counted(found.num_bins, 'bin')}",
        ),
        ("sampler", sampler),
        (
            "rows",
            f"{found.num_rows:,} kept, at most {found.rows_per_bin} of an input in each bin",
        ),
        ("fingerprint", found.fingerprint),
    ]
    if found.details:
        told = ", ".join(f"{key} {value}" for key, value in found.details.items())
        lines.append(("details", told))
    return lines
