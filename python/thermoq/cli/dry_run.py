"""What `thermoq quantize --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from thermoq.cli.console import (
    ONE_LINE_WIDTH,
    console_and_table,
    megabytes,
    shown_progress,
    warn,
)

if TYPE_CHECKING:
    from rich.table import Table

    from thermoq.report.plan import PlannedClass, QuantizationPlan


def show_plan(settings: dict[str, Any], *, quiet: bool, json: bool) -> None:
    """Print the plan of a run; nothing is written."""
    from thermoq.dry_run import plan_quantization

    with shown_progress(quiet) as progress:
        plan = plan_quantization(**settings, progress=progress)
    for warning in plan.warnings:
        warn(warning)
    if json:
        typer.echo(plan.model_dump_json(indent=2))
    elif not quiet:
        _print_classes(plan)
        _print_totals(plan)


def _print_classes(plan: QuantizationPlan) -> None:
    from thermoq.report.wording import counted

    console, table = console_and_table()
    typer.echo(f"{plan.model_name} by {plan.method}: the plan; nothing is written")
    if console.width >= ONE_LINE_WIDTH:
        console.print(_class_table(plan, table))
        return
    for row in plan.layer_classes:
        _, weights, nbytes, bits, error = _figures(row)
        of_error = "" if error == "-" else f", error {error}"
        typer.echo(row.layer_class)
        typer.echo(f"    {counted(row.num_tensors, 'tensor')}, {weights} weights")
        typer.echo(f"    {nbytes} bytes, {bits} bits/weight{of_error}")
        for scheme in _schemes(row):
            typer.echo(f"    {scheme}")


def _class_table(plan: QuantizationPlan, table: Table) -> Table:
    table.add_column("class", no_wrap=True)
    for heading in ("tensors", "weights"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stored as", overflow="fold")
    for heading in ("bytes", "bits/weight", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in plan.layer_classes:
        tensors, weights, *others = _figures(row)
        table.add_row(row.layer_class, tensors, weights, "\n".join(_schemes(row)), *others)
    return table


def _figures(row: PlannedClass) -> tuple[str, ...]:
    from thermoq.report.wording import significant

    error = row.relative_squared_error
    return (
        str(row.num_tensors),
        f"{row.num_weights:,}",
        f"{row.stored_bytes:,}",
        f"{row.bits_per_weight:.2f}",
        significant(error) if error is not None else "-",
    )


def _schemes(row: PlannedClass) -> list[str]:
    from thermoq.report.wording import scheme_text

    schemes = [f"{one.num_tensors} in {scheme_text(one)}" for one in row.schemes]
    return schemes or ["as they are"]


def _print_totals(plan: QuantizationPlan) -> None:
    from thermoq.report.wording import counted, significant

    limit = f" of at most {megabytes(plan.max_size_bytes)}" if plan.max_size_bytes else ""
    target = f" of at most {plan.target_bits:g}" if plan.target_bits else ""
    lines = [
        (
            "size",
            f"{plan.model_bytes:,} bytes{limit}, from {megabytes(plan.source_bytes)}: "
            f"{plan.compression_ratio:.2f}x",
        ),
        (
            "bits",
            f"{plan.bits_per_weight_quantized:.3f} per quantized weight{target}, "
            f"{plan.bits_per_weight_component:.3f} with all tensors",
        ),
    ]
    if plan.relative_squared_error is not None:
        error = significant(plan.relative_squared_error)
        lines.append(("error", f"relative squared error {error}, predicted"))
        if plan.prediction_note is not None:
            lines.append(("predicted", plan.prediction_note))
    rotated = sum(tensor.rotation is not None for tensor in plan.tensors)
    if rotated:
        quantized = sum(tensor.encoding is not None for tensor in plan.tensors)
        what = f"hadamard, of the inputs of {rotated} of {counted(quantized, 'quantized tensor')}"
        lines.append(("rotation", what))
    lines += _efforts(plan)
    for name, text in lines:
        typer.echo(f"{name:<11} {text}")


def _efforts(plan: QuantizationPlan) -> list[tuple[str, str]]:
    """Return what each effort of trellis costs, and the run by the one that was chosen."""
    from thermoq.report.wording import duration, significant

    if not plan.efforts:
        return []
    each = ", ".join(
        f"{row.effort}: {significant(row.minutes_per_billion_weights, 2)}" for row in plan.efforts
    )
    chosen = next(row for row in plan.efforts if row.is_chosen)
    seconds = 60 * chosen.minutes_per_billion_weights * plan.num_trellis_weights / 1e9
    besides = "hessian's matrix products and all else" if plan.method == "hessian" else "all else"
    return [
        ("effort", f"{each} minutes per billion weights here, as measured"),
        ("encoding", f"{duration(seconds)} with effort {chosen.effort}, {besides} aside"),
    ]
