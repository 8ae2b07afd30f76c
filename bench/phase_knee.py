"""Error against smoothness over `--coupling` and `--window`, and where the defaults lie on it."""

from __future__ import annotations

from dataclasses import dataclass

import thermoq
from demo_model import MODEL, calibrations
from measuring import Result, shown
from phase_trajectory import Trajectories, against
from phase_variants import (
    HESSIAN,
    INTERVAL,
    PHASES,
    SMOOTHNESS,
    UNCORRECTED,
    Made,
    PhaseOptions,
    Settings,
    Workshop,
)
from reports import Report
from thermoq.evaluation.sums import SumsOverTrajectory
from variants import MODEL_ITSELF

COUPLINGS = (0, 0.1, 1, 10, 100)
SHARES: dict[str, float | None] = {"0": None, "1/4": 0.25, "1/2": 0.5, "widest": 1.0}
DEFAULT_COUPLING, DEFAULT_WINDOW = 1, "1/2"
TIMESTEPS = 1000
SETTINGS: dict[str, tuple[int, Settings]] = {
    "INT2 weights, 8-bit inputs": (4, HESSIAN),
    "8-bit weights, 4-bit inputs": (
        10,
        {"method": "lsq", "layers": [{"match": "*", "bit_width": 8}], "activation_bits": 4},
    ),
}


@dataclass(frozen=True)
class Point:
    """A place on the curve."""

    made: Made
    sums: SumsOverTrajectory

    @property
    def score(self) -> float:
        """Its smoothness."""
        score = self.made.report.smoothness_score
        assert score is not None
        return score


def report(options: PhaseOptions) -> Report:
    """Measure all pairs of coupling and window."""
    trajectories = Trajectories(options)
    rows = [["settings", "coupling", "window", *SMOOTHNESS, "error over Phase 1's", INTERVAL, ""]]
    results: list[Result] = []
    with Workshop(MODEL, calibrations(options)[MODEL_ITSELF], options) as workshop:
        for name, (groups, settings) in SETTINGS.items():
            given = {**settings, "num_time_groups": groups}
            made = workshop.make(given, PHASES["Phase 1"])
            first = Point(made, trajectories.sums(thermoq.load(made.directory)))
            rows.append([name, "Phase 1", "", *made.smoothness(), "1", "", ""])
            points = {}
            for coupling in COUPLINGS:
                for window in SHARES:
                    also = phase_3(groups, coupling, window)
                    made = workshop.make(given, also)
                    one = Point(made, trajectories.sums(thermoq.load(made.directory)))
                    points[coupling, window] = one
                    rows.append(
                        [name, f"{coupling:g}", window, *cells(one, first, coupling, window)]
                    )
            results += knee(name, points)
        missing = workshop.missing
    what = (
        "demo model, Phase 3 without the output correction: output error against smoothness; "
        f"{options.samples} held-out trajectories; windows are shares of the widest, "
        "half a time group"
    )
    return Report(what, rows, missing, results, "value", INTERVAL)


def phase_3(groups: int, coupling: float, window: str) -> Settings:
    """The settings of a point."""
    share = SHARES[window]
    settings = {**PHASES["Phase 3"], **UNCORRECTED, "coupling": coupling}
    if share is None:
        return {**settings, "smoothing": False}
    return {**settings, "window": share * TIMESTEPS / groups / 2}


def cells(one: Point, first: Point, coupling: float, window: str) -> list[str]:
    """The rest of a row."""
    found = against("", one.sums, first.sums)
    assert found.value is not None
    is_default = (coupling, window) == (DEFAULT_COUPLING, DEFAULT_WINDOW)
    interval = f"{found.lower:.3f} .. {found.upper:.3f}"
    mark = "<- the defaults" if is_default else ""
    return [*one.made.smoothness(), f"{found.value:.4f}", interval, mark]


def knee(name: str, points: dict[tuple[float, str], Point]) -> list[Result]:
    """How far the defaults are from the least error and from the highest score on the curve."""
    default = points[DEFAULT_COUPLING, DEFAULT_WINDOW]
    free, sharp = points[0, DEFAULT_WINDOW], points[DEFAULT_COUPLING, "0"]
    tight = points[COUPLINGS[-1], DEFAULT_WINDOW]

    def beside(what: str, other: Point) -> Result:
        scores = f"smoothness {shown(other.score)} -> {shown(default.score)}"
        return against(
            f"{name}: error of the defaults over that {what}",
            default.sums,
            other.sums,
            None,
            scores,
        )

    least = min(points, key=lambda key: error(points[key], default))
    where = f"least: coupling {least[0]:g}, window {least[1]}"
    return [
        beside("without coupling", free),
        beside("without a window", sharp),
        beside(f"with coupling {COUPLINGS[-1]}", tight),
        beside(f"of the {where}", points[least]),
    ]


def error(one: Point, beside: Point) -> float:
    """Error over that of another point."""
    found = against("", one.sums, beside.sums).value
    assert found is not None
    return found
