"""Recognised patterns of violations: what they mean and what to do about them.

Counts and sentences only; every figure was computed in metrics.py. Advice names nothing but what
this version can do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thermoq.report.model import Pattern, Violation

PHASE_2 = "Phase 2 (smoothing, not in this version)"
PHASE_3 = "Phase 3 (optimization, not in this version)"

Kind = Literal["early", "late", "uniform", "high_severity"]


@dataclass(frozen=True)
class _Text:
    title: str
    cause: str
    impact: str
    advice: str


_MORE_GROUPS = (
    "Raise --num-time-groups: each group then spans less of the trajectory and hands over smaller "
    "steps."
)
_PATTERN_TEXTS: dict[Kind, _Text] = {
    "early": _Text(
        "Early boundary violations",
        "The parameters move fastest while the input is still mostly noise: the first time groups "
        "differ more from each other than the later ones do.",
        "The first denoising steps, which settle the coarse layout, cross the largest jumps, and "
        "every later step starts from what they leave.",
        f"{_MORE_GROUPS} {PHASE_2} will be able to spread these jumps over a wide window.",
    ),
    "late": _Text(
        "Late boundary violations",
        "The parameters move fastest where the noise runs out: the last time groups differ more "
        "from each other than the earlier ones do.",
        "The last steps draw the fine detail and nothing comes after them to repair an error.",
        f"{_MORE_GROUPS} {PHASE_2} will be able to ease these jumps with a sigmoid.",
    ),
    "uniform": _Text(
        "Violations along the whole trajectory",
        "The time groups are too wide for how quickly this model's parameters change, wherever one "
        "looks.",
        "No part of the trajectory is spared: small inconsistencies add up over all the steps.",
        f"{_MORE_GROUPS} Doubling them is the first thing to try. {PHASE_3} will couple the "
        "groups' parameters to each other.",
    ),
    "high_severity": _Text(
        "Few but severe jumps",
        "At single boundaries the parameters change by more than half, while the rest of the "
        "trajectory is calm.",
        "The steps at these boundaries are taken with parameters that disagree, and the error they "
        "make is carried to the end.",
        "Raise --num-time-groups so that these jumps fall apart into smaller ones; the report's "
        "table of layers shows which layers make them. Under `layers:` in the configuration, 8 "
        f"bits protect such a layer's weights, though not its jumps. {PHASE_2} will act on them.",
    ),
}


def find_patterns(violations: Sequence[Violation], num_time_groups: int) -> list[Pattern]:
    """Return the patterns that the violations form, most telling first.

    Uniform: at least 3 violations, at more than half of all boundaries; it hides early and late.
    Early, late (from 4 groups on): at least half of the violations in the first
    `max(2, ceil((G - 1) / 4))`, the last `max(1, ceil((G - 1) / 4))` boundaries. High severity:
    some jump above 0.5 and at most half of the boundaries in violation.
    """
    num_boundaries = num_time_groups - 1
    at = sorted(violation.boundary_idx for violation in violations)
    severe = sorted(v.boundary_idx for v in violations if v.severity == "high")
    quarter = math.ceil(num_boundaries / 4)
    early = [i for i in at if i < max(2, quarter)]
    late = [i for i in at if i >= num_boundaries - max(1, quarter)]
    found: list[Pattern] = []
    if len(at) >= 3 and 2 * len(at) > num_boundaries:
        found.append(_pattern("uniform", at))
    elif at and num_time_groups >= 4:
        if 2 * len(early) >= len(at):
            found.append(_pattern("early", early))
        if 2 * len(late) >= len(at):
            found.append(_pattern("late", late))
    if severe and 2 * len(at) <= num_boundaries:
        found.append(_pattern("high_severity", severe))
    return found


def _pattern(kind: Kind, boundaries: list[int]) -> Pattern:
    text = _PATTERN_TEXTS[kind]
    return Pattern(
        kind=kind,
        title=text.title,
        boundaries=boundaries,
        cause=text.cause,
        impact=text.impact,
        advice=text.advice,
    )


def common_violation_patterns(violations: Sequence[Violation]) -> list[str]:
    """Return the violations in the strings of the specification's example; empty if there are none.

    Shares and averages are over the violations. Zero-point jumps are listed where one of them is
    what makes a violation.
    """
    if not violations:
        return []
    count = len(violations)
    lines = []
    for severity in ("high", "medium", "low"):
        of_kind = sum(violation.severity == severity for violation in violations)
        if of_kind:
            share = of_kind / count
            lines.append(f"{severity.capitalize()} severity violations: {of_kind} ({share:.1%})")
    lines.append(f"Violations at boundaries: {sorted(v.boundary_idx for v in violations)}")
    lines.append(_jumps("Scale", [v.scale_jump for v in violations]))
    if any(v.zero_point_jump > v.scale_jump for v in violations):
        lines.append(_jumps("Zero-point", [v.zero_point_jump for v in violations]))
    return lines


def _jumps(what: str, jumps: list[float]) -> str:
    return f"{what} jumps: max={max(jumps):.1%}, avg={sum(jumps) / len(jumps):.1%}"
