"""The verdict on a run: its band, what it meets, and the exact next command to type.

Bands and expected ranges are those of the original specification, which speaks of Dream 7B at INT2.
Two dials are kept apart, because under the noise-schedule prior the smoothness score depends on the
time groups alone, and cosine similarity on the bits alone. Comparisons and sentences only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from thermoq.patterns import PHASE_2, PHASE_3
from thermoq.report.model import Assessment, Characteristic, Violation

Band = Literal["poor", "typical", "good", "excellent"]

PHASE_2_TARGET = 0.82
PHASE_3_TARGET = 0.90

_BAND_RANGES: dict[Band, str] = {
    "poor": "below 0.65",
    "typical": "0.65 to 0.70",
    "good": "0.70 to 0.78",
    "excellent": "above 0.78",
}
_PRIOR = "noise-schedule prior"
_MANY_GROUPS = 8  # the specification's advice for poor baselines: 8 to 15 time groups


@dataclass(frozen=True)
class Figures:
    """What was measured; names as in the report. The scores are None without time parameters."""

    smoothness_score: float | None
    boundary_scores: Sequence[float]
    min_boundary_score: float | None
    max_boundary_score: float | None
    mean_boundary_score: float | None
    std_boundary_score: float | None
    violations: Sequence[Violation]
    cosine_similarity: float | None
    parameter_source: str


@dataclass(frozen=True)
class Run:
    """What was typed, so that the next command can repeat it.

    `carried` are the words of all other flags that were given, to be repeated as they are: not the
    model, output, bit width, time groups or reports.
    """

    model: str
    output: str
    bit_width: int
    num_time_groups: int
    num_timesteps: int
    command: Literal["baseline", "quantize"] = "baseline"
    carried: tuple[str, ...] = ()
    writes_report: bool = False
    writes_html_report: bool = False


@dataclass(frozen=True)
class _Step:
    """The settings that the next run should have; None where this run should be used as it is."""

    bit_width: int | None = None
    num_time_groups: int | None = None


def band_of(score: float) -> Band:
    """Return the band of a smoothness score."""
    if score < 0.65:
        return "poor"
    if score < 0.70:
        return "typical"
    return "good" if score <= 0.78 else "excellent"


def assess(figures: Figures, run: Run) -> Assessment:
    """Return the verdict on a run, with causes, actions and the next command."""
    score = figures.smoothness_score
    if score is None:
        return _without_score(figures, run)
    band = band_of(score)
    step = _next_step(figures, run, band)
    single = run.num_time_groups == 1
    return Assessment(
        band=band,
        title="One time group, so nothing can jump" if single else f"{band.capitalize()} baseline",
        verdict=_verdict(figures, run, band),
        characteristics=_characteristics(figures, band, single),
        causes=_causes(figures, run, band),
        actions=_actions(figures, run, band, step),
        next_command=_command(run, step),
        phase_targets=_targets(score),
    )


def _without_score(figures: Figures, run: Run) -> Assessment:
    return Assessment(
        band=None,
        title="No smoothness score",
        verdict=(
            "No layer has time parameters: every quantized tensor is a table, or none is quantized."
        ),
        characteristics=_cosine(figures, "at least 0.70", 0.70),
        causes=["No tensor was recognised as a layer's weight, or `layers` rules skip them all."],
        actions=[
            "See which class each tensor was given and why.",
            "Give the layers that should be quantized a bit width under `layers:` in the "
            "configuration.",
        ],
        next_command=shlex.join(["thermoq", "inspect", run.model]),
        phase_targets=_targets(None),
    )


def _verdict(figures: Figures, run: Run, band: Band) -> str:
    score = figures.smoothness_score
    article = "an" if band == "excellent" else "a"
    if run.num_time_groups == 1:
        text = f"The smoothness score is {score:.4f} because a single time group has no boundary."
    else:
        text = (
            f"The smoothness score of {score:.4f} is that of {article} {band} baseline "
            f"({_BAND_RANGES[band]}); {len(figures.violations)} of "
            f"{run.num_time_groups - 1} boundaries exceed the threshold."
        )
    if figures.parameter_source == _PRIOR:
        text += " The activation parameters were modelled from the noise schedule, not measured."
    return text


# What was expected, and whether it holds.


def _characteristics(figures: Figures, band: Band, single: bool) -> list[Characteristic]:
    if single:
        return _cosine(figures, "at least 0.70", 0.70)
    return _of_band(figures, band) + _general(figures)


def _of_band(figures: Figures, band: Band) -> list[Characteristic]:
    """Hold a run against what the specification says of its band (typical: of the good one)."""
    scores, count = figures.boundary_scores, len(figures.violations)
    severities = [violation.severity for violation in figures.violations]
    high = severities.count("high")
    counted = f"{count}, {high} of them high" if count else "0"
    if band == "poor":
        low = sum(score < 0.50 for score in scores)
        cosine = figures.cosine_similarity
        rows = [
            ("violations", "4 or more, high among them", counted, count >= 4 and high > 0),
            ("boundary scores", "several below 0.50", f"{low} of {len(scores)}", low >= 2),
        ]
        if cosine is not None:
            rows.append(("cosine similarity", "below 0.70", f"{cosine:.4f}", cosine < 0.70))
        return [
            _row(f"Sign of a poor baseline: {name}", expected, actual, present)
            for name, expected, actual, present in rows
        ]
    if band == "excellent":
        above = sum(score > 0.70 for score in scores)
        only_low = count <= 1 and set(severities) <= {"low"}
        return [
            _row("Violations", "0 or 1, of low severity", counted, only_low),
            _row("Boundary scores", "all above 0.70", f"{above} of {len(scores)}",
                 above == len(scores)),
            *_cosine(figures, "above 0.75", 0.75),
        ]  # fmt: skip
    above = sum(score > 0.60 for score in scores)
    mild = count <= 3 and 2 * high <= count
    return [
        _row("Violations", "0 to 3, mostly low or medium", counted, mild),
        _row("Boundary scores", "mostly above 0.60", f"{above} of {len(scores)}",
             2 * above > len(scores)),
        *_cosine(figures, "at least 0.70", 0.70),
    ]  # fmt: skip


def _general(figures: Figures) -> list[Characteristic]:
    """Hold a run against the ranges that the specification expects of any baseline."""
    ranges = (
        ("Smoothness score", figures.smoothness_score, 0.65, 0.78),
        ("Lowest boundary score", figures.min_boundary_score, 0.40, 0.60),
        ("Highest boundary score", figures.max_boundary_score, 0.95, 1.00),
        ("Mean boundary score", figures.mean_boundary_score, 0.70, 0.80),
        ("Standard deviation of boundary scores", figures.std_boundary_score, 0.10, 0.20),
    )
    rows = []
    for name, value, low, high in ranges:
        if value is not None:
            side = " (below)" if value < low else " (above)" if value > high else ""
            rows.append(_row(name, f"{low:.2f} to {high:.2f}", f"{value:.4f}{side}", not side))
    count = len(figures.violations)
    rows.append(_row("Violation count", "0 to 5, typically 1 to 3", str(count), count <= 5))
    return rows


def _cosine(figures: Figures, expected: str, limit: float) -> list[Characteristic]:
    value = figures.cosine_similarity
    if value is None:
        return []
    met = value > limit if expected.startswith("above") else value >= limit
    return [_row("Cosine similarity", expected, f"{value:.4f}", met)]


def _targets(score: float | None) -> list[Characteristic]:
    actual = "none" if score is None else f"{score:.4f}"
    return [
        _row(name, f"{target:.2f} or more", actual, score is not None and score >= target)
        for name, target in (
            ("Phase 2 target", PHASE_2_TARGET),
            ("Phase 3 target", PHASE_3_TARGET),
        )
    ]


def _row(name: str, expected: str, actual: str, met: bool) -> Characteristic:
    return Characteristic(name=name, expected=expected, actual=actual, met=met)


# Why, and what next.


def _causes(figures: Figures, run: Run, band: Band) -> list[str]:
    causes = []
    if band == "poor":
        if run.num_time_groups < _MANY_GROUPS:
            causes.append(
                f"{run.num_time_groups} time groups are few: each spans a large part of the "
                "trajectory, so neighbours differ much."
            )
        causes.append(
            "Layers whose gain lies in few directions (a large spectral concentration in the table "
            "of layers) change most between noise and clean data; a model made of such layers "
            "suits time-aware quantization less."
        )
    if _cosine_is_low(figures, band):
        causes.append(
            f"{run.bit_width}-bit codes chosen without calibration keep little of the weights' "
            "direction. This lowers cosine similarity; the smoothness score does not depend on it."
        )
    return causes


def _cosine_is_low(figures: Figures, band: Band) -> bool:
    value = figures.cosine_similarity
    return value is not None and (value <= 0.75 if band == "excellent" else value < 0.70)


def _next_step(figures: Figures, run: Run, band: Band) -> _Step:
    """Turn the dial of each figure that falls short, or none."""
    groups = bits = None
    if run.num_time_groups == 1:
        groups = min(4, run.num_timesteps)
    elif band != "excellent":
        groups = min(2 * run.num_time_groups, run.num_timesteps)
    if _cosine_is_low(figures, band) and (run.bit_width == 2 or _could_be_q8(run)):
        bits = 2 * run.bit_width
    return _Step(bits, groups if groups != run.num_time_groups else None)


def _could_be_q8(run: Run) -> bool:
    """Tell whether 8 bits would be accepted: q8 has its own group size and encoding."""
    return run.bit_width == 4 and not {"--config", "--group-size", "--encoding"} & {*run.carried}


def _actions(figures: Figures, run: Run, band: Band, step: _Step) -> list[str]:
    actions = []
    if figures.parameter_source == _PRIOR:
        actions.append(
            "Read the score as an estimate and compare settings with it. Calibration, which "
            "measures activations along the trajectory, is not in this version."
        )
    if step.num_time_groups is not None:
        actions.append(
            f"Raise the time groups from {run.num_time_groups} to {step.num_time_groups}: smaller "
            "steps between neighbours raise the smoothness score."
            if run.num_time_groups > 1
            else f"Use {step.num_time_groups} time groups to see how the parameters move."
        )
    if step.bit_width is not None:
        actions.append(
            f"Try INT{step.bit_width} instead of INT{run.bit_width}: cosine similarity and error "
            "improve, the smoothness score stays."
        )
    if band == "poor":
        actions.append(f"The specification sends poor baselines straight to {PHASE_3}.")
    elif figures.smoothness_score is not None and figures.smoothness_score < PHASE_2_TARGET:
        actions.append(f"Keep this report: {PHASE_2} will be held against it.")
    if step == _Step():
        actions.append("Export the dense weights and try them in the model's own pipeline.")
    return actions


def _command(run: Run, step: _Step) -> str:
    if step == _Step():
        return shlex.join(["thermoq", "export", run.output, f"{_stem(run.output)}-dense"])
    bits = step.bit_width or run.bit_width
    groups = step.num_time_groups or run.num_time_groups
    output = f"{_stem(run.output)}-int{bits}-g{groups}"
    words = ["thermoq", run.command, "--model", run.model, "--output", output]
    words += ["--bit-width", str(bits), "--num-time-groups", str(groups)]
    words += run.carried
    words += ["--report", f"{output}.json"] if run.writes_report else []
    words += ["--html-report", f"{output}.html"] if run.writes_html_report else []
    return shlex.join(words)


def _stem(output: str) -> str:
    """Return the output's path without the ending that an earlier advice gave it."""
    path = PurePath(output)
    if not path.name:  # "." or "/": something inside it
        return str(path / "thermoq")
    return str(path.with_name(re.sub(r"-int[248]-g\d+$", "", path.name)))
