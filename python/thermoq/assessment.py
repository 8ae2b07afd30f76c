"""The verdict on a run, in words: what was expected of it, why it came out so, and what next."""

from __future__ import annotations

import shlex

from thermoq.advice import actions_for, causes_of, next_step
from thermoq.expectations import (
    BAND_RANGES,
    Band,
    Figures,
    band_of,
    characteristics,
    cosine_rows,
    targets,
)
from thermoq.next_commands import Run, calibrate_command, calibrated_command, next_command
from thermoq.report.model import Assessment
from thermoq.report.wording import counted, significant

_BOUNDARIES = ("boundary", "boundaries")


def assess(figures: Figures, run: Run) -> Assessment:
    """Return the verdict on a run, with causes, actions and the next command."""
    score = figures.smoothness_score
    if score is None:
        return _without_score(figures, run)
    band = band_of(score)
    step = next_step(figures, run, band)
    single = run.num_time_groups == 1
    return Assessment(
        band=band,
        title="One time group, so nothing can jump" if single else _title(figures, band),
        verdict=_verdict(figures, run, band),
        characteristics=characteristics(figures, band, single),
        causes=causes_of(figures, run, band),
        actions=actions_for(figures, run, band, step),
        next_command=calibrate_command(run) if figures.is_prior else next_command(run, step),
        then_command=calibrated_command(run) if figures.is_prior else None,
        phase_targets=targets(None if single else score),
    )


def _without_score(figures: Figures, run: Run) -> Assessment:
    return Assessment(
        band=None,
        title="No smoothness score",
        verdict=(
            "No layer has time parameters: every quantized tensor is a table, or none is quantized."
        ),
        characteristics=cosine_rows(figures, "at least 0.70", 0.70),
        causes=["No tensor was recognised as a layer's weight, or `layers` rules skip them all."],
        actions=[
            "See which class each tensor was given and why.",
            "Give the layers that should be quantized a bit width under `layers:` in the "
            "configuration.",
        ],
        next_command=shlex.join(["thermoq", "inspect", run.model]),
        phase_targets=targets(None),
    )


def _title(figures: Figures, band: Band) -> str:
    if figures.phase == "baseline":
        return f"Smoothness: {band}"
    name = "Phase 2" if figures.phase == "smooth" else "Phase 3"
    return f"Smoothness: {band}, {name}'s target {'met' if figures.meets_target else 'missed'}"


def _made(figures: Figures) -> str:
    if figures.phase == "optimize":
        return "fitted to what was measured along the trajectory"
    return "measured along the trajectory"


def _before(figures: Figures) -> str:
    return "" if figures.score_before is None else f" (Phase 1: {figures.score_before:.4f})"


def _verdict(figures: Figures, run: Run, band: Band) -> str:
    score = figures.smoothness_score
    if run.num_time_groups == 1:
        text = f"The smoothness score is {score:.4f} because a single time group has no boundary."
    else:
        text = (
            f"The smoothness score of {score:.4f}{_before(figures)} lies in the band {band} "
            f"({BAND_RANGES[band]}); "
            f"{len(figures.violations)} of {counted(run.num_time_groups - 1, *_BOUNDARIES)} "
            f"{'exceeds' if len(figures.violations) == 1 else 'exceed'} the threshold."
        )
    if figures.is_prior:
        text += " The activation parameters were modelled from the noise schedule, not measured."
    else:
        text += f" The activation parameters were {_made(figures)}."
    text += " The score says nothing about the quantized weights"
    if figures.relative_squared_error is None:
        return f"{text}."
    return f"{text}: their relative squared error is {significant(figures.relative_squared_error)}."
