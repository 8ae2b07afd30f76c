"""The phases on the demo model with 4-bit inputs and weights at full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from demo_model import calibrations
from full_weights import FullWeights
from measuring import Result, note
from phase_inputs import with_dynamic_inputs
from phase_trajectory import ERRORS, Trajectories, against, error_cells
from phase_variants import INTERVAL, PhaseOptions
from reports import Report
from thermoq.evaluation.sums import SumsOverTrajectory
from thermoq.terms import LayerClass
from variants import MODEL_ITSELF

BITS = 4
GROUPS = 10
COUNTS = (1, 4, 20)
SHARES = {"1/4": 0.25, "1/2": 0.5, "whole": 1.0}
TIMESTEPS = 1000
BODY: tuple[LayerClass, ...] = ("body",)
SCOPES: Mapping[str, Mapping[str, Any]] = {
    "body": {"classes": BODY},
    "by default": {},
    "others at 8 bits": {"sensitive_activation_bits": 8},
    f"all at {BITS} bits": {"layers": [{"match": "*", "activation_bits": BITS}]},
}
WAYS = {"": False, ", rotated": True}
TARGETS = {"Phase 2": 0.99, "Phase 3": 0.35, "Phase 3, rotated": 0.15}
Models = Iterator[tuple[str, Callable[[], Any]]]


def report(options: PhaseOptions) -> Report:
    """Measure every phase, then its steps, other numbers of groups, and dynamic scales."""
    trajectories = Trajectories(options)
    calibration = calibrations(options)[MODEL_ITSELF]
    rows, found = [["inputs", "variant", *ERRORS]], []
    for scope in SCOPES:
        sums: dict[str, SumsOverTrajectory] = {}
        for name, make in models(calibration, options, scope):
            note(f"{scope}: making {name}")
            sums[name] = trajectories.sums(make())
            rows.append([scope, name, *error_cells(sums[name], sums["Phase 1"])])
        found += results(scope, sums)
    what = (
        f"demo model, inputs of body matrices at {BITS} bits, weights at full precision, {GROUPS} "
        "time groups. Beside them no others; those that a run quantizes by default (modulation at "
        "8 bits, embedders and first and last projection not at all); all others at 8 bits; or at "
        f"{BITS} too. Output error over {options.samples} held-out trajectories of "
        f"{options.steps} steps, and the mean of the quarters' ratios to Phase 1; noisiest quarter "
        "first"
    )
    return Report(what, rows, (), found, "value", INTERVAL)


def models(calibration: Path, options: PhaseOptions, scope: str) -> Models:
    """Yield the name and the maker of each variant, Phase 1 first."""
    for way, rotated in WAYS.items():

        def layers(groups: int, rotated: bool = rotated) -> FullWeights:
            return FullWeights(calibration, BITS, groups, rotated=rotated, **SCOPES[scope])

        usual = layers(GROUPS)
        yield from phases(usual, way, options)
        if options.ablation and scope == next(iter(SCOPES)):
            yield from steps(usual, way, options)
            for count in COUNTS:
                yield from other_groups(layers(count), f"G = {count}: ", way)


def phases(layers: FullWeights, way: str, options: PhaseOptions) -> Models:
    """Yield the phases on the same layers, and dynamic scales beside them."""
    measured, optimized = layers.measured(), layers.optimized()
    yield f"Phase 1{way}", lambda: layers.model(measured, smooth=False)
    yield f"Phase 2{way}", lambda: layers.model(measured, smooth=True)
    if options.ablation:
        for share, part in SHARES.items():
            window = part * TIMESTEPS / GROUPS / 2
            made = partial(layers.model, measured, smooth=True, window=window)
            yield f"2: window {share} of the widest{way}", made
    yield f"Phase 3{way}, no output correction", lambda: layers.model(optimized, smooth=True)
    yield f"Phase 3{way}", lambda: layers.corrected(optimized, options.threads)
    yield (
        f"dynamic scales per token{way}",
        lambda: with_dynamic_inputs(layers.model(measured, smooth=False)),
    )


def steps(layers: FullWeights, way: str, options: PhaseOptions) -> Models:
    """Yield each step of Phase 3 by itself."""
    for name, choices in (
        ("clip search alone", {"choice": "none", "coupling": 0.0}),
        ("clip search, coupling", {"choice": "none"}),
        ("gains alone", {"clip_search": False}),
        ("all but correction, coupling 0", {"coupling": 0.0}),
        ("all but correction, all pooled", {"choice": "pooled"}),
        ("all but correction, all per_time_group", {"choice": "per_time_group"}),
    ):
        found = layers.optimized(**choices)
        yield f"3: {name}{way}", partial(layers.model, found, smooth=True)
    measured = layers.measured()
    yield f"3: correction alone{way}", lambda: layers.corrected(measured, options.threads)


def other_groups(layers: FullWeights, prefix: str, way: str) -> Models:
    """Yield two phases with another number of time groups: with one, parameters are static."""
    measured, optimized = layers.measured(), layers.optimized()
    yield f"{prefix}Phase 1{way}", lambda: layers.model(measured, smooth=False)
    name = f"{prefix}Phase 3{way}, no output correction"
    yield name, lambda: layers.model(optimized, smooth=True)


def results(scope: str, sums: dict[str, SumsOverTrajectory]) -> list[Result]:
    """The figures to reach, and dynamic scales beside Phase 3."""
    first = sums["Phase 1"]
    found = [
        against(f"{scope}, {name}: output error over Phase 1's", sums[name], first, target)
        for name, target in TARGETS.items()
    ]
    for way in WAYS:
        what = f"{scope}, Phase 2{way}: output error over that of Phase 1{way}"
        found.append(against(what, sums[f"Phase 2{way}"], sums[f"Phase 1{way}"]))
        name, beside = f"dynamic scales per token{way}", f"Phase 3{way}"
        for other in (beside, f"{beside}, no output correction"):
            what = f"{scope}, {name}: output error over that of {other}"
            found.append(against(what, sums[name], sums[other]))
    return found
