"""The verdict on a run: its band, what it meets, and the exact next command to type.

Bands and expected ranges are those of the original specification, which speaks of Dream 7B at INT2.
Two dials are kept apart, because under the noise-schedule prior the smoothness score depends on the
time groups alone, and the weights' cosine similarity and error on the bits alone. Before either is
turned, the prior's place is to be taken by a calibration. Comparisons and sentences only.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from thermoq.calibration.file import DEFAULT_NUM_BINS
from thermoq.patterns import PHASE_2, PHASE_3
from thermoq.report.model import Assessment, Characteristic, Violation
from thermoq.report.wording import close_to_one, counted, significant
from thermoq.terms import Method, Severity

Band = Literal["poor", "typical", "good", "excellent"]
Side = Literal["above", "below"]

PHASE_2_TARGET = 0.82
PHASE_3_TARGET = 0.90

_BAND_RANGES: dict[Band, str] = {
    "poor": "below 0.65",
    "typical": "0.65 to 0.70",
    "good": "0.70 to 0.78",
    "excellent": "above 0.78",
}
_PRIOR = "noise-schedule prior"
_SPECIFICATION = "thermoq's original specification"
_LARGE_ERROR = 0.05  # of the weights, relative and squared; ours, the specification names none
_BOUNDARIES = ("boundary", "boundaries")
_NOT_WITH_Q8 = {
    *("--config", "--group-size", "--encoding", "--super-block", "--scale-bits", "--minimum-bits")
}
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
    relative_squared_error: float | None = None


@dataclass(frozen=True)
class Run:
    """What was typed, so that the next command can repeat it.

    `carried` are the words of all other flags that were given, to be repeated as they are: not the
    model, output, bit width, time groups or reports. `lsq_fits` tells whether they would be
    accepted with the method lsq. With a size budget, which is carried, `bit_width` is what most of
    the body got. `most_time_groups` are the model's timesteps, or the calibration's bins.
    """

    model: str
    output: str
    bit_width: int
    num_time_groups: int
    most_time_groups: int
    method: Method = "lsq"
    lsq_fits: bool = True
    has_budget: bool = False
    command: Literal["baseline", "quantize"] = "baseline"
    carried: tuple[str, ...] = ()
    writes_report: bool = False
    writes_html_report: bool = False


@dataclass(frozen=True)
class _Step:
    """The settings that the next run should have; None where this run should be used as it is."""

    bit_width: int | None = None
    num_time_groups: int | None = None
    method: Method | None = None


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
    is_prior = figures.parameter_source == _PRIOR
    return Assessment(
        band=band,
        title="One time group, so nothing can jump" if single else f"Smoothness: {band}",
        verdict=_verdict(figures, run, band),
        characteristics=_characteristics(figures, band, single),
        causes=_causes(figures, run, band),
        actions=_actions(figures, run, band, step),
        next_command=_calibrate(run) if is_prior else _command(run, step),
        then_command=_calibrated(run) if is_prior else None,
        phase_targets=_targets(None if single else score),
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
    if run.num_time_groups == 1:
        text = f"The smoothness score is {score:.4f} because a single time group has no boundary."
    else:
        text = (
            f"The smoothness score of {score:.4f} lies in the band {band} ({_BAND_RANGES[band]}); "
            f"{len(figures.violations)} of {counted(run.num_time_groups - 1, *_BOUNDARIES)} "
            f"{'exceeds' if len(figures.violations) == 1 else 'exceed'} the threshold."
        )
    if figures.parameter_source == _PRIOR:
        text += " The activation parameters were modelled from the noise schedule, not measured."
    else:
        text += " The activation parameters were measured along the trajectory."
    text += " The score says nothing about the quantized weights"
    if figures.relative_squared_error is None:
        return f"{text}."
    return f"{text}: their relative squared error is {significant(figures.relative_squared_error)}."


# What was expected, and whether it holds.


def _characteristics(figures: Figures, band: Band, single: bool) -> list[Characteristic]:
    if single:
        return _cosine(figures, "at least 0.70", 0.70)
    return _of_band(figures, band) + _general(figures)


def _of_band(figures: Figures, band: Band) -> list[Characteristic]:
    """Hold a run against what the specification says of its band (typical: of the good one)."""
    scores, count = figures.boundary_scores, len(figures.violations)
    severities = [violation.severity for violation in figures.violations]
    if band == "poor":
        return _signs_of_poor(figures, severities)
    if band == "excellent":
        above = sum(score > 0.70 for score in scores)
        only_low = count <= 1 and set(severities) <= {"low"}
        return [
            _row("Violations in an excellent baseline", "0 or 1, of low severity",
                 _counts(severities), only_low),
            _row("Boundary scores", "all above 0.70", f"{above} of {len(scores)}",
                 above == len(scores)),
            *_cosine(figures, "above 0.75", 0.75),
        ]  # fmt: skip
    above = sum(score > 0.60 for score in scores)
    mild = count <= 3 and (count == 0 or 2 * severities.count("high") < count)
    return [
        _row("Violations in a good baseline", "0 to 3, mostly low or medium",
             _counts(severities), mild),
        _row("Boundary scores", "mostly above 0.60", f"{above} of {len(scores)}",
             2 * above > len(scores)),
        *_cosine(figures, "at least 0.70", 0.70),
    ]  # fmt: skip


def _signs_of_poor(figures: Figures, severities: list[Severity]) -> list[Characteristic]:
    scores, cosine = figures.boundary_scores, figures.cosine_similarity
    low = sum(score < 0.50 for score in scores)
    many = len(severities) >= 4 and "high" in severities
    signs = [
        _row("violations", "4 or more, high among them", _counts(severities), many),
        _row("boundary scores", "several below 0.50", f"{low} of {len(scores)}", low >= 2),
    ]
    if cosine is not None:
        row = _row("cosine similarity", "below 0.70", close_to_one(cosine), cosine < 0.70)
        signs.append(row.model_copy(update={"of_weights": True}))
    return [
        row.model_copy(update={"name": f"Sign of a poor baseline: {row.name}", "bad_sign": True})
        for row in signs
    ]


def _counts(severities: Sequence[Severity]) -> str:
    """Return the number of violations and of each severity, e.g. `3: 2 high, 1 low`."""
    kinds: tuple[Severity, ...] = ("high", "medium", "low")
    parts = [f"{severities.count(kind)} {kind}" for kind in kinds if kind in severities]
    return f"{len(severities)}: {', '.join(parts)}" if parts else "0"


def _general(figures: Figures) -> list[Characteristic]:
    """Hold a run against the ranges that the specification expects of any baseline."""
    std = "Standard deviation of boundary scores"
    ranges = (
        ("Smoothness score", figures.smoothness_score, 0.65, 0.78),
        ("Lowest boundary score", figures.min_boundary_score, 0.40, 0.60),
        ("Highest boundary score", figures.max_boundary_score, 0.95, 1.00),
        ("Mean boundary score", figures.mean_boundary_score, 0.70, 0.80),
        (std, figures.std_boundary_score, 0.10, 0.20),
    )
    rows = []
    for name, value, low, high in ranges:
        if value is not None:
            side: Side | None = "below" if value < low else "above" if value > high else None
            better = side if side == ("below" if name == std else "above") else None
            actual = f"{value:.4f} ({side})" if side else f"{value:.4f}"
            row = _row(name, f"{low:.2f} to {high:.2f}", actual, side is None)
            rows.append(row.model_copy(update={"better": better}))
    count = len(figures.violations)
    rows.append(
        _row("Violations in any baseline", "0 to 5, typically 1 to 3", str(count), count <= 5)
    )
    return rows


def _cosine(figures: Figures, expected: str, limit: float) -> list[Characteristic]:
    value = figures.cosine_similarity
    if value is None:
        return []
    met = value > limit if expected.startswith("above") else value >= limit
    row = _row("Cosine similarity", expected, close_to_one(value), met)
    return [row.model_copy(update={"of_weights": True})]


def _targets(score: float | None) -> list[Characteristic]:
    """Hold `score` against the targets of the later phases; None: they do not apply."""
    actual = "no boundary" if score is None else f"{score:.4f}"
    return [
        _row(name, f"{target:.2f} or more", actual, None if score is None else score >= target)
        for name, target in (
            ("Phase 2 target", PHASE_2_TARGET),
            ("Phase 3 target", PHASE_3_TARGET),
        )
    ]


def _row(name: str, expected: str, actual: str, met: bool | None) -> Characteristic:
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
            if figures.parameter_source == _PRIOR
            else "The ranges of many layers' inputs change much from time group to time group; the "
            "table of ranges shows which."
        )
    if _cosine_is_low(figures, band) and run.method != "hessian":
        causes.append(
            f"{run.bit_width}-bit codes chosen by {run.method} keep little of the weights' "
            "direction. This lowers cosine similarity; the smoothness score does not depend on it."
        )
    if _error_is_large(figures) and run.method != "hessian":  # it trades weights for outputs
        causes.append(
            f"The weights' relative squared error is above {_LARGE_ERROR:g}, thermoq's own limit "
            f"for advising another method or more than {run.bit_width} bits; the smoothness score "
            "does not show it."
        )
    return causes


def _cosine_is_low(figures: Figures, band: Band) -> bool:
    value = figures.cosine_similarity
    return value is not None and (value <= 0.75 if band == "excellent" else value < 0.70)


def _error_is_large(figures: Figures) -> bool:
    error = figures.relative_squared_error
    return error is not None and error > _LARGE_ERROR


def _next_step(figures: Figures, run: Run, band: Band) -> _Step:
    """Turn the dial of each figure that falls short, or none."""
    groups = bits = None
    if run.num_time_groups == 1:
        groups = min(4, run.most_time_groups)
    elif band != "excellent":
        groups = min(2 * run.num_time_groups, run.most_time_groups)
    method: Method | None = None
    off = _cosine_is_low(figures, band) or _error_is_large(figures)
    if off and run.method != "hessian":
        if run.method == "minmax" and run.bit_width < 8 and run.lsq_fits:
            method = "lsq"  # before the checkpoint grows
        elif run.has_budget:
            bits = None  # its size is what was asked for
        elif run.bit_width == 2 or _could_be_q8(run):
            bits = 2 * run.bit_width
    return _Step(bits, groups if groups != run.num_time_groups else None, method)


def _could_be_q8(run: Run) -> bool:
    """Tell whether 8 bits would be accepted: q8 has its own group size and encoding."""
    return run.bit_width == 4 and not _NOT_WITH_Q8 & {*run.carried}


def _actions(figures: Figures, run: Run, band: Band, step: _Step) -> list[str]:
    actions = []
    if figures.parameter_source == _PRIOR:
        actions.append(
            "Calibrate first, and read this score as an estimate until then: `thermoq calibrate` "
            "runs the model along its own sampling trajectory, without any data, and measures each "
            "layer's inputs. Then this run with `--calibration` has measured parameters."
        )
    if step.method is not None:
        actions.append(
            f"Choose the INT{run.bit_width} codes by least squares, `thermoq quantize`, instead of "
            f"by rounding to nearest ({run.method}). Of its two encodings coded is the default; "
            "`--encoding affine` keeps this one. Its report gives the error and the size to hold "
            "against these; the smoothness score stays."
        )
    if step.bit_width is not None:
        actions.append(
            f"Try INT{step.bit_width} instead of INT{run.bit_width}: this changes the weights. "
            "Their cosine similarity and error improve and the checkpoint grows; the smoothness "
            "score stays."
        )
    if step.num_time_groups is not None:
        prior = figures.parameter_source == _PRIOR
        only = (
            " Under the prior this changes the score, not the weights."
            if prior
            else " It changes the activation parameters, not the weights."
        )
        actions.append(
            f"Raise the time groups from {run.num_time_groups} to {step.num_time_groups}: smaller "
            f"steps between neighbours as a rule raise the smoothness score.{only}"
            if run.num_time_groups > 1
            else f"Use {step.num_time_groups} time groups to see how the parameters move.{only}"
        )
    if band == "poor":
        actions.append(f"{_SPECIFICATION} sends poor baselines straight to {PHASE_3}.")
    elif figures.smoothness_score is not None and figures.smoothness_score < PHASE_2_TARGET:
        actions.append(f"Keep this report: {PHASE_2} will be held against it.")
    if step == _Step():
        actions.append("Export the dense weights and try them in the model's own pipeline.")
    return actions


def _calibration_file(run: Run) -> str:
    return f"{_stem(run.output)}-calibration.safetensors"


def _calibrate(run: Run) -> str:
    """Return the command that measures what this run took from the prior."""
    words = ["thermoq", "calibrate", "--model", run.model, "--output", _calibration_file(run)]
    more = ["--bins", str(run.num_time_groups)] if run.num_time_groups > DEFAULT_NUM_BINS else []
    return shlex.join(words + more)


def _calibrated(run: Run) -> str:
    """Return this run again, with that calibration."""
    output = f"{_without_ending(run.output)}-calibrated"
    words = ["thermoq", run.command, "--model", run.model, "--output", output]
    words += ["--bit-width", str(run.bit_width)] if not run.has_budget else []
    words += ["--num-time-groups", str(run.num_time_groups)]
    words += ["--calibration", _calibration_file(run), *run.carried]
    return shlex.join(words + _reports(run, output))


def _reports(run: Run, output: str) -> list[str]:
    words = ["--report", f"{output}.json"] if run.writes_report else []
    return words + (["--html-report", f"{output}.html"] if run.writes_html_report else [])


def _command(run: Run, step: _Step) -> str:
    stem = _stem(run.output)
    if step == _Step():
        return shlex.join(["thermoq", "export", run.output, f"{stem}-dense"])
    bits = step.bit_width or run.bit_width
    size = f"int{bits}" if not run.has_budget else "budget"
    groups = step.num_time_groups or run.num_time_groups
    output = f"{stem}-{size}-g{groups}" + (f"-{step.method}" if step.method else "")
    if os.path.abspath(output) == os.path.abspath(run.output):  # it tells of settings not used
        output += "-next"
    words = ["thermoq", "quantize" if step.method else run.command]
    words += ["--model", run.model, "--output", output]
    words += ["--bit-width", str(bits)] if not run.has_budget else []
    words += ["--num-time-groups", str(groups)]
    words += ["--method", step.method] if step.method else []
    words += _without_method(run.carried) if step.method else run.carried
    return shlex.join(words + _reports(run, output))


def _without_method(words: Sequence[str]) -> list[str]:
    """Return the flags but `--method` and its value."""
    given = iter(words)
    kept = []
    for word in given:
        if word == "--method":
            next(given, None)
        elif not word.startswith("--method="):
            kept.append(word)
    return kept


def _stem(output: str) -> str:
    """Return the output's path without endings that tell of settings, as earlier advice gave it."""
    path = PurePath(_without_ending(output))
    return str(path.with_name(re.sub(r"(?<!^)(-int[248]|-g\d+|-lsq|-calibrated)+$", "", path.name)))


def _without_ending(output: str) -> str:
    """Return the output's path as other names can be made of it.

    Never inside the output: where that is `.` or ends in `..`, beside it.
    """
    path = PurePath(output)
    if path.name in ("", ".."):
        path = path / ".." / (os.path.basename(os.path.abspath(output)) or "thermoq")
    return str(path)
