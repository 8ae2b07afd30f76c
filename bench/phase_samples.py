"""The phases by the demo model's samples: accuracy and Frechet distance, over seeds of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import thermoq
from demo_model import MODEL, NUM_CLASSES, calibrations, load, scheduler_of
from measuring import Result, note
from phase_variants import (
    DEFAULTS,
    ESTIMATORS,
    HESSIAN,
    LSQ,
    PHASES,
    ROTATED,
    UNCORRECTED,
    PhaseOptions,
    Settings,
    Workshop,
)
from reports import Report
from thermoq.evaluation.judge import Judge, load_judge
from thermoq.evaluation.samples import draw
from thermoq.evaluation.settings import held_out_seed
from thermoq.progress import NoSteps
from variants import MODEL_ITSELF

OPTIMIZE = PHASES["Phase 3"]
CODES: dict[str, Settings] = {"affine": HESSIAN, "defaults": DEFAULTS, "lsq affine": LSQ}
TARGETS = {"Phase 2": 1.0, "Phase 3": 0.45}


def report(options: PhaseOptions) -> Report:
    """Draw and judge samples of every variant."""
    with Workshop(MODEL, calibrations(options)[MODEL_ITSELF], options) as workshop:
        table = Table(options)
        table.add("full precision", load(MODEL))
        results = []
        for codes, settings in CODES.items():
            if options.only and codes not in options.only:
                continue
            for name, phase in PHASES.items():
                table.make(f"{name}, {codes}", workshop, settings, phase)
                results += table.gaps(f"{name}, {codes}", f"Phase 1, {codes}", TARGETS.get(name))
            if codes == "lsq affine" or not options.ablation:
                continue
            name = f"Phase 3, {codes}, no output correction"
            table.make(name, workshop, settings, OPTIMIZE, UNCORRECTED)
            results += table.gaps(name, f"Phase 1, {codes}")
            for one in ESTIMATORS:
                for kind, also in (("", {}), (", no output correction", UNCORRECTED)):
                    name = f"Phase 3, {codes}, {one}{kind}"
                    also = {"gain_estimator": one, **also}
                    table.make(name, workshop, settings, OPTIMIZE, also)
                    results += table.gaps(name, f"Phase 1, {codes}")
        if not options.only:
            table.make("Phase 3, affine, rotated", workshop, ROTATED, OPTIMIZE)
            results += table.gaps("Phase 3, affine, rotated", "Phase 1, affine")
        missing = workshop.missing
    what = (
        f"demo model at INT2, inputs at 8 bits, 4 time groups: {options.images:,} samples of "
        f"{options.steps} steps for each of {options.seeds} seeds, the same noise for all; the "
        "gap is the Frechet distance to real digits less full precision's, means over seeds"
    )
    return Report(what, table.rows, missing, results, "value", "over seeds")


@dataclass(frozen=True)
class Quality:
    """Of each seed's samples."""

    accuracy: Sequence[float]
    distance: Sequence[float]


class Table:
    """Variants as they are judged; the first is full precision."""

    def __init__(self, options: PhaseOptions) -> None:
        self._options = options
        self._judge: Judge = load_judge()
        self._scheduler = scheduler_of(MODEL)
        self._qualities: dict[str, Quality] = {}
        self.rows = [["variant", "accuracy", "Frechet distance", "of each seed", "gap"]]

    def make(self, name: str, workshop: Workshop, *settings: Settings) -> None:
        """Quantize, judge and write a row."""
        if name not in self._qualities:
            self.add(name, thermoq.load(workshop.make(*settings).directory))

    def add(self, name: str, model: Any) -> None:
        """Judge `model` and write a row."""
        note(f"drawing with {name}")
        options, accuracy, distance = self._options, [], []
        labels = np.arange(options.images) % NUM_CLASSES
        for seed in range(options.seeds):
            noise = held_out_seed(seed)
            given = model, self._scheduler, options.images, options.steps, noise
            pixels = draw(*given, NoSteps())
            accuracy.append(float((self._judge.classes(pixels) == labels).mean()))
            once = np.ones((1, len(pixels)), np.int64)
            rows = self._judge.components(pixels)
            distance.append(float(self._judge.distances(rows, once)[0]))
        self._qualities[name] = Quality(accuracy, distance)
        each = " ".join(f"{x:.3f}" for x in distance)
        gap = float(self._gaps(name).mean())
        cells = [f"{np.mean(accuracy):.2%}", f"{np.mean(distance):.4f}", each, f"{gap:.4f}"]
        self.rows.append([name, *cells])

    def gaps(self, name: str, beside: str, target: float | None = None) -> list[Result]:
        """The gap of `name` over that of `beside`; nothing for itself."""
        if name == beside:
            return []
        ours, theirs = self._gaps(name), self._gaps(beside)
        by_seed = ours / theirs
        low, high = float(by_seed.min()), float(by_seed.max())
        what = f"{name}: gap to full precision over that of {beside}"
        value = float(ours.mean() / theirs.mean())
        return [Result(what, value, "x", low, high, target, at_least=False)]

    def _gaps(self, name: str) -> Any:
        full = next(iter(self._qualities.values())).distance
        return np.subtract(self._qualities[name].distance, full)
