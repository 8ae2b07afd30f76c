"""The demo's denoiser: how far a variant's output is from full precision's, along a trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from measuring import ROOT, Result, note, quartiles, shown
from reports import Options, Report
from torch import Tensor
from variants import COST, MODEL_ITSELF, Missing, calibrated, made

MODEL = ROOT / "python" / "thermoq" / "models" / "digits-dit"
HELD_OUT_SEED = 1_000_003  # calibration draws with NumPy, from seeds of its own
QUARTERS = 4
BLOCKS = 8  # of trajectories, for the spread
NUM_CLASSES = NULL_LABEL = 10
NULL_SHARE = 11  # without guidance, each 11th trajectory goes without its label


def report(options: Options) -> Report:
    """Measure every variant."""
    note("denoiser: running full precision along its trajectory")
    passes = trajectory(options.samples, options.steps, options.guidance)
    head = ["variant", *COST, "mean of 4", *(f"quarter {i}" for i in range(1, QUARTERS + 1))]
    rows, missing = [head], []
    errors: dict[str, OutputError] = {}
    for variant, dense in made(MODEL, calibrations(options), MODEL_ITSELF, options):
        if isinstance(dense, Missing):
            missing.append(str(dense))
            continue
        errors[variant.name] = output_error(dense.directory, passes, options.samples)
        quarters = errors[variant.name].by_quarter()
        cells = [sum(quarters) / QUARTERS, *quarters]
        rows.append([variant.name, *dense.cost, *(f"{x:.3g}" for x in cells)])
    what = (
        f"demo model at INT2: ||output - full||^2 / ||full||^2 over {options.samples} held-out "
        f"trajectories of {options.steps} steps, guidance {options.guidance:g}; noisiest quarter "
        f"first; quartiles are over {BLOCKS} parts of the trajectories"
    )
    return Report(what, rows, missing, comparisons(errors))


def calibrations(options: Options) -> dict[str, Path]:
    """Calibrate the demo model as `thermoq calibrate` does by default, with the same guidance."""
    guided = {} if options.guidance <= 1.0 else {"guidance": options.guidance}
    name = "-".join(["demo", *(f"guidance{value:g}" for value in guided.values())])
    path = options.calibration or options.workdir / f"{name}.safetensors"
    return {MODEL_ITSELF: calibrated(MODEL, path, options.threads, **guided)}


class Step(NamedTuple):
    """A forward pass of the full-precision model: all that went in, and what came out."""

    timestep: Tensor
    states: Tensor
    labels: Tensor
    output: Tensor


@dataclass(frozen=True)
class OutputError:
    """Squared error and the true output's energy, [blocks, quarters], noisiest quarter first."""

    squared_error: Tensor
    energy: Tensor

    def by_quarter(self) -> list[float]:
        """Return the relative squared error of each quarter."""
        return [float(x) for x in self.squared_error.sum(0) / self.energy.sum(0)]


def load(directory: Path) -> Any:
    """Load the denoiser of `directory` for arithmetic in f32."""
    denoiser: Any = DiTTransformer2DModel  # diffusers is half typed
    return denoiser.from_pretrained(directory / "transformer", torch_dtype=torch.float32).eval()


def scheduler_of(directory: Path) -> Any:
    """Load the scheduler of `directory`."""
    scheduler: Any = DDIMScheduler
    return scheduler.from_pretrained(directory / "scheduler")


@torch.no_grad()
def trajectory(samples: int, steps: int, guidance: float) -> list[Step]:
    """Run the full-precision model from held-out noise, and keep what goes in and comes out."""
    model, scheduler = load(MODEL), scheduler_of(MODEL)
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    states = torch.randn(samples, 1, 8, 8, generator=generator)
    numbers = torch.arange(samples)
    labels = numbers % NUM_CLASSES
    nulls = torch.full_like(labels, NULL_LABEL)
    if guidance <= 1.0:
        labels = torch.where(numbers % NULL_SHARE == NULL_SHARE - 1, nulls, labels)
    else:
        labels = torch.cat([labels, nulls])
    scheduler.set_timesteps(steps)
    passes = []
    for timestep in scheduler.timesteps:
        given = states if guidance <= 1.0 else torch.cat([states] * 2)
        output = _run(model, given, timestep, labels)
        passes.append(Step(timestep, given, labels, output))
        predicted = output
        if guidance > 1.0:
            labelled, free = output.chunk(2)
            predicted = free + guidance * (labelled - free)
        states = scheduler.step(predicted, timestep, states).prev_sample
    return passes


@torch.no_grad()
def output_error(directory: Path, passes: Sequence[Step], samples: int) -> OutputError:
    """Run the denoiser of `directory` on the inputs of the full-precision one."""
    model, total = load(directory), scheduler_of(MODEL).config.num_train_timesteps
    shape = (BLOCKS, QUARTERS)
    squared_error, energy = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    for step in passes:
        quarter = (total - 1 - int(step.timestep)) * QUARTERS // total
        output = _run(model, step.states, step.timestep, step.labels)
        sample = torch.arange(len(output)) % samples  # a guided batch has each of them twice
        block = sample * BLOCKS // samples
        for sums, values in ((squared_error, output - step.output), (energy, step.output)):
            of_samples = values.double().square().flatten(1).sum(1)
            sums[:, quarter].index_add_(0, block, of_samples)
    return OutputError(squared_error, energy)


def _run(model: Any, states: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    output = model(states, timestep=timestep.expand(len(states)), class_labels=labels).sample
    assert isinstance(output, Tensor)
    return output


def comparison(
    name: str, beside: str, errors: Mapping[str, OutputError], target: float | None
) -> list[Result]:
    """The mean of the quarters' ratios of error, and the largest of them."""
    what = f"{name}, beside {beside}: output error"
    if name not in errors or beside not in errors:
        absent = " and ".join(x for x in (name, beside) if x not in errors)
        return [Result(what, None, target=target, at_least=False, detail=f"no {absent}")]
    ours, theirs = errors[name].squared_error, errors[beside].squared_error
    ratios = ours.sum(0) / theirs.sum(0)
    lower, _, upper = quartiles((ours / theirs).mean(1).tolist())
    never = None if target is None else 1.0  # worse in any quarter
    quarters = " ".join(shown(float(x)) for x in ratios)
    return [
        Result(
            f"{what}, mean of quarters",
            float(ratios.mean()),
            "x",
            lower,
            upper,
            target,
            at_least=False,
            detail=f"quarters {quarters}",
        ),
        Result(f"{what}, worst quarter", float(ratios.max()), "x", None, None, never, False),
    ]


def comparisons(errors: Mapping[str, OutputError]) -> list[Result]:
    """The figures to reach, and what else is worth a ratio."""
    pairs: Iterable[tuple[str, str, float | None]] = (
        ("hessian", "lsq", 0.5),
        ("hessian", "minmax", 0.5),
        ("hessian, rotated", "hessian", 0.6),
        ("hessian", "GPTQ, lsq grid", None),
        ("hessian", "GPTQ, weighted lsq grid", None),
        ("hessian", "GPTQ, minmax grid", None),
        ("lsq, importances", "lsq", None),
        ("hessian coded", "lsq coded", None),
        ("hessian coded, rotated", "hessian coded", None),
    )
    return [one for pair in pairs for one in comparison(*pair[:2], errors, pair[2])]
