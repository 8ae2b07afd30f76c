"""Compare quantized models: the phases' table with their own figures, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thermoq.build import version
from thermoq.comparison.conditions import conditions_apart
from thermoq.comparison.equalities import equalities
from thermoq.comparison.rows import rows
from thermoq.comparison.sources import Source, read_sources
from thermoq.comparison.summary import notes_on, summary_of
from thermoq.errors import InputError
from thermoq.pipeline import ReportPaths
from thermoq.report.comparison_model import (
    Comparison,
    TrajectoryPart,
    Variant,
    VariantSizes,
)
from thermoq.report.evaluation_model import Evaluation
from thermoq.report.wording import timestep


def compare(
    sources: Sequence[Path | str],
    *,
    allow_different_models: bool = False,
    html_report: Path | str | None = None,
) -> Comparison:
    """Hold reports against the first of them; each is a JSON report or a quantized directory.

    `html_report` names a page to write. Where evaluations lack, rows say what measures them.

    Raises UsageError for fewer than two sources; InputError for what is no report, for reports of
    several format versions or, unless allowed, of different models, and for a page that cannot be
    written.
    """
    found = read_sources(sources)
    page = None if html_report is None else Path(html_report)
    ReportPaths(html=page).check(*(one.path for one in found))
    compared = compare_sources(found, allow_different_models=allow_different_models)
    if page is not None:
        from thermoq.report.comparison_page import write_comparison_page

        write_comparison_page(compared, page)
    return compared


def compare_sources(
    sources: Sequence[Source],
    *,
    allow_different_models: bool = False,
    notes: Sequence[str] = (),
) -> Comparison:
    """Hold sources against the first of them; `notes` come first. Raises as `compare` does."""
    if not allow_different_models:
        _check_same_model(sources)
    table = list(rows(sources))
    return Comparison(
        thermoq_version=version(),
        variants=[_variant(one, sources) for one in sources],
        rows=table,
        equalities=list(equalities(sources)),
        parts_title=_parts_title(sources),
        summary=summary_of(table, [one.label for one in sources]),
        notes=[*notes, *notes_on(sources, table)],
        confidence=next((one.evaluation.confidence for one in sources if one.evaluation), None),
    )


def _check_same_model(sources: Sequence[Source]) -> None:
    first = sources[0]
    for other in sources[1:]:
        if other.fingerprint != first.fingerprint:
            raise InputError(
                f"{other.path}: expected a report on the model of {first.path} "
                f"({first.report.model_name}, {first.fingerprint}), got one on "
                f"{other.report.model_name} ({other.fingerprint}); --allow-different-models "
                "compares them"
            )


def _variant(source: Source, sources: Sequence[Source]) -> Variant:
    report, sizes = source.report, source.report.sizes
    boundaries = report.thermodynamics.boundaries if report.thermodynamics else []
    scores = report.smoothness_score is not None
    return Variant(
        label=source.label,
        source=str(source.path),
        model_name=report.model_name,
        phase=report.phase,
        method=report.method,
        encoding=report.encoding,
        bit_width=report.bit_width,
        num_time_groups=report.num_time_groups,
        num_timesteps=report.thermodynamics.num_timesteps if report.thermodynamics else None,
        parameter_source=report.parameter_source,
        evaluation=_evaluation_words(source),
        boundary_timesteps=[row.timestep for row in boundaries if scores],
        boundary_scores=[row.score for row in boundaries if scores],
        parts=_parts(source, sources),
        sizes=VariantSizes(
            weight_bytes=sizes.quantized_bytes
            + sizes.output_correction_bytes
            - sizes.time_parameter_bytes,
            time_parameter_bytes=sizes.time_parameter_bytes,
            copied_bytes=sizes.copied_bytes,
            header_bytes=sizes.header_bytes,
            model_bytes=sizes.model_bytes,
        ),
    )


def _evaluation_words(source: Source) -> str:
    if source.shipped is not None:
        return source.shipped
    if source.evaluation is None:
        return source.evaluation_note or "none"
    evaluation = source.evaluation
    return (
        f"measured on {evaluation.num_samples} samples in {evaluation.steps} steps, "
        f"seed {evaluation.seed}"
    )


def _side_by_side(sources: Sequence[Source]) -> list[Evaluation]:
    """Return the evaluations that may be compared with the first there is."""
    found = [one.evaluation for one in sources if one.evaluation is not None]
    return [one for one in found if conditions_apart(found[0], one) is None]


def _same_groups(sources: Sequence[Source]) -> bool:
    """Tell whether evaluations side by side have the same time groups."""
    starts = {
        tuple(row.start_timestep for row in one.denoiser.time_groups)
        for one in _side_by_side(sources)
        if one.denoiser
    }
    return len(starts) == 1


def _parts_title(sources: Sequence[Source]) -> str:
    if any(one.language for one in _side_by_side(sources)):
        return "KL to full precision by mask ratio"
    where = "time group" if _same_groups(sources) else "quarter of the trajectory"
    return f"Output error by {where}"


def _parts(source: Source, sources: Sequence[Source]) -> list[TrajectoryPart]:
    evaluation = source.evaluation
    if evaluation is None or all(one is not evaluation for one in _side_by_side(sources)):
        return []
    if evaluation.language is not None:
        return [
            TrajectoryPart(label=f"{row.mask_ratio or 0.0:.0%}", error=row.divergence)
            for row in evaluation.language.mask_ratios
        ]
    assert evaluation.denoiser is not None
    of = evaluation.denoiser
    return [
        TrajectoryPart(
            label=f"t {timestep(row.start_timestep)} to {timestep(row.end_timestep)}",
            error=row.output_error,
        )
        for row in (of.time_groups if _same_groups(sources) else of.quarters)
    ]
