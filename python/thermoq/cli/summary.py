"""The lines on stdout that sum up a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thermoq.cli.console import megabytes

if TYPE_CHECKING:
    from thermoq.report.model import Report


def print_summary(
    result: Report, output: Path, report: Path | None, html_report: Path | None
) -> None:
    """Print what became of a run, a labelled line each."""
    sizes = result.sizes
    lines = [
        ("output", f"{output}"),
        (
            "size",
            f"{megabytes(sizes.model_bytes)} from {megabytes(sizes.source_bytes)}: "
            f"{result.compression_ratio:.2f}x on disk "
            f"(nominal {result.nominal_compression_ratio:g}x), "
            f"{sizes.bits_per_weight_component:.2f} bits per weight",
        ),
    ]
    if result.cosine_similarity is not None and result.relative_squared_error is not None:
        lines.append(
            (
                "weights",
                f"cosine {result.cosine_similarity:.4f}, "
                f"relative squared error {result.relative_squared_error:.4f}",
            )
        )
    lines += _smoothness_lines(result)
    lines.append(("time", f"{result.provenance.times_s['total_s']:.2f} s"))
    for name, path in (("report", report), ("page", html_report)):
        if path is not None:
            lines.append((name, str(path)))
    for name, text in lines:
        typer.echo(f"{name:<11} {text}")


def _smoothness_lines(result: Report) -> list[tuple[str, str]]:
    if result.assessment is None:
        return [
            (
                "smoothness",
                "not measured; thermodynamic.validation.enabled: true or --validation measures it",
            )
        ]
    lines = []
    if result.smoothness_score is None:
        lines.append(("smoothness", "no layer has time parameters"))
    else:
        lines.append(
            (
                "smoothness",
                f"{result.smoothness_score:.4f} ({result.assessment.title}), "
                f"{result.violation_count} violations over {result.num_time_groups} time groups",
            )
        )
        lines.append(("parameters", f"{result.parameter_source} (a model, not a measurement)"))
    lines.append(("next", result.assessment.next_command))
    return lines
