"""Which phase comes next, or which of its dials: Phase 2's windows and shape, Phase 3's groups.

Under the noise-schedule prior no step is taken: calibration comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thermoq.expectations import PHASE_2_TARGET, Band, Figures, Windows
from thermoq.next_commands import Run, Step
from thermoq.terms import Interpolation

_SPECIFICATION = "thermoq's original specification"
_NOTICEABLE = 0.005  # of a smoothness score, for which another interpolation is advised


def phase_step(figures: Figures, run: Run, band: Band) -> Step:
    """Return the step of a calibrated run with more than one time group."""
    windows = figures.windows
    if windows is None:
        return Step()
    if run.phase == "baseline":
        if band == "poor":
            return Step(phase="optimize")
        return _smooth(windows) if _is_rough(figures) else Step()
    if figures.meets_target:
        return Step(phase="optimize") if run.phase == "smooth" else Step()
    if windows.interpolation is None:  # Phase 3 without Phase 2
        return Step(phase=run.phase, smooths=True)
    if windows.has_room:
        return Step(widens=True, window=windows.widest)
    if _other_is_better(figures, windows):
        return Step(interpolation=windows.best)
    if run.num_time_groups > 2:
        return Step(num_time_groups=max(2, run.num_time_groups // 2))
    return Step(phase="optimize") if run.phase == "smooth" else Step()


def _is_rough(figures: Figures) -> bool:
    """Tell whether a baseline misses what Phase 2 is held against, or has a severe jump."""
    severe = any(violation.severity == "high" for violation in figures.violations)
    low = (figures.smoothness_score or 0.0) < PHASE_2_TARGET
    return low or severe or len(figures.violations) > 1


def _smooth(windows: Windows) -> Step:
    other = windows.default_best if windows.default_best != "linear" else None
    return Step(phase="smooth", interpolation=other, widens=True)


def _other_is_better(figures: Figures, windows: Windows) -> bool:
    score = figures.smoothness_score
    if score is None or windows.best == windows.interpolation or not windows.scores:
        return False
    return windows.scores[windows.best] > score + _NOTICEABLE


def phase_actions(figures: Figures, run: Run, band: Band, step: Step) -> list[str]:
    """Return what to do about the phases, in sentences with this run's figures."""
    if run.num_time_groups == 1 or figures.windows is None:
        return []
    if figures.is_prior:
        return _later_actions(figures, run)
    if run.phase == "baseline":
        return _from_baseline(figures, figures.windows, band, step)
    return _within_phases(figures, figures.windows, run, step)


def _later_actions(figures: Figures, run: Run) -> list[str]:
    score = figures.smoothness_score
    if run.phase != "baseline" or score is None or score >= PHASE_2_TARGET:
        return []
    return [
        "Keep this report: Phase 2 (`--phase smooth`) and Phase 3 (`--phase optimize`, which needs "
        "the calibration) will be held against it."
    ]


def _from_baseline(figures: Figures, windows: Windows, band: Band, step: Step) -> list[str]:
    if band == "poor":
        return [
            f"{_SPECIFICATION} sends poor baselines straight to Phase 3: `--phase optimize` fits "
            "the parameters to the outputs of the layers and smooths them."
        ]
    if not _is_rough(figures):
        return [
            "Phase 3 (`--phase optimize`) is there for accuracy, which a high score does not show."
        ]
    later = "" if step.phase == "smooth" else " Do it once the weights are settled."
    return [f"Smooth the boundaries, `--phase smooth`: {_by_default(windows)}{later}"]


def _by_default(windows: Windows) -> str:
    return _foretold(windows.defaults, "a quarter of", windows.default_scores)


def _at_the_limit(windows: Windows) -> str:
    return _foretold(windows.limits, "half", windows.scores)


def _foretold(widths: Sequence[float], share: str, scores: Mapping[Interpolation, float]) -> str:
    """Return the computed scores with windows of these widths, best first."""
    ranked = sorted(scores, key=lambda kind: -scores[kind])
    listed = ", ".join(f"{scores[kind]:.4f} by {kind}" for kind in ranked)
    width = f"{widths[0]:g}" if len({*widths}) == 1 else f"{share} the smaller time group"
    return (
        f"with windows of {width} on each side of a boundary these parameters would score "
        f"{listed}. Codes and stored values stay; the score says nothing of accuracy."
    )


def _within_phases(figures: Figures, windows: Windows, run: Run, step: Step) -> list[str]:
    actions = []
    if step.smooths:
        actions.append(f"Smooth the boundaries too, `--smoothing`: {_by_default(windows)}")
    elif step.widens:
        actions.append(f"Widen the windows: {_at_the_limit(windows)}")
    elif step.interpolation is not None:
        actions.append(
            f"Choose `--interpolation {step.interpolation}`: the windows already are as wide as "
            f"they can be; {_at_the_limit(windows)}"
        )
    elif step.phase == "optimize":
        actions.append(
            "Go on to Phase 3, `--phase optimize`: it fits ranges, gains and biases to the outputs "
            "of the layers. It is there for accuracy; Phase 2 leaves the outputs much as they were."
        )
    if run.phase == "optimize" and not figures.meets_target:
        actions.append(
            "A larger `--coupling` draws neighbouring time groups together as far as that costs no "
            "layer's outputs over 1 %: it raises the score where groups are alike, and no further."
        )
    return actions
