"""Figures and runs to be assessed, usual but for what a test says."""

from __future__ import annotations

from typing import Any

from thermoq.expectations import Figures, Windows
from thermoq.next_commands import Run
from thermoq.report.model import Assessment
from thermoq.report.thermodynamics_model import Violation


def violations(*severities: str) -> list[Violation]:
    return [
        Violation(boundary_idx=i, scale_jump=0.4, zero_point_jump=0.0, severity=severity)
        for i, severity in enumerate(severities)
    ]


def windows(**given: Any) -> Windows:
    usual = {
        "interpolation": None,
        "limits": (125.0, 125.0, 125.0),
        "has_room": True,
        "scores": {"linear": 0.9312, "cubic": 0.9045, "sigmoid": 0.8511},
        "default_scores": {"linear": 0.8911, "cubic": 0.8644, "sigmoid": 0.8211},
    }
    limits = given.get("limits", usual["limits"])
    usual["defaults"] = tuple(limit / 2 for limit in limits)
    return Windows(**{**usual, **given})


def figures(score: float | None, **given: Any) -> Figures:
    scores = given.pop("boundary_scores", [] if score is None else [score] * 3)
    mean = sum(scores) / len(scores) if scores else score
    std = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5 if scores else None
    return Figures(
        smoothness_score=score,
        boundary_scores=scores,
        min_boundary_score=min(scores, default=score),
        max_boundary_score=max(scores, default=score),
        mean_boundary_score=mean,
        std_boundary_score=std,
        violations=given.pop("violations", []),
        cosine_similarity=given.pop("cosine_similarity", 0.9),
        parameter_source=given.pop("parameter_source", "calibration"),
        relative_squared_error=given.pop("relative_squared_error", None),
        phase=given.pop("phase", "baseline"),
        windows=given.pop("windows", windows()),
        score_before=given.pop("score_before", None),
    )


def prior(score: float | None, **given: Any) -> Figures:
    return figures(score, parameter_source="noise-schedule prior", **given)


def run(**given: Any) -> Run:
    usual = {"model": "dream-7b", "output": "out", "bit_width": 2, "num_time_groups": 4}
    return Run(**{**usual, "most_time_groups": 1000, **given})


def rows(assessment: Assessment) -> dict[str, tuple[str, str, bool | None]]:
    return {
        row.name: (row.expected, row.actual, row.met)
        for row in (*assessment.characteristics, *assessment.phase_targets)
    }
