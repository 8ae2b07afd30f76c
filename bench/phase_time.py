"""What the phases cost: quantization time, inference time, bytes of time parameters."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import thermoq
import torch
from demo_model import MODEL, NUM_CLASSES, calibrations, load, scheduler_of
from measuring import Result, note, summarize
from phase_variants import (
    DEFAULTS,
    HESSIAN,
    PHASES,
    UNCORRECTED,
    Made,
    PhaseOptions,
    Settings,
    Workshop,
)
from reports import Report
from variants import MODEL_ITSELF
from wide_layer import WIDTH, calibrated_layer

BATCH = 64
TARGETS = {"Phase 2": 1.1, "Phase 3": 1.15}
SHARE_TARGET = 2.0  # percent, with four groups
CODES: dict[str, Settings] = {"affine": HESSIAN, "defaults": DEFAULTS}
WIDE_REPEATS = 3
STATIC = "static"
STEPS = 10  # of a sampler, timed one by one in each round


def report(options: PhaseOptions) -> Report:
    """Time everything, in turns."""
    rows = [["model", "phase", "time parameters, bytes", "of the files"]]
    results: list[Result] = []
    with Workshop(MODEL, calibrations(options)[MODEL_ITSELF], options) as workshop:
        for codes, settings in CODES.items():
            what = f"demo model, {codes}"
            results += quantization(what, workshop, settings, options.repeats)
            for name, phase in PHASES.items():
                rows.append([what, name, *size_cells(workshop.make(settings, phase))])
        results += inference(workshop, options.repeats)
    with tempfile.TemporaryDirectory(prefix="wide-", dir=options.workdir) as place:
        note(f"wide layer: {WIDTH} x {WIDTH}")
        model, calibration = calibrated_layer(Path(place))
        with Workshop(model, calibration, options) as workshop:
            repeats = min(WIDE_REPEATS, options.repeats)
            name = f"a layer of {WIDTH} x {WIDTH}"
            results += quantization(name, workshop, HESSIAN, repeats)
            results += wide_bytes(name, workshop, rows)
    what = (
        f"overhead of Phases 2 and 3: wall-clock ratios of turns of {options.repeats}; inference "
        f"with a batch of {BATCH}, each of {STEPS} timesteps by itself, static being Phase 1 with "
        "one time group"
    )
    return Report(what, rows, (), results)


def quantization(what: str, workshop: Workshop, settings: Settings, repeats: int) -> list[Result]:
    """Quantize in turns; the output correction is timed by itself."""
    seconds: dict[str, list[float]] = {name: [] for name in PHASES}
    parts: dict[str, list[float]] = {name: [] for name in PHASES}
    for run in range(repeats + 1):
        note(f"{what}: quantizing, round {run} of {repeats}")
        for name, phase in PHASES.items():
            start = time.perf_counter()
            made = workshop.fresh({**settings, **phase, **UNCORRECTED}, "timed")
            elapsed_s = time.perf_counter() - start
            if run > 0:  # the first call does not count
                seconds[name].append(elapsed_s)
                parts[name].append(made.report.provenance.times_s.get("optimize_s", 0.0))
    base = statistics.median(seconds["Phase 1"])
    found = [summarize(f"{what}, Phase 1: quantization", seconds["Phase 1"], "s")]
    for name, target in TARGETS.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["Phase 1"], strict=True)]
        detail = f"Phase 3's own work: {statistics.median(parts[name]):.2f} of {base:.2f} s"
        shown = detail if name == "Phase 3" else ""
        title = f"{what}, {name}: quantization over Phase 1"
        found.append(summarize(title, ratios, "x", target=target, at_least=False, detail=shown))
    if what.startswith("demo"):
        corrected = workshop.make(settings, PHASES["Phase 3"])
        own = corrected.report.provenance.times_s.get("output_correction_s")
        found.append(Result(f"{what}: output correction, by itself", own, "s"))
    return found


def inference(workshop: Workshop, repeats: int) -> list[Result]:
    """Run all models in turns on the same inputs."""
    static = workshop.make(HESSIAN, PHASES["Phase 1"], {"num_time_groups": 1})
    running: dict[str, Any] = {STATIC: thermoq.load(static.directory)}
    for name, phase in PHASES.items():
        running[name] = thermoq.load(workshop.make(HESSIAN, phase).directory)
    uncorrected = workshop.make(HESSIAN, PHASES["Phase 3"], UNCORRECTED)
    running["Phase 3, no output correction"] = thermoq.load(uncorrected.directory)
    running["full precision"] = load(MODEL)
    found = passes(running, repeats)
    results = [summarize("static parameters: a pass", [1e3 * x for x in found[STATIC]], "ms")]
    for name, each in found.items():
        if name != STATIC:
            ratios = [a / b for a, b in zip(each, found[STATIC], strict=True)]
            target = TARGETS.get(name)
            what = f"{name}: inference over static parameters"
            results.append(summarize(what, ratios, "x", target=target, at_least=False))
    return results


@torch.no_grad()
def passes(running: Mapping[str, Any], repeats: int) -> dict[str, list[float]]:
    """Seconds of each pass, the models taking turns at each timestep, each first in its turn."""
    scheduler = scheduler_of(MODEL)
    scheduler.set_timesteps(STEPS)
    states = torch.randn(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(BATCH) % NUM_CLASSES
    found: dict[str, list[float]] = {name: [] for name in running}
    names = list(running)
    for run in range(repeats + 1):
        for number, timestep in enumerate(scheduler.timesteps):
            first = (run + number) % len(names)
            for name in (*names[first:], *names[:first]):
                start = time.perf_counter()
                running[name](states, timestep=timestep.expand(BATCH), class_labels=labels)
                if run > 0:
                    found[name].append(time.perf_counter() - start)
    return found


def size_cells(made: Made) -> list[str]:
    """The cells of a row on bytes."""
    return [f"{made.report.sizes.time_parameter_bytes:,}", f"{made.time_share:.2%}"]


def wide_bytes(name: str, workshop: Workshop, rows: list[list[str]]) -> list[Result]:
    """Bytes of time parameters of each phase, as chosen and where all rows have them by group."""
    forced: Settings = {**PHASES["Phase 3"], **UNCORRECTED, "row_choice": "per_time_group"}
    ways: dict[str, Settings] = {key: {**phase, **UNCORRECTED} for key, phase in PHASES.items()}
    ways["Phase 3, all per_time_group"] = forced
    results = []
    for key, settings in ways.items():
        made = workshop.make({**HESSIAN, "method": "minmax"}, settings)
        rows.append([name, key, *size_cells(made)])
        if key.startswith("Phase 3"):
            what = f"{name}, {key}: time parameters in the files"
            share = 100 * made.time_share
            results.append(Result(what, share, "%", None, None, SHARE_TARGET, at_least=False))
    return results
