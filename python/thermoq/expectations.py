"""The bands of the smoothness score, and what the specification expects held against a run.

Bands and expected ranges are those of the original specification, which speaks of Dream 7B at INT2.
Comparisons only; what follows from them is advice.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thermoq.report.model import Characteristic
from thermoq.report.thermodynamics_model import Violation
from thermoq.report.wording import close_to_one
from thermoq.terms import Interpolation, Phase, Severity

Band = Literal["poor", "typical", "good", "excellent"]
Side = Literal["above", "below"]

PHASE_2_TARGET = 0.82
PHASE_3_TARGET = 0.90
_MOST_VIOLATIONS: dict[Phase, int] = {"smooth": 1, "optimize": 0}
_NAMES: dict[Phase, str] = {"smooth": "Phase 2", "optimize": "Phase 3"}

BAND_RANGES: dict[Band, str] = {
    "poor": "below 0.65",
    "typical": "0.65 to 0.70",
    "good": "0.70 to 0.78",
    "excellent": "above 0.78",
}


@dataclass(frozen=True)
class Windows:
    """Phase 2's windows as they are, or could be.

    `interpolation` is None where nothing was smoothed. `limits` [G - 1] are the widest windows, in
    timesteps, `defaults` those that Phase 2 takes where none is asked for; `has_room` tells that
    some window is narrower than its limit. `scores` are the smoothness scores of the run's
    parameters with the widest windows, by interpolation, `default_scores` those with the defaults.
    """

    interpolation: Interpolation | None
    limits: tuple[float, ...]
    defaults: tuple[float, ...]
    has_room: bool
    scores: Mapping[Interpolation, float]
    default_scores: Mapping[Interpolation, float]

    @property
    def best(self) -> Interpolation:
        """The interpolation with the highest score with the widest windows."""
        return _best(self.scores)

    @property
    def default_best(self) -> Interpolation:
        """The interpolation with the highest score with the default windows."""
        return _best(self.default_scores)

    @property
    def widest(self) -> float:
        """The window that is as wide as fits at every boundary; narrower limits clamp it."""
        return max(self.limits)


def _best(scores: Mapping[Interpolation, float]) -> Interpolation:
    """Return the interpolation with the highest score; the simplest of equals."""
    return max(scores, key=lambda kind: scores[kind], default="linear")


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
    phase: Phase = "baseline"
    windows: Windows | None = None
    score_before: float | None = None

    @property
    def is_prior(self) -> bool:
        """Whether the activation parameters were modelled from the noise schedule."""
        return self.parameter_source == "noise-schedule prior"

    @property
    def meets_target(self) -> bool:
        """Whether the run is what its own phase is held against."""
        target = PHASE_3_TARGET if self.phase == "optimize" else PHASE_2_TARGET
        most = _MOST_VIOLATIONS.get(self.phase, 0)
        score = self.smoothness_score
        return score is not None and score >= target and len(self.violations) <= most


def band_of(score: float) -> Band:
    """Return the band of a smoothness score."""
    if score < 0.65:
        return "poor"
    if score < 0.70:
        return "typical"
    return "good" if score <= 0.78 else "excellent"


def characteristics(figures: Figures, band: Band, single: bool) -> list[Characteristic]:
    """Hold a run against what is expected of its band and of any; `single`: with no boundary."""
    if single:
        return cosine_rows(figures, "at least 0.70", 0.70)
    if figures.phase != "baseline":
        return _of_phase(figures)
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
            *cosine_rows(figures, "above 0.75", 0.75),
        ]  # fmt: skip
    above = sum(score > 0.60 for score in scores)
    mild = count <= 3 and (count == 0 or 2 * severities.count("high") < count)
    return [
        _row("Violations in a good baseline", "0 to 3, mostly low or medium",
             _counts(severities), mild),
        _row("Boundary scores", "mostly above 0.60", f"{above} of {len(scores)}",
             2 * above > len(scores)),
        *cosine_rows(figures, "at least 0.70", 0.70),
    ]  # fmt: skip


def _of_phase(figures: Figures) -> list[Characteristic]:
    """Hold a smoothed or optimized run against its phase's targets, and against Phase 1."""
    score, name = figures.smoothness_score, _NAMES[figures.phase]
    target = PHASE_2_TARGET if figures.phase == "smooth" else PHASE_3_TARGET
    most, count = _MOST_VIOLATIONS[figures.phase], len(figures.violations)
    rows = []
    if score is not None:
        rows.append(
            _row(f"Smoothness score in {name}", f"{target:.2f} or more", f"{score:.4f}",
                 score >= target)
        )  # fmt: skip
        before = figures.score_before
        if before is not None:
            rows.append(
                _row("Smoothness score over Phase 1's", f"above {before:.4f}", f"{score:.4f}",
                     score > before)
            )  # fmt: skip
    rows.append(
        _row(f"Violations in {name}", "0" if most == 0 else f"at most {most}", str(count),
             count <= most)
    )  # fmt: skip
    return rows + cosine_rows(figures, "at least 0.70", 0.70)


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


def cosine_rows(figures: Figures, expected: str, limit: float) -> list[Characteristic]:
    """Hold the cosine similarity against a limit; no row without one."""
    value = figures.cosine_similarity
    if value is None:
        return []
    met = value > limit if expected.startswith("above") else value >= limit
    row = _row("Cosine similarity", expected, close_to_one(value), met)
    return [row.model_copy(update={"of_weights": True})]


def targets(score: float | None) -> list[Characteristic]:
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
