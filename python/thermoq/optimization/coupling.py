"""Markov coupling: values over time groups as a noisily observed chain (DESIGN section 7).

    minimize sum_g (theta[g] - theta^[g])^2 / v[g]
             + coupling / tau^2 * sum_g (theta[g+1] - theta[g])^2
    tau^2 = max(0, mean((theta^[g+1] - theta^[g])^2 - v[g] - v[g+1]))

theta^ are estimates with sampling variances v; tau^2 is how far the truth moves from one group to
the next, from the data of all of a layer's chains. What moves no further than sampling explains is
pooled; what was estimated exactly stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.optimization.inputs import Floats


@dataclass(frozen=True)
class Coupled:
    """Values [chains, G] after coupling, and the estimated step variance; None with no steps."""

    values: Floats
    tau_squared: float | None


def couple(
    values: Floats,
    variance: Floats,
    coupling: float,
    linked: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Coupled:
    """Couple estimates [chains, G] with their variances across the boundaries `linked` [G - 1].

    Values that are not `known` [chains, G] are no estimates: they neither count nor pull, and come
    back as they were. `coupling` 0 changes nothing.
    """
    known = np.ones(values.shape, np.bool_) if known is None else known
    tau_squared = step_variance(values, variance, linked & known[:, 1:] & known[:, :-1])
    if tau_squared is None or coupling == 0.0:
        return Coupled(values, tau_squared)
    strength = coupling / tau_squared if tau_squared > 0 else np.inf
    observed = np.where(known, variance, np.inf)
    solved = _core.solve_markov_chains(values, observed, strength, linked)
    return Coupled(np.where(known, solved, values), tau_squared)


def step_variance(values: Floats, variance: Floats, counted: NDArray[np.bool_]) -> float | None:
    """Return tau^2 over the boundaries `counted` [chains, G - 1]; None if there are none."""
    if not counted.any():
        return None
    moved = np.square(np.diff(values, axis=1)) - variance[:, 1:] - variance[:, :-1]
    return max(0.0, float(moved[counted].mean()))


@dataclass(frozen=True)
class CoupledRanges:
    """Activation parameters [G] after coupling, and the step variances of both chains."""

    scale: Floats
    zero_point: Floats
    log_scale_tau_squared: float | None
    zero_point_tau_squared: float | None


def couple_ranges(
    scale: Floats,
    zero_point: Floats,
    log_scale_variance: Floats,
    zero_point_variance: Floats,
    coupling: float,
    bits: int,
) -> CoupledRanges:
    """Couple log(scale) and, separately, zero_point over the time groups [G].

    Scales are rounded to f16, zero points to whole numbers from 0 to 2^bits - 1. A scale of 0
    breaks the chain, and so does an infinite variance: nothing is known of how exact the value is.
    """
    able = (scale > 0) & np.isfinite(log_scale_variance) & np.isfinite(zero_point_variance)
    linked = able[1:] & able[:-1]
    logs = np.log(np.where(able, scale, 1.0))
    if not linked.any():
        return CoupledRanges(scale, zero_point, None, None)
    # What has no link stays; its infinite variance must not meet the core's arithmetic.
    values = np.stack([logs, zero_point])
    variance = np.where(able, [log_scale_variance, zero_point_variance], 0.0)
    moved = np.square(np.diff(values)) - variance[:, 1:] - variance[:, :-1]
    tau_squared = np.maximum(moved[:, linked].mean(axis=1), 0.0)
    if coupling == 0.0:
        return CoupledRanges(scale, zero_point, *tau_squared.tolist())
    strength = np.divide(coupling, tau_squared, out=np.full(2, np.inf), where=tau_squared > 0)
    solved = _core.solve_markov_chains(values, variance, strength, linked)
    joined = np.concatenate([linked, [False]]) | np.concatenate([[False], linked])
    new_scale = np.exp(solved[0]).astype(np.float16).astype(np.float64)
    new_point = np.clip(np.rint(solved[1]), 0, 2**bits - 1)
    return CoupledRanges(
        np.where(joined, new_scale, scale),
        np.where(joined, new_point, zero_point),
        *tau_squared.tolist(),
    )
