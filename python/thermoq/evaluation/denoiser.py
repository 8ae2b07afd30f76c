"""A quantized denoiser beside the full-precision one, along the latter's trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thermoq.calibration.job import Job
from thermoq.evaluation.intervals import draws
from thermoq.evaluation.pairs import PairedPass, Seen, run_beside, without_variance
from thermoq.evaluation.sums import PassFigures, SumsOverTrajectory
from thermoq.evaluation.transition_kl import transition_weights
from thermoq.progress import StepProgress
from thermoq.report.evaluation_model import DenoiserEvaluation
from thermoq.schedule import NoiseSchedule, TimeGroups, uniform_time_groups

NUM_QUARTERS = 4


def evaluate_denoiser(
    job: Job,
    quantized: Sequence[nn.Module],
    schedule: NoiseSchedule,
    scheduler_config: Mapping[str, Any] | None,
    time_groups: TimeGroups,
    num_samples: int,
    seed: int,
    progress: StepProgress,
    also_seen: Seen | None = None,
) -> DenoiserEvaluation:
    """Run `job`, whose modules are the full-precision ones, with the `quantized` ones beside.

    `also_seen` is told of every pass. Raises InputError for a model that cannot be sampled.
    """
    weights = transition_weights(schedule, scheduler_config)
    quarters = uniform_time_groups(
        schedule.num_timesteps, min(NUM_QUARTERS, schedule.num_timesteps)
    )
    sums = [
        SumsOverTrajectory(num_samples, parts, has_kl=weights is not None)
        for parts in (time_groups, quarters)
    ]

    def seen(one: PairedPass) -> None:
        full = without_variance(one.full, one.arguments)
        other = without_variance(one.quantized, one.arguments)
        figures = compared(full, other, _weights_at(weights, one.timesteps))
        for each in sums:
            each.add(one.samples, one.timesteps, figures)
        if also_seen is not None:
            also_seen(one)

    run_beside(job, quantized, seen, "evaluating", progress)
    drawn = draws(num_samples, seed)
    return DenoiserEvaluation(
        overall=sums[0].overall(drawn),
        time_groups=sums[0].rows(drawn),
        quarters=sums[1].rows(drawn),
        time_group_sums=sums[0].for_report(),
        quarter_sums=sums[1].for_report(),
    )


def compared(full: Tensor, quantized: Tensor, weights: NDArray[np.float64] | None) -> PassFigures:
    """Compare predictions [rows, ...] row by row, in float64.

    `weights` [rows] turn squared errors into divergences. The cosine of two zero vectors is 1, that
    of one with another 0.
    """
    y = full.detach().double().flatten(1)
    y_q = quantized.detach().double().flatten(1)
    squared_error = (y_q - y).square().sum(1).cpu().numpy()
    energy = y.square().sum(1).cpu().numpy()
    norms = np.sqrt(energy * y_q.square().sum(1).cpu().numpy())
    products = (y_q * y).sum(1).cpu().numpy()
    same = np.where(squared_error == 0.0, 1.0, 0.0)
    cosine = np.divide(products, norms, out=same, where=norms > 0.0)
    kl = None if weights is None else weights * squared_error
    return PassFigures(squared_error, energy, cosine, kl)


def _weights_at(
    weights: NDArray[np.float64] | None, timesteps: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the weights of the nearest whole timesteps; samplers may use fractional ones."""
    if weights is None:
        return None
    whole = np.clip(np.rint(timesteps).astype(np.int64), 0, len(weights) - 1)
    found: NDArray[np.float64] = weights[whole]
    return found
