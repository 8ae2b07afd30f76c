"""thermoq's `hessian` beside the GPTQ reference: error of layers' outputs, and speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gptq_reference import Grid, gptq
from measuring import Result, alternate, note, quartiles, summarize
from numpy.typing import NDArray
from reports import Options, Report
from torch import Tensor
from variants import MODEL_ITSELF

Floats = NDArray[np.float32]

BITS, GROUP = 2, 64
# The least that is asked for; on its own grid `hessian` is GPTQ, but for other arithmetic.
GRIDS: dict[Grid, float] = {"minmax": 1.0, "lsq": 1.0, "weighted lsq": 1.01}
SPEED_RUNS = 3
NUM_ROWS = 2000
SHAPES = ((2048, 2048), (3584, 3584))


def report(options: Options) -> Report:
    """The body matrices of both models, then speed on made-up layers."""
    import demo_model
    import language_model

    own = demo_model.calibrations(options)[MODEL_ITSELF]
    text = language_model.calibrations(options)[language_model.TEXT]
    results, speeds = [], []
    for name, model, calibration in (
        ("demo model", demo_model.MODEL, own),
        ("language model", language_model.MODEL, text),
    ):
        chosen = list(layers(model, calibration))
        note(f"gptq: {name}")
        results += errors(name, chosen)
        speeds.append(speed_on(name, chosen, options.threads))
    for shape in SHAPES:
        note(f"gptq: {shape[0]} x {shape[1]}")
        speeds.append(speed(shape, options.threads))
    what = "an independent GPTQ (gptq_reference.py) on the same layers, rows, bits and groups"
    return Report(what, results=[*results, *speeds])


@dataclass(frozen=True)
class Layer:
    """A weight [out, in] with rows of its input: every other to round with, the rest held out."""

    name: str
    weight: Floats
    rows: Floats
    held_out: Floats

    def error(self, decoded: Floats) -> float:
        """Return the relative squared error of the output on the held-out rows."""
        difference = self.held_out @ (decoded - self.weight).T
        output = self.held_out @ self.weight.T
        return float(np.square(difference, dtype=np.float64).sum() / np.square(output).sum())


def layers(model: Path, calibration: Path) -> Iterator[Layer]:
    """Yield the layers of `model` that `quantize` gives 2 bits."""
    import thermoq
    from safetensors.torch import load_file
    from thermoq.calibration.file import layer_name, read_calibration

    plan = thermoq.plan_quantization(model, bit_width=BITS)
    inputs = read_calibration(calibration)
    files = sorted(model.rglob("*.safetensors"))
    parts = {
        path.parent.relative_to(model).as_posix().strip("."): load_file(path) for path in files
    }
    for one in plan.tensors:
        seen = inputs.input_of(layer_name(one.component, one.name))
        if one.bit_width != BITS or seen is None:
            continue
        weight = parts[one.component][one.name].float().numpy()
        halves = (
            np.concatenate(
                [rows[first:count:2] for rows, count in zip(seen.rows, seen.num_rows, strict=True)]
            ).astype(np.float32)
            for first in (0, 1)
        )
        yield Layer(one.name, weight.reshape(len(weight), -1), *halves)


def hessian(weight: Floats, rows: Floats, threads: int = 0) -> Floats:
    """Return what `weight` decodes to after thermoq's `hessian`."""
    from thermoq.hessian import quantize_hessian
    from thermoq.weights import Scheme, dequantize

    stored = quantize_hessian(weight, Scheme("affine", BITS, GROUP), rows, threads=threads)
    return dequantize(stored).view(np.float32).reshape(weight.shape)


def reference(weight: Floats, rows: Floats, grid: Grid) -> Floats:
    """Return what `weight` decodes to after the reference."""
    decoded: Floats = gptq(_tensor(weight), _tensor(rows), BITS, GROUP, grid).numpy()
    return decoded


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array)


def errors(which: str, chosen: list[Layer]) -> list[Result]:
    """`hessian`'s error over the reference's, the geometric mean over all layers."""
    ours = [layer.error(hessian(layer.weight, layer.rows)) for layer in chosen]
    results = []
    for grid, target in GRIDS.items():
        theirs = [layer.error(reference(layer.weight, layer.rows, grid)) for layer in chosen]
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        value = math.exp(statistics.fmean(map(math.log, ratios)))
        lower, _, upper = quartiles(ratios)
        our, their = (statistics.geometric_mean(of) for of in (ours, theirs))
        detail = (
            f"{len(chosen)} layers at INT{BITS} g{GROUP}, held-out rows; {our:.4f} against "
            f"{their:.4f}, worst layer {max(ratios):.2f} x"
        )
        what = f"{which}: hessian's output error over GPTQ's, {grid} grid"
        results.append(Result(what, value, "x", lower, upper, target, False, detail))
    return results


def speed_on(which: str, chosen: list[Layer], threads: int) -> Result:
    """`hessian` beside the reference on all layers, one after the other."""
    ours_s, theirs_s = alternate(
        lambda: [hessian(layer.weight, layer.rows, threads) for layer in chosen],
        lambda: [reference(layer.weight, layer.rows, "minmax") for layer in chosen],
        SPEED_RUNS,
    )
    rows = len(chosen[0].rows)
    what = f"hessian beside GPTQ in torch, {which}'s {len(chosen)} layers, {rows:,} rows"
    return _faster(what, ours_s, theirs_s, threads)


def speed(shape: tuple[int, int], threads: int) -> Result:
    """The same on a made-up layer. Gram matrix and factors are in the times of both."""
    from layer import made_up

    weight, rows = made_up(*shape, NUM_ROWS)
    ours_s, theirs_s = alternate(
        lambda: hessian(weight, rows, threads),
        lambda: reference(weight, rows, "minmax"),
        SPEED_RUNS,
    )
    what = f"hessian beside GPTQ in torch, {shape[0]} x {shape[1]}, {NUM_ROWS:,} rows"
    return _faster(what, ours_s, theirs_s, threads)


def _faster(what: str, ours_s: list[float], theirs_s: list[float], threads: int) -> Result:
    ratios = [their / our for our, their in zip(ours_s, theirs_s, strict=True)]
    our_s, their_s = statistics.median(ours_s), statistics.median(theirs_s)
    detail = f"{our_s:.2f} against {their_s:.2f} s, {threads} threads; GPTQ with its own grid"
    return summarize(what, ratios, "x", target=3.0, detail=detail)
