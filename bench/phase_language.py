"""The phases on the masked language model of the tests at INT2, on held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import thermoq
from language_model import LENGTH, MODEL, RATIOS, TEXT, calibrations, held_out_windows
from measuring import Result, note
from numpy.typing import NDArray
from phase_variants import (
    DEFAULTS,
    ESTIMATORS,
    HESSIAN,
    INTERVAL,
    LSQ,
    PHASES,
    SMOOTHNESS,
    UNCORRECTED,
    Made,
    PhaseOptions,
    Settings,
    Workshop,
    paired,
    row_choices,
    same_codes,
    smoothness_results,
)
from reports import Report

OPTIMIZE = PHASES["Phase 3"]
CODES: dict[str, Settings] = {"hessian": HESSIAN, "lsq": LSQ, "defaults": DEFAULTS}
TARGETS: dict[str, dict[str, float]] = {
    "hessian": {"Phase 2": 1.01, "Phase 3": 0.93},
    "lsq": {"Phase 2": 1.01, "Phase 3": 0.75},
}
GROUPS = (1, 4, 10)
SUMS = ("tokens", "divergence", "cross_entropy", "correct", "full_cross_entropy", "full_correct")


def report(options: PhaseOptions) -> Report:
    """Measure every phase with both weight methods."""
    with Workshop(MODEL, calibrations(options)[TEXT], options) as workshop:
        table = Table(options, workshop)
        results = [one for codes in CODES for one in phase_results(table, codes)]
        if options.ablation:
            for codes in ("hessian", "lsq"):
                results += choices(table, codes)
        lines = [*table.lines, *workshop.missing]
    what = (
        "masked language model at INT2 (hessian, lsq: affine, 64 weights a group; defaults: "
        f"trellis), inputs at 8 bits, 4 time groups: {table.samples} windows of {LENGTH} tokens of "
        f"held-out text, {options.seeds} rounds of masks, at mask ratios "
        f"{', '.join(map(str, RATIOS))}; KL from full precision; the first column is the mean over "
        "mask ratios of KL over that of Phase 1 with the same method"
    )
    return Report(what, table.rows, lines, results, "value", INTERVAL)


class Sums:
    """Sums over a window's masked tokens, in all rounds of masks, each [windows, mask ratios]."""

    def __init__(self, evaluations: list[Any]) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {
            name: np.sum([getattr(one.language.sums, name) for one in evaluations], axis=0)
            for name in SUMS
        }

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self._sums[name]

    def cells(self, prefix: str = "") -> list[str]:
        """KL, cross-entropy and top-1 accuracy at each mask ratio."""
        kl, loss, correct = (
            self[name].sum(0) / self["tokens"].sum(0)
            for name in ("divergence", f"{prefix}cross_entropy", f"{prefix}correct")
        )
        kl_cells = [""] * len(RATIOS) if prefix else [f"{x:.4f}" for x in kl]
        return [*kl_cells, *(f"{x:.4f}" for x in loss), *(f"{x:.1%}" for x in correct)]


class Table:
    """Variants as they are measured."""

    def __init__(self, options: PhaseOptions, workshop: Workshop) -> None:
        self._options, self.workshop = options, workshop
        self.samples = min(options.samples, len(held_out_windows()))
        self._text = held_out_text(options.workdir)
        columns = [f"{name} {ratio}" for name in ("KL", "loss", "top-1") for ratio in RATIOS]
        self.rows = [["variant", "KL of Phase 1", *SMOOTHNESS, *columns, "layers chose"]]
        self.lines: list[str] = []

    def add(self, name: str, made: Made, first: Sums | None) -> Sums:
        """Measure `made` and write a row; `first` is its Phase 1, None for that itself."""
        note(f"evaluating {name}")
        evaluations = [
            thermoq.evaluate(
                MODEL, made.directory, samples=self.samples, data=self._text, length=LENGTH,
                seed=seed, threads=self._options.threads, timing=False,
            )
            for seed in range(self._options.seeds)
        ]  # fmt: skip
        sums = Sums(evaluations)
        if len(self.rows) == 1:
            cells = sums.cells("full_")
            self.rows.append(["full precision", "", *[""] * len(SMOOTHNESS), *cells, ""])
        ratio = kl_against("", sums, sums if first is None else first).value
        cells = [f"{ratio:.3f}", *made.smoothness(), *sums.cells(), row_choices(made)]
        self.rows.append([name, *cells])
        return sums


def held_out_text(workdir: Path) -> Path:
    """Write the text that neither training nor calibration saw, and return where."""
    from train_language_model import load_text

    path = workdir / "held-out-text.txt"
    path.write_text(load_text()[1], encoding="utf-8")
    return path


def kl_against(
    what: str, ours: Sums, theirs: Sums, target: float | None = None, detail: str = ""
) -> Result:
    """The mean over mask ratios of the ratios of KL, with its interval."""
    pair = ours["divergence"], theirs["divergence"]
    return paired(what, *pair, target, parts="mask ratios", note=detail)


def phase_results(table: Table, codes: str) -> list[Result]:
    """Measure the three phases on the same codes."""
    made = {name: table.workshop.make(CODES[codes], phase) for name, phase in PHASES.items()}
    table.lines.append(f"{codes}, {same_codes(made)}")
    first = table.add(f"Phase 1, {codes}", made["Phase 1"], None)
    results = smoothness_results(f"language model, {codes}", made)
    for name in ("Phase 2", "Phase 3"):
        sums = table.add(f"{name}, {codes}", made[name], first)
        target = TARGETS.get(codes, {}).get(name)
        results.append(kl_against(f"{codes}, {name}: KL over Phase 1's", sums, first, target))
        totals = [one["correct"].sum(1, keepdims=True) for one in (sums, first)]
        what = f"{codes}, {name}: top-1 accuracy over Phase 1's"
        results.append(paired(what, *totals, at_least=True))
    return results


def steps() -> Iterator[tuple[Any, ...]]:
    """Yield the name and the settings of each step of Phase 3 by itself."""
    yield "3: all but correction", OPTIMIZE, UNCORRECTED
    yield "3: ranges alone", OPTIMIZE, UNCORRECTED, {"row_choice": "none"}
    for choice in ("pooled", "per_time_group"):
        yield f"3: all but correction, all {choice}", OPTIMIZE, UNCORRECTED, {"row_choice": choice}
    for one in ESTIMATORS:
        yield f"3: all but correction, {one}", OPTIMIZE, UNCORRECTED, {"gain_estimator": one}
    alone: Settings = {"clip_search": False, "row_choice": "none"}
    yield "3: correction alone", OPTIMIZE, alone
    for count in GROUPS:
        groups = {"num_time_groups": count}
        yield f"G = {count}: Phase 1", PHASES["Phase 1"], groups
        yield f"G = {count}: Phase 3", OPTIMIZE, groups


def choices(table: Table, codes: str) -> list[Result]:
    """Measure every step, and what four time groups have over pooled gains."""
    first = table.add(
        f"Phase 1, {codes}", table.workshop.make(CODES[codes], PHASES["Phase 1"]), None
    )
    table.rows.pop()  # there already
    sums = {}
    for name, *settings in steps():
        made = table.workshop.make(CODES[codes], *settings)
        sums[name] = table.add(f"{name}, {codes}", made, first)
    pooled, grouped, chosen = (
        sums[f"3: all but correction{rest}"]
        for rest in (", all pooled", ", all per_time_group", "")
    )
    found = row_choices(table.workshop.make(CODES[codes], OPTIMIZE))
    return [
        kl_against(f"{codes}: KL, all per time group over all pooled", grouped, pooled),
        kl_against(f"{codes}: KL, what layers chose over all pooled", chosen, pooled, None, found),
    ]
