"""The phases on the demo model at INT2: smoothness, violations and output error, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import thermoq
from demo_model import MODEL, calibrations
from measuring import Result
from phase_inputs import with_dynamic_inputs, with_exact_inputs
from phase_trajectory import ERRORS, Trajectories, against, cosine_against, error_cells
from phase_variants import (
    DEFAULTS,
    ESTIMATORS,
    HESSIAN,
    INTERVAL,
    PHASES,
    ROTATED,
    SMOOTHNESS,
    UNCORRECTED,
    Made,
    PhaseOptions,
    Settings,
    Workshop,
    same_codes,
    smoothness_results,
)
from reports import Report
from thermoq.evaluation.sums import SumsOverTrajectory
from variants import MODEL_ITSELF

OPTIMIZE = PHASES["Phase 3"]
WINDOWS, TIMESTEPS = (0.125, 0.25, 0.5, 0.75, 1.0), 1000  # of 4 time groups
SEARCH: Settings = {"clip_search": True}  # by default only with fewer bits
RANGES_ALONE: Settings = {**UNCORRECTED, "row_choice": "none"}
PROTOTYPE_UNCORRECTED = "the prototype: 0.71"
TARGETS = {"Phase 2": 1.01, "Phase 3": 0.62}
GROUPS = (1, 4, 10, 20)
ACTIVATION_BITS = 8
CODES: dict[str, Settings] = {"affine": HESSIAN, "defaults": DEFAULTS}


def report(options: PhaseOptions) -> Report:
    """Measure every phase, and every step of Phase 3 by itself."""
    trajectories = Trajectories(options)
    with Workshop(MODEL, calibrations(options)[MODEL_ITSELF], options) as workshop:
        table = Table(trajectories, workshop)
        results = [one for codes in CODES for one in phase_results(table, codes)]
        results += best(table)
        results += weights_alone(table)
        if options.ablation:
            for name, *settings in ablation():
                table.add(name, workshop.make(HESSIAN, *settings))
            comparisons(table)
        missing = [*table.lines, *workshop.missing]
    what = (
        "demo model at INT2, codes of hessian (affine: 64 weights a group, unrotated; defaults: "
        f"trellis, rotated), inputs at {ACTIVATION_BITS} bits, 4 time groups: output error over "
        f"{options.samples} held-out trajectories of {options.steps} steps, and the mean of the "
        "quarters' ratios to Phase 1 on the affine codes; noisiest quarter first"
    )
    return Report(what, table.rows, missing, results, "value", INTERVAL)


class Table:
    """Variants as they are measured; the first is what the others are held against."""

    def __init__(self, trajectories: Trajectories, workshop: Workshop) -> None:
        self._trajectories = trajectories
        self.workshop = workshop
        self.rows = [["variant", *SMOOTHNESS, "time parameters", *ERRORS]]
        self.sums: dict[str, SumsOverTrajectory] = {}
        self.lines: list[str] = []

    def add(self, name: str, made: Made, model: Any = None) -> SumsOverTrajectory:
        """Measure `made`, or `model` in its place, and write a row."""
        running = thermoq.load(made.directory) if model is None else model
        sums = self.sums[name] = self._trajectories.sums(running)
        own = [*made.smoothness(), f"{made.time_share:.2%}"]
        cells = own if model is None else [""] * len(own)
        self.rows.append([name, *cells, *error_cells(sums, next(iter(self.sums.values())))])
        return sums


def phase_results(table: Table, codes: str) -> list[Result]:
    """Measure the three phases on the same codes."""
    made = {name: table.workshop.make(CODES[codes], phase) for name, phase in PHASES.items()}
    table.lines.append(f"{codes}, {same_codes(made)}")
    sums = {name: table.add(f"{name}, {codes}", one) for name, one in made.items()}
    uncorrected = table.workshop.make(CODES[codes], OPTIMIZE, UNCORRECTED)
    without = table.add(f"Phase 3, {codes}, no output correction", uncorrected)
    first = sums["Phase 1"]
    results = smoothness_results(f"demo model, {codes}", made)
    for name, target in TARGETS.items():
        what = f"{codes}, {name}: output error over Phase 1's"
        results.append(against(what, sums[name], first, target))
    what = f"{codes}, Phase 3 without the output correction: the same"
    results.append(against(what, without, first, None, PROTOTYPE_UNCORRECTED))
    for name in TARGETS:
        what = f"{codes}, {name}: output cosine over Phase 1's"
        results.append(cosine_against(what, sums[name], first))
    return results


def best(table: Table) -> list[Result]:
    """Measure Phase 3 with the weight methods that lose least."""
    ways: dict[str, Settings] = {
        "affine, rotated": ROTATED,
        "coded, rotated": {"method": "hessian", "rotation": "hadamard", "encoding": "coded"},
        "trellis, rotated": DEFAULTS,
    }
    first, results = table.sums["Phase 1, affine"], []
    for name, settings in ways.items():
        table.add(f"Phase 1, {name}", table.workshop.make(settings))
        sums = table.add(f"Phase 3, {name}", table.workshop.make(settings, OPTIMIZE))
        what = f"best: Phase 3, {name}, over Phase 1 on the affine codes: output error"
        results.append(against(what, sums, first))
    return results


def weights_alone(table: Table) -> list[Result]:
    """Measure phases with inputs in f32: what 8-bit inputs cost is beyond what codes and rows do.

    Row gains are those that were fitted with quantized inputs.
    """
    sums = {}
    ways: dict[str, Settings] = {
        **PHASES,
        "Phase 3, no output correction": {**OPTIMIZE, **UNCORRECTED},
    }
    for name, phase in ways.items():
        made = table.workshop.make(HESSIAN, phase)
        exact = with_exact_inputs(thermoq.load(made.directory))
        sums[name] = table.add(f"{name}, affine, inputs in f32", made, exact)
    what = "affine, inputs in f32, {}: output error over Phase 1's"
    first = sums.pop("Phase 1")
    return [against(what.format(name), one, first) for name, one in sums.items()]


def ablation() -> Iterator[tuple[Any, ...]]:
    """Yield the name and the settings of each step by itself, on the affine codes."""
    kept: Settings = {"clip_search": False}
    for share in WINDOWS:
        window = {"window": share * TIMESTEPS / 4 / 2}
        yield f"2: windows of {share:g} of the widest", PHASES["Phase 2"], window
    yield "3: clip search alone", OPTIMIZE, RANGES_ALONE, SEARCH, {"coupling": 0}
    yield "3: coupling of ranges alone", OPTIMIZE, RANGES_ALONE, kept
    yield "3: clip search, coupling", OPTIMIZE, RANGES_ALONE, SEARCH
    yield "3: all, clip search too", OPTIMIZE, SEARCH
    for one in ESTIMATORS:
        yield f"3: gains alone, {one}", OPTIMIZE, UNCORRECTED, kept, {"gain_estimator": one}
    for choice in ("pooled", "per_time_group"):
        yield f"3: gains alone, all {choice}", OPTIMIZE, UNCORRECTED, kept, {"row_choice": choice}
    for choice in ("pooled", "per_time_group"):
        yield f"3: all but correction, all {choice}", OPTIMIZE, UNCORRECTED, {"row_choice": choice}
    yield "3: all but correction, coupling 0", OPTIMIZE, UNCORRECTED, {"coupling": 0}
    yield "3: correction alone", OPTIMIZE, kept, {"row_choice": "none"}
    for one in ESTIMATORS:
        yield f"3: all, {one}", OPTIMIZE, {"gain_estimator": one}
    yield "3: all, coupling 0", OPTIMIZE, {"coupling": 0}
    yield "3: all, not smoothed", OPTIMIZE, {"smoothing": False}
    yield "3: all, rotated", OPTIMIZE, ROTATED
    for count in GROUPS:
        groups = {"num_time_groups": count}
        yield f"G = {count}: Phase 1", groups
        yield f"G = {count}: Phase 3, no correction", OPTIMIZE, UNCORRECTED, groups
        yield f"G = {count}: Phase 3", OPTIMIZE, groups


def comparisons(table: Table) -> None:
    """Add the rows of comparison: static parameters are G = 1; dynamic ones; inputs in f32."""
    for name, codes in (("affine", HESSIAN), ("affine, rotated", ROTATED)):
        made = table.workshop.make(codes, PHASES["Phase 1"])
        dynamic = with_dynamic_inputs(thermoq.load(made.directory), ACTIVATION_BITS)
        table.add(f"dynamic scales per token, {name}", made, dynamic)
    exact = with_exact_inputs(thermoq.load(made.directory))
    table.add("Phase 1, affine, rotated, inputs in f32", made, exact)
