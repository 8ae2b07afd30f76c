"""What was equal of the settings that the phases have of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thermoq.report.comparison_model import Equality
from thermoq.report.model import Report
from thermoq.report.optimization_model import OptimizationSummary
from thermoq.report.optimization_wording import CHOICE_WORDS, correction_text, sequential_text
from thermoq.report.wording import counted, timestep
from thermoq.terms import RowChoice

_NONE = "none"
_NOT_NOTED = "not noted without validation"


def phase_settings(reports: Sequence[Report]) -> Iterator[Equality]:
    """Yield a line for each setting along the trajectory; Phases 2 and 3 where a report has them.

    A run without a phase has `none` of its settings.
    """
    yield equality("Time groups", [str(report.num_time_groups) for report in reports])
    yield _as_known("Starts of time groups", [_starts(report) for report in reports])
    if any(report.phase != "baseline" for report in reports):
        yield _as_known("Interpolation", [_interpolation(report) for report in reports])
        yield _as_known("Windows", [_windows(report) for report in reports])
    if any(report.optimization is not None for report in reports):
        yield from _optimization(reports)


def equality(name: str, values: Sequence[str]) -> Equality:
    """Return a line of values that are all known; one is left of those that are equal."""
    equal = len(set(values)) == 1
    return Equality(name=name, equal=equal, values=list(values[:1] if equal else values))


def _as_known(name: str, values: Sequence[str | None]) -> Equality:
    """Return a line of values of which some may be unknown."""
    if all(value is not None for value in values):
        return equality(name, [value or "" for value in values])
    return Equality(name=name, equal=None, values=[value or _NOT_NOTED for value in values])


def _starts(report: Report) -> str | None:
    """Return the noisiest timestep of each time group."""
    if report.thermodynamics is None:
        return None
    return ", ".join(timestep(row.start_timestep) for row in report.thermodynamics.time_groups)


def _interpolation(report: Report) -> str | None:
    if report.phase == "baseline":
        return _NONE
    if report.thermodynamics is None:
        smoothing = _asked(report, "smoothing")
        return str(smoothing.get("interpolation")) if smoothing.get("enabled") else None
    smoothed = report.thermodynamics.smoothing
    return _NONE if smoothed is None else smoothed.interpolation


def _windows(report: Report) -> str | None:
    """Return half widths in timesteps, one a boundary."""
    if report.phase == "baseline":
        return _NONE
    if report.thermodynamics is None:
        return None
    smoothed = report.thermodynamics.smoothing
    widths = [f"{window:g}" for window in smoothed.windows] if smoothed else []
    if len(set(widths)) == 1:
        return f"{widths[0]} timesteps at {counted(len(widths), 'boundary', 'boundaries')}"
    return f"{', '.join(widths)} timesteps" if widths else _NONE


def _optimization(reports: Sequence[Report]) -> Iterator[Equality]:
    for name, text in (
        ("Gain estimator", _estimator),
        ("Coupling", _coupling),
        ("Row choice", _row_choice),
        ("Clip search", _clip_search),
        ("Sequential", _sequential),
        ("Output correction", _output_correction),
    ):
        yield equality(
            name,
            [_NONE if one.optimization is None else text(one, one.optimization) for one in reports],
        )


def _estimator(report: Report, found: OptimizationSummary) -> str:
    return found.gain_estimator


def _coupling(report: Report, found: OptimizationSummary) -> str:
    return f"{found.coupling:g}"


def _row_choice(report: Report, found: OptimizationSummary) -> str:
    asked: RowChoice | None = _asked(report, "optimization").get("row_choice")
    return "by layer" if asked is None else f"{CHOICE_WORDS[asked]} in every layer"


def _clip_search(report: Report, found: OptimizationSummary) -> str:
    asked = _asked(report, "optimization").get("clip_search")
    if asked is None:
        return "of inputs with less than 8 bits"
    return "of all inputs" if asked else _NONE


def _sequential(report: Report, found: OptimizationSummary) -> str:
    return _NONE if found.sequential is None else sequential_text(found.sequential)


def _output_correction(report: Report, found: OptimizationSummary) -> str:
    return "; ".join(correction_text(one) for one in found.output_corrections) or _NONE


def _asked(report: Report, part: str) -> dict[str, Any]:
    """Return the settings of a phase as the run was given them."""
    found: dict[str, Any] = report.settings.get("thermodynamic", {}).get(part, {})
    return found
