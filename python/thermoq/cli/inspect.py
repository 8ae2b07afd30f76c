"""`thermoq inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermoq.cli import options
from thermoq.cli.console import ONE_LINE_WIDTH, console_and_table, megabytes, print_json, warn
from thermoq.cli.inspect_calibration import show_calibration

if TYPE_CHECKING:
    from rich.table import Table

    from thermoq.inspection import InspectedTensor, InspectedTrajectory, Inspection


def inspect(
    directory: Annotated[
        Path, typer.Argument(help="A checkpoint, quantized or not, or a calibration file.")
    ],
    method: options.Method = None,
    bit_width: options.BitWidth = None,
    encoding: options.Encoding = None,
    group_size: options.GroupSize = None,
    super_block: options.SuperBlock = None,
    scale_bits: options.ScaleBits = None,
    minimum_bits: options.MinimumBits = None,
    effort: options.Effort = None,
    rotation: options.Rotation = None,
    config: options.Config = None,
    component: options.Component = None,
    json: options.Json = False,
) -> None:
    """List a checkpoint's tensors: classes, bits, sizes; of another's, what `quantize` would do.

    Of a calibration file: what it is of, and how it came to be.
    """
    from thermoq.calibration_inspection import is_calibration
    from thermoq.inspection import inspect as run

    if is_calibration(directory):
        show_calibration(directory, json=json)
        return
    found = run(
        directory,
        config=config,
        method=method,
        bit_width=bit_width,
        encoding=encoding,
        group_size=group_size,
        super_block=super_block,
        scale_bits=scale_bits,
        minimum_bits=minimum_bits,
        effort=effort,
        rotation=rotation,
        components=component,
    )
    for note in found.notes:
        warn(note)
    if json:
        print_json(found)
    else:
        _print_tables(found)


def _print_tables(found: Inspection) -> None:
    console, tensors = console_and_table()
    _, classes = console_and_table()
    state = "quantized by thermoq" if found.quantized else "not quantized; the plan is shown"
    typer.echo(f"{found.name} ({found.layout} layout, {state})")
    for trajectory in found.trajectories:
        typer.echo(_trajectory_text(trajectory))
    if console.width < ONE_LINE_WIDTH:
        _print_two_lines_each(found)
    else:
        console.print(_tensor_table(found, tensors))
    console.print(_class_table(found, classes))


def _trajectory_text(found: InspectedTrajectory) -> str:
    """Return what of a component varies along the trajectory, in a line."""
    from thermoq.report.wording import counted

    facts = [f"phase {found.phase}", counted(found.num_time_groups, "time group")]
    if found.interpolation is not None:
        low, high = min(found.windows), max(found.windows)
        window = f"{high:g}" if low == high else f"{low:g} to {high:g}"
        facts.append(f"{found.interpolation} within {window} timesteps of boundaries")
    if found.num_activations:
        usual = found.num_activations - sum(found.other_activations.values())
        by_bits = [(found.activation_bits, usual), *sorted(found.other_activations.items())]
        facts += [
            f"{bits}-bit activations of {counted(num_layers, 'layer')}"
            for bits, num_layers in by_bits
            if num_layers
        ]
    if found.num_pooled or found.num_per_time_group:
        facts.append(
            f"row gains and biases of {counted(found.num_pooled, 'layer')} (pooled) and of "
            f"{found.num_per_time_group} (per time group)"
        )
    if found.correction is not None:
        bins = counted(found.correction_bins, "bin")
        facts.append(f"output correction by {found.correction} in {bins}")
    facts.append(f"{found.time_bytes:,} bytes of time parameters")
    name = f"{found.component}: " if found.component else ""
    return f"{name}{', '.join(facts)}"


def _print_two_lines_each(found: Inspection) -> None:
    rows = [_figures(tensor) for tensor in found.tensors]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for tensor, row in zip(found.tensors, rows, strict=True):
        typer.echo(_full_name(tensor))
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo(f"    {'  '.join(cells).rstrip()}")


def _tensor_table(found: Inspection, table: Table) -> Table:
    table.add_column("tensor", overflow="fold")
    for heading in ("shape", "dtype", "class"):
        table.add_column(heading)
    for heading in ("bits/weight", "bytes"):
        table.add_column(heading, justify="right")
    table.add_column("encoding")
    for tensor in found.tensors:
        table.add_row(_full_name(tensor), *_figures(tensor))
    return table


def _full_name(tensor: InspectedTensor) -> str:
    return f"{tensor.component}/{tensor.name}" if tensor.component else tensor.name


def _figures(tensor: InspectedTensor) -> tuple[str, ...]:
    return (
        "x".join(map(str, tensor.shape)) or "scalar",
        tensor.dtype,
        tensor.layer_class or "-",
        f"{tensor.bits_per_weight:.2f}",
        f"{tensor.stored_bytes:,}",
        _encoding(tensor),
    )


def _encoding(tensor: InspectedTensor) -> str:
    if tensor.same_as:
        return f"same as {tensor.same_as}"
    if tensor.bit_width is None:
        return f"copied: {tensor.reason}"
    rotated = f", {tensor.rotation}" if tensor.rotation else ""
    return f"{tensor.encoding} {tensor.bit_width}{rotated}"


def _class_table(found: Inspection, table: Table) -> Table:
    table.add_column("class")
    for heading in ("tensors", "weights", "source", "stored", "bits/weight"):
        table.add_column(heading, justify="right")
    for row in found.class_totals():
        table.add_row(
            row.layer_class,
            str(row.num_tensors),
            f"{row.num_weights:,}",
            megabytes(row.source_bytes),
            megabytes(row.stored_bytes),
            f"{row.bits_per_weight:.2f}",
        )
    return table
