"""Models beside the full-precision demo model, on the inputs of its held-out trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from demo_model import MODEL, QUARTERS, scheduler_of, trajectory
from measuring import Result, note
from phase_variants import PhaseOptions, paired
from thermoq.evaluation.denoiser import compared
from thermoq.evaluation.sums import SumsOverTrajectory
from thermoq.schedule import uniform_time_groups


class Trajectories:
    """The full-precision model's passes, made once, and what other models predict there."""

    def __init__(self, options: PhaseOptions) -> None:
        note("running full precision along its trajectory")
        self.samples = options.samples
        self._passes = trajectory(options.samples, options.steps, options.guidance)
        total = scheduler_of(MODEL).config.num_train_timesteps
        self._quarters = uniform_time_groups(total, QUARTERS)

    @torch.no_grad()
    def sums(self, model: Any) -> SumsOverTrajectory:
        """Run `model` on every pass; sums are by sample and quarter, the noisiest first."""
        found = SumsOverTrajectory(self.samples, self._quarters, has_kl=False)
        for step in self._passes:
            timesteps = step.timestep.expand(len(step.states))
            output = model(step.states, timestep=timesteps, class_labels=step.labels).sample
            sample = np.arange(len(output)) % self.samples  # a guided batch has each twice
            found.add(sample, timesteps.numpy(), compared(step.output, output, None))
        return found


def error_cells(sums: SumsOverTrajectory, first: SumsOverTrajectory) -> list[str]:
    """The cells below `ERRORS`; `first` is what errors are held against."""
    quarters = sums.squared_error.sum(0) / sums.energy.sum(0)
    one = against("", sums, first)
    assert one.value is not None
    cosine = float(sums.cosine.sum() / sums.passes.sum())
    return [
        f"{one.value:.3f}",
        f"{one.lower:.3f} .. {one.upper:.3f}",
        *(f"{float(x):.3g}" for x in quarters),
        f"{cosine:.5f}",
    ]


ERRORS = (
    "of Phase 1",
    "95 % interval",
    *(f"quarter {i}" for i in range(1, QUARTERS + 1)),
    "cosine",
)


def against(
    what: str,
    ours: SumsOverTrajectory,
    theirs: SumsOverTrajectory,
    target: float | None = None,
    detail: str = "",
) -> Result:
    """The mean of the quarters' ratios of squared error, with its interval."""
    return paired(what, ours.squared_error, theirs.squared_error, target, note=detail)


def cosine_against(what: str, ours: SumsOverTrajectory, theirs: SumsOverTrajectory) -> Result:
    """The ratio of the mean cosines, with its interval."""
    totals = [one.cosine.sum(1, keepdims=True) for one in (ours, theirs)]
    means = [one.cosine.sum() / one.passes.sum() for one in (ours, theirs)]
    detail = f"{means[0]:.5f} beside {means[1]:.5f}"
    return paired(what, *totals, at_least=True, note=detail)
