"""The quantized checkpoints that the benchmarks of phases compare, each made once in a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import thermoq
from measuring import Result, note, shown
from numpy.typing import NDArray
from reports import Options
from thermoq.checkpoint.manifest import CopiedTensor
from thermoq.checkpoint.quantized import open_quantized
from thermoq.evaluation.intervals import draws, ratio_replicates
from variants import AFFINE, BIT_WIDTH

Settings = Mapping[str, Any]

HESSIAN: Settings = {"method": "hessian", "rotation": "none", **AFFINE}
ROTATED: Settings = {"method": "hessian", "rotation": "hadamard", **AFFINE}
LSQ: Settings = {"method": "lsq", "rotation": "none", **AFFINE}
DEFAULTS: Settings = {}
UNCORRECTED: Settings = {"output_correction": False}
ESTIMATORS = ("unbiased", "variance", "least_squares")
PHASES: Mapping[str, Settings] = {
    "Phase 1": {"phase": "baseline"},
    "Phase 2": {"phase": "smooth"},
    "Phase 3": {"phase": "optimize"},
}
SCORE_TARGETS = {"Phase 2": 0.82, "Phase 3": 0.9}
VIOLATION_TARGETS = {"Phase 2": 1.0, "Phase 3": 0.0}
INTERVAL = "95 % interval"


@dataclass(frozen=True)
class PhaseOptions(Options):
    """The command line of phases.py, by its names."""

    seeds: int
    repeats: int
    ablation: bool


@dataclass(frozen=True)
class Made:
    """A quantized checkpoint with the report of its run."""

    directory: Path
    report: thermoq.Report

    def smoothness(self) -> list[str]:
        """The cells below `SMOOTHNESS`."""
        score, found = self.report.smoothness_score, self.report.thermodynamics
        if score is None or found is None:
            return ["", ""]
        return [f"{score:.3f}", f"{self.report.violation_count} / {found.layer_violation_count}"]

    @property
    def time_share(self) -> float:
        """Bytes of what varies along the trajectory, over those of the files."""
        return self.report.sizes.time_parameter_bytes / self.report.sizes.model_bytes

    def codes(self) -> dict[str, str | None]:
        """The checksum of each quantized tensor's codes."""
        return {
            name: entry.sha256
            for part in open_quantized(self.directory)[1]
            for name, entry in part.manifest.tensors.items()
            if not isinstance(entry, CopiedTensor)
        }


SMOOTHNESS = ("smoothness", "violations, model / layers")


class Workshop:
    """Quantizes a model in all the ways that are asked for, and keeps them for the length of a run.

    What holds for every variant (`bit_width` 2) can be overruled by its settings.
    """

    def __init__(self, model: Path, calibration: Path, options: PhaseOptions) -> None:
        self._model, self._calibration, self._options = model, calibration, options
        self._made: dict[str, Made] = {}
        self.missing: list[str] = []

    def __enter__(self) -> Workshop:
        self._place = tempfile.TemporaryDirectory(prefix="phases-", dir=self._options.workdir)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._place.cleanup()

    def make(self, *settings: Settings) -> Made:
        """Return the variant with these settings, later ones winning."""
        given = {key: value for part in settings for key, value in part.items()}
        key = json.dumps(given, sort_keys=True)
        if key not in self._made:
            words = ", ".join(f"{name}={value}" for name, value in given.items())
            note(f"making {words or 'the defaults'}")
            self._made[key] = self.fresh(given, f"{len(self._made)}")
        return self._made[key]

    def fresh(self, settings: Settings, name: str) -> Made:
        """Quantize anew, over what has this name."""
        directory = Path(self._place.name) / name
        usual = {"bit_width": BIT_WIDTH, "threads": self._options.threads}
        given: dict[str, Any] = {**usual, "calibration": str(self._calibration), **settings}
        report = thermoq.quantize(self._model, directory, overwrite=True, **given)
        for line in report.warnings:
            if line.startswith("optimization:") and line not in self.missing:
                self.missing.append(line)
        return Made(directory, report)


def same_codes(made: Mapping[str, Made]) -> str:
    """Return a line on whether all variants hold the same codes."""
    first, *others = (one.codes() for one in made.values())
    names = ", ".join(made)
    if all(one == first for one in others):
        return f"codes: the same in {names}"
    differing = max(sum(one[name] != first[name] for name in first) for one in others)
    return f"codes: NOT the same in {names}: up to {differing} of {len(first)} tensors differ"


def smoothness_results(model: str, phases: Mapping[str, Made]) -> list[Result]:
    """The smoothness and the violations of each phase, beside the figures to reach."""
    results = []
    first = phases["Phase 1"].report.smoothness_score
    for name, made in phases.items():
        score, found = made.report.smoothness_score, made.report.thermodynamics
        target = SCORE_TARGETS.get(name)
        if name == "Phase 2" and target is not None and first is not None:
            target = max(target, first)  # it is to be higher
        between = None if found is None else found.group_smoothness_score
        detail = "" if between is None else f"{shown(between)} between time groups"
        what = f"{model}, {name}: smoothness score"
        results.append(Result(what, score, target=target, detail=detail))
    for name, made in phases.items():
        count, found = made.report.violation_count, made.report.thermodynamics
        detail = "" if found is None else f"{found.layer_violation_count} in single layers"
        target, value = VIOLATION_TARGETS.get(name), None if count is None else float(count)
        what = f"{model}, {name}: violations"
        results.append(Result(what, value, target=target, at_least=False, detail=detail))
    return results


def paired(
    what: str,
    ours: NDArray[Any],
    theirs: NDArray[Any],
    target: float | None = None,
    *,
    parts: str = "quarters",
    at_least: bool = False,
    note: str = "",
) -> Result:
    """The mean over parts of the ratios of sums over samples, each [samples, parts].

    The interval is by bootstrap over samples, which both have in common.
    """
    ratios = ours.sum(0) / theirs.sum(0)
    replicates = replicated(ours, theirs).mean(1)
    low, high = (float(x) for x in np.percentile(replicates, (2.5, 97.5)))
    detail = "" if len(ratios) == 1 else f"{parts} {' '.join(shown(float(x)) for x in ratios)}"
    detail = "; ".join(part for part in (detail, note) if part)
    return Result(what, float(ratios.mean()), "x", low, high, target, at_least, detail)


def replicated(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the ratios of the parts in each replicate, [replicates, parts]."""
    drawn = draws(len(ours), 0)
    columns = zip(ours.T.astype(np.float64), theirs.T.astype(np.float64), strict=True)
    return np.stack([ratio_replicates(*pair, drawn) for pair in columns], axis=1)


def row_choices(made: Made) -> str:
    """Return how many layers chose what."""
    found = made.report.optimization
    if found is None:
        return ""
    counts: Sequence[str] = [f"{one.num_layers} {one.row_choice}" for one in found.row_choices]
    return ", ".join(counts)
