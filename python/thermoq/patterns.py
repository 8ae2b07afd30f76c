"""Recognised patterns of violations: what they mean and what to do about them.

Counts and sentences only; every figure was computed in metrics.py. A sentence states no more than
the rule by which its pattern was found, and this run's numbers. Advice names nothing but what this
version can do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thermoq.expectations import Windows
from thermoq.report.model import Pattern
from thermoq.report.thermodynamics_model import Violation
from thermoq.report.wording import timestep
from thermoq.terms import Interpolation, ParameterSource, Phase

Kind = Literal["early", "late", "uniform", "high_severity"]

_TITLES: dict[Kind, str] = {
    "early": "Early boundary violations",
    "late": "Late boundary violations",
    "uniform": "Violations at most boundaries",
    "high_severity": "Severe jumps",
}
_MORE_GROUPS: dict[ParameterSource, str] = {
    "noise-schedule prior": (
        "A larger --num-time-groups (at most the number of timesteps) lets each group span less of "
        "the trajectory, which as a rule makes the jumps smaller; under the noise-schedule prior "
        "this changes the score, not the weights."
    ),
    "calibration": (
        "A larger --num-time-groups (at most the calibration's bins) lets each group span less of "
        "the trajectory, which as a rule makes the jumps smaller; `--grouping adaptive` puts "
        "boundaries where ranges change. Both change the activation parameters, not the weights."
    ),
}
_SHAPES: dict[Kind, tuple[Interpolation, str]] = {
    "early": ("linear", "spreads early jumps over a wide window"),
    "late": ("sigmoid", "eases late jumps with a sigmoid"),
    "uniform": ("linear", "spreads every jump over a window"),
    "high_severity": ("cubic", "spreads the jump with a cubic"),
}
_LAYERS = (
    "The table of layers shows which layers jump most. Under `layers:` in the configuration, 8 "
    "bits protect such a layer's weights, though not its jumps."
)
_NO_CODES: dict[ParameterSource, str] = {
    "noise-schedule prior": (
        "The checkpoint holds no such parameters, and its weights do not depend on it."
    ),
    "calibration": "The checkpoint's weights do not depend on it.",
}


@dataclass(frozen=True)
class _Found:
    """The violations of one pattern, among all of them; `window` boundaries were looked at.

    `other_window` is that of the other end if all other violations lie there, else 0.
    """

    kind: Kind
    violations: list[Violation]
    num_violations: int
    num_time_groups: int
    timesteps: Sequence[float]
    window: int
    other_window: int = 0
    source: ParameterSource = "noise-schedule prior"
    phase: Phase = "baseline"
    windows: Windows | None = None

    @property
    def num_boundaries(self) -> int:
        return self.num_time_groups - 1

    @property
    def groups_after(self) -> int:
        """How many time groups come after the first of the pattern's boundaries."""
        return self.num_time_groups - 1 - self.violations[0].boundary_idx


def find_patterns(
    violations: Sequence[Violation],
    num_time_groups: int,
    timesteps: Sequence[float] = (),
    source: ParameterSource = "noise-schedule prior",
    phase: Phase = "baseline",
    windows: Windows | None = None,
) -> list[Pattern]:
    """Return the patterns that the violations form, most telling first.

    Uniform: at least 3 violations, at more than half of all boundaries; it hides early and late.
    Early, late (from 4 groups on): at least half of the violations in the first
    `max(2, ceil((G - 1) / 4))`, the last `max(1, ceil((G - 1) / 4))` boundaries. High severity:
    some jump above 0.5 and at most half of the boundaries in violation. `timesteps`, one per
    boundary, are named in the texts if given. `source` is where the parameters come from; `phase`
    and `windows` are the run's, whose dials the advice names.
    """
    num_boundaries = num_time_groups - 1
    at = sorted(violations, key=lambda violation: violation.boundary_idx)
    severe = [violation for violation in at if violation.severity == "high"]
    quarter = math.ceil(num_boundaries / 4)
    first, last = max(2, quarter), max(1, quarter)
    early = [violation for violation in at if violation.boundary_idx < first]
    late = [violation for violation in at if violation.boundary_idx >= num_boundaries - last]
    found: list[Pattern] = []

    def add(kind: Kind, own: list[Violation], window: int, other: int = 0) -> None:
        found.append(
            _pattern(
                _Found(
                    *(kind, own, len(at), num_time_groups, timesteps, window, other, source),
                    phase=phase,
                    windows=windows,
                )
            )
        )

    if len(at) >= 3 and 2 * len(at) > num_boundaries:
        add("uniform", at, num_boundaries)
    elif at and num_time_groups >= 4:
        # The two windows share no boundary: where both hold half, nothing is left between them.
        is_early, is_late = 2 * len(early) >= len(at), 2 * len(late) >= len(at)
        if is_early:
            add("early", early, first, last if is_late else 0)
        if is_late:
            add("late", late, last, first if is_early else 0)
    if severe and 2 * len(at) <= num_boundaries:
        add("high_severity", severe, num_boundaries)
    return found


def _pattern(found: _Found) -> Pattern:
    return Pattern(
        kind=found.kind,
        title=_TITLES[found.kind],
        boundaries=[violation.boundary_idx for violation in found.violations],
        cause=f"{_where(found)} {_largest(found)}",
        impact=f"{_would(found)} {_NO_CODES[found.source]}",
        advice=_advice(found),
    )


def _advice(found: _Found) -> str:
    windows = found.windows
    smoothed = windows is not None and windows.interpolation is not None
    parts = [] if smoothed else [_MORE_GROUPS[found.source]]
    parts += [_LAYERS] if found.kind == "high_severity" else []
    if windows is not None and smoothed:
        parts.append(_of_smoothed(found, windows))
    else:
        parts.append(_of_steps(found, windows))
    if found.kind == "uniform":
        parts.append(_coupling(found))
    return " ".join(parts)


def _of_steps(found: _Found, windows: Windows | None) -> str:
    """Return what Phase 2 does to violations of parameters that are piecewise constant."""
    kind, does = _SHAPES[found.kind]
    switch = "--phase smooth" if found.phase == "baseline" else "--smoothing"
    flag = "" if kind == "linear" else f" --interpolation {kind}"
    text = f"`{switch}{_widest(found, windows)}{flag}` {does}"
    if windows is None or not windows.scores:
        return f"{text}."
    score = windows.scores[kind]
    text += f": with the widest windows these parameters would score {score:.4f}"
    if windows.scores[windows.best] > score + 0.00005:  # in the figures shown
        text += f", by {windows.best} {windows.scores[windows.best]:.4f}"
    return f"{text}."


def _widest(found: _Found, windows: Windows | None) -> str:
    """Return the flag for the widest windows at the pattern's boundaries."""
    if windows is None:
        return ""
    widest = max(windows.limits[violation.boundary_idx] for violation in found.violations)
    return f" --window {widest:g}"


def _of_smoothed(found: _Found, windows: Windows) -> str:
    if windows.has_room:
        wider = _widest(found, windows).strip()
        return f"A larger window, `{wider}`, spreads these jumps further."
    best = windows.best
    score = windows.scores.get(best)
    other = ""
    if best != windows.interpolation and score is not None:
        other = f" `--interpolation {best}` would score {score:.4f}."
    if found.num_time_groups == 2:
        return f"The windows already are half the smaller time group.{other}"
    return (
        "The windows already are half the smaller time group: fewer groups, `--num-time-groups "
        f"{max(2, found.num_time_groups // 2)}`, have room for wider ones.{other}"
    )


def _coupling(found: _Found) -> str:
    if found.phase == "optimize":
        return (
            "A larger `--coupling` draws neighbouring groups together where that costs next to "
            "nothing; groups that truly differ stay apart."
        )
    needs = ", once there is a calibration," if found.source == "noise-schedule prior" else ""
    return f"`--phase optimize`{needs} couples the groups' parameters to each other."


def _where(found: _Found) -> str:
    count, of, boundaries = len(found.violations), found.num_violations, found.num_boundaries
    share = f"{count} of {of} {'violation' if of == 1 else 'violations'}"
    if found.kind == "uniform":
        return (
            f"{count} of {boundaries} boundaries exceed the threshold: there the time groups are "
            "wide for how quickly the parameters change."
        )
    if found.kind == "high_severity":
        within = boundaries - of
        return (
            f"{share} {'jumps' if count == 1 else 'jump'} by more than 0.5, while {within} of "
            f"{boundaries} boundaries {'stays' if within == 1 else 'stay'} within the threshold."
        )
    ends = ("first", "last") if found.kind == "early" else ("last", "first")
    window, other = (
        f"{end} {size}" if size > 1 else end
        for end, size in zip(ends, (found.window, found.other_window), strict=True)
    )
    rest = f", the rest at the {other}" if found.other_window else ""
    return (
        f"{share} {'lies' if count == 1 else 'lie'} at the {window} of {boundaries} boundaries, "
        f"counted from noise to clean{rest}."
    )


def _largest(found: _Found) -> str:
    worst = max(found.violations, key=_jump)
    place = f"boundary {worst.boundary_idx}"
    if worst.boundary_idx < len(found.timesteps):
        place += f" (t = {timestep(found.timesteps[worst.boundary_idx])})"
    where = "" if len(found.violations) == found.num_violations else " among them"
    return f"The largest jump{where} is {_jump(worst):.2f}, at {place}."


def _would(found: _Found) -> str:
    """Return what the jumps would do if activations were quantized with these parameters."""
    jump = max(map(_jump, found.violations))
    if found.kind == "uniform":
        return (
            f"With quantized activations, parameters would jump by up to {jump:.2f} at more than "
            "half of the hand-overs between time groups, and the errors made there could add up."
        )
    if found.kind == "high_severity":
        return (
            "With quantized activations, neighbouring steps on the two sides of such a boundary "
            f"would use parameters that differ by up to {jump:.2f}, and an error made there could "
            "be carried on to the end."
        )
    left = f"{found.groups_after} of {found.num_time_groups} time groups"
    crossed = (
        "With quantized activations, steps across these boundaries would change parameters by up "
        f"to {jump:.2f}."
    )
    come = "comes" if found.groups_after == 1 else "come"
    first = found.violations[0].boundary_idx
    if found.kind == "early":
        return f"{crossed} {left} {come} after boundary {first} and would start from the result."
    return f"{crossed} {left} {come} after boundary {first} and could still make up for an error."


def _jump(violation: Violation) -> float:
    return max(violation.scale_jump, violation.zero_point_jump)


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
