"""Trellis codes beside coded ones in Phase 3 of both models: `hessian`, both rotated."""

from __future__ import annotations

from pathlib import Path

import demo_model
import language_model
import phase_language
import thermoq
from measuring import Result
from phase_inputs import with_exact_inputs
from phase_trajectory import Trajectories, against
from phase_variants import INTERVAL, PHASES, Made, PhaseOptions, Settings, Workshop
from reports import Report
from thermoq.evaluation.sums import SumsOverTrajectory
from variants import MODEL_ITSELF

USUAL: Settings = {"method": "hessian", "rotation": "hadamard", **PHASES["Phase 3"]}
CODED = "coded"
WAYS: dict[str, Settings] = {
    CODED: {"encoding": "coded"},
    "trellis, effort 1": {"encoding": "trellis", "effort": 1},
    "trellis, effort 5": {"encoding": "trellis", "effort": 5},
}
MOST_BITS, LEAST_OF_CODED, OF_CODED = 2.2, 2.6, 0.7  # what is wanted


def options(samples: int, seeds: int, threads: int, workdir: Path) -> PhaseOptions:
    """What the benchmarks of phases are told."""
    return PhaseOptions(
        samples=samples, steps=50, guidance=1.0, images=0, rounds=1, whole_model=False, only=(),
        also=(), threads=threads, workdir=workdir, calibration=None, seeds=seeds, repeats=1,
        ablation=False,
    )  # fmt: skip


def report(given: PhaseOptions) -> Report:
    """Make and measure every variant of both models."""
    rows = [["model", "codes", "body bits/weight", "output error by quarter, or KL by mask ratio"]]
    results = [*demo(given, rows), *language(given, rows)]
    what = (
        "hessian, INT2, rotated, Phase 3, inputs at 8 bits; bits are of the body's codes and "
        f"scales. Demo model: output error over {given.samples} held-out trajectories; language "
        f"model: KL on held-out text, {given.seeds} rounds of masks"
    )
    return Report(what, rows, (), results, "value", INTERVAL)


def body_bits(made: Made) -> float:
    """Bits per weight of the body's codes and scales, without what varies along the trajectory."""
    body = [row for row in made.report.layers if row.layer_class == "body"]
    stored = sum(row.stored_bytes - row.time_parameter_bytes for row in body)
    return 8 * stored / sum(row.num_weights for row in body)


def bits_results(model: str, bits: dict[str, float]) -> list[Result]:
    """Whether codes are as small as is wanted, and what they are held against as large."""
    return [
        Result(
            f"{model}, {name}: body bits per weight", value, "", None, None,
            LEAST_OF_CODED if name == CODED else MOST_BITS, name == CODED,
        )
        for name, value in bits.items()
    ]  # fmt: skip


def demo(given: PhaseOptions, rows: list[list[str]]) -> list[Result]:
    """Measure the demo model, with inputs at 8 bits and in f32."""
    trajectories, calibrations = Trajectories(given), demo_model.calibrations(given)
    bits, sums = {}, {}
    with Workshop(demo_model.MODEL, calibrations[MODEL_ITSELF], given) as workshop:
        for name, settings in WAYS.items():
            made = workshop.make(USUAL, settings)
            bits[name] = body_bits(made)
            sums[name] = trajectories.sums(thermoq.load(made.directory))
            exact = f"{name}, inputs in f32"
            sums[exact] = trajectories.sums(with_exact_inputs(thermoq.load(made.directory)))
            size = f"{bits[name]:.3f}"
            rows.extend(["demo", one, size, _quarters(sums[one])] for one in (name, exact))
    found = bits_results("demo model", bits)
    for name in WAYS:
        if name != CODED:
            what = f"demo model, {name}: output error over coded's"
            found.append(against(what, sums[name], sums[CODED], OF_CODED))
            pair = (sums[f"{one}, inputs in f32"] for one in (name, CODED))
            found.append(against(f"{what}, inputs in f32", *pair, OF_CODED))
    return found


def _quarters(sums: SumsOverTrajectory) -> str:
    errors = sums.squared_error.sum(0) / sums.energy.sum(0)
    return " ".join(f"{float(x):.3g}" for x in errors)


def language(given: PhaseOptions, rows: list[list[str]]) -> list[Result]:
    """Measure the language model."""
    calibration = language_model.calibrations(given)[language_model.TEXT]
    bits, sums = {}, {}
    with Workshop(language_model.MODEL, calibration, given) as workshop:
        table = phase_language.Table(given, workshop)
        for name, settings in WAYS.items():
            made = workshop.make(USUAL, settings)
            bits[name] = body_bits(made)
            sums[name] = one = table.add(name, made, sums.get(CODED))
            kl = one["divergence"].sum(0) / one["tokens"].sum(0)
            cells = " ".join(f"{float(x):.4f}" for x in kl)
            rows.append(["language", name, f"{bits[name]:.3f}", cells])
    found = bits_results("language model", bits)
    for name in WAYS:
        if name != CODED:
            what = f"language model, {name}: KL over coded's"
            found.append(phase_language.kl_against(what, sums[name], sums[CODED], OF_CODED))
    return found
