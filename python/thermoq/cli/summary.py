"""The lines on stdout that sum up a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thermoq.cli.console import megabytes

if TYPE_CHECKING:
    from thermoq.report.model import BudgetResult, Report
    from thermoq.report.thermodynamics_model import Thermodynamics


def print_summary(
    result: Report, output: Path, report: Path | None, html_report: Path | None
) -> None:
    """Print what became of a run, a labelled line each."""
    from thermoq.report.wording import close_to_one, significant

    sizes = result.sizes
    lines = [
        ("output", f"{output}"),
        (
            "size",
            f"{megabytes(sizes.model_bytes)} from {megabytes(sizes.source_bytes)}: "
            f"{result.compression_ratio:.2f}x on disk "
            f"(nominal {result.nominal_compression_ratio:g}x), "
            f"{sizes.bits_per_weight_quantized:.2f} bits per weight, "
            f"{sizes.bits_per_weight_component:.2f} with all tensors",
        ),
    ]
    if result.cosine_similarity is not None and result.relative_squared_error is not None:
        lines.append(
            (
                "weights",
                f"cosine {close_to_one(result.cosine_similarity)}, "
                f"relative squared error {significant(result.relative_squared_error)}",
            )
        )
    if result.output_cosine_similarity is not None:
        cosine = close_to_one(result.output_cosine_similarity)
        what = f"cosine {cosine} of layer outputs with the codes alone, on the calibration's rows"
        lines.append(("outputs", what))
    if result.budget is not None:
        lines.append(("budget", _budget_text(result.budget)))
    lines += _optimization_lines(result)
    lines += _smoothness_lines(result)
    lines.append(("time", f"{result.provenance.times_s['total_s']:.2f} s"))
    for name, path in (("report", report), ("page", html_report)):
        if path is not None:
            lines.append((name, str(path)))
    for name, text in lines:
        typer.echo(f"{name:<11} {text}")


def _budget_text(budget: BudgetResult) -> str:
    from thermoq.report.wording import budget_text, significant

    error = significant(budget.predicted_relative_squared_error)
    note = f" ({budget.prediction_note})" if budget.prediction_note else ""
    return f"{budget_text(budget)}; predicted relative squared error {error}{note}"


def _optimization_lines(result: Report) -> list[tuple[str, str]]:
    from thermoq.report.optimization_wording import choices_text, correction_text, time_bytes_text

    found = result.optimization
    if found is None:
        return []
    lines = [
        ("rows", f"{choices_text(found)}; {time_bytes_text(result.sizes)} are time parameters")
    ]
    lines += [("correction", correction_text(one)) for one in found.output_corrections]
    return lines


def _before(thermodynamics: Thermodynamics) -> str:
    from thermoq.report.wording import before_text

    return "" if thermodynamics.before is None else f"; {before_text(thermodynamics.before)}"


def _smoothness_lines(result: Report) -> list[tuple[str, str]]:
    from thermoq.report.wording import counted, source_text

    if result.assessment is None or result.thermodynamics is None:
        return [
            (
                "smoothness",
                "not examined; thermodynamic.validation.enabled: true or --validation does it",
            )
        ]
    lines = []
    if result.smoothness_score is None:
        lines.append(("smoothness", "no layer has time parameters"))
    else:
        band = result.assessment.band if result.num_time_groups > 1 else "nothing can jump"
        lines.append(
            (
                "smoothness",
                f"{result.smoothness_score:.4f} ({band}), "
                f"{counted(result.violation_count or 0, 'violation')} over "
                f"{counted(result.num_time_groups, 'time group')}{_before(result.thermodynamics)}",
            )
        )
        source = source_text(result.parameter_source)
        lines.append(("parameters", f"{source}; {result.thermodynamics.schedule}"))
    lines.append(("next", result.assessment.next_command))
    if result.assessment.then_command is not None:
        lines.append(("then", result.assessment.then_command))
    return lines
