"""The beta schedules of Gaussian diffusion chains, by the names that diffusers gives them.

Each returns `steps` betas in float64; `alphas_cumprod` is the running product of `1 - beta`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float64, always

_MAX_BETA = 0.999  # cap of the schedules that follow a continuous alpha_bar


def _linear(steps: int, start: float, end: float) -> Floats:
    return np.linspace(start, end, steps)


def _scaled_linear(steps: int, start: float, end: float) -> Floats:
    return np.square(np.linspace(math.sqrt(start), math.sqrt(end), steps))


def _sigmoid(steps: int, start: float, end: float) -> Floats:
    ramp: Floats = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, steps)))
    return start + (end - start) * ramp


def _capped(alpha_bar: Callable[[float], float]) -> Callable[[int, float, float], Floats]:
    """Betas that follow a continuous `alpha_bar` on [0, 1], each at most 0.999."""

    def betas(steps: int, start: float, end: float) -> Floats:
        bars = np.array([alpha_bar(i / steps) for i in range(steps + 1)])
        capped: Floats = np.minimum(1.0 - bars[1:] / bars[:-1], _MAX_BETA)
        return capped

    return betas


def _cosine_bar(t: float) -> float:
    """Nichol and Dhariwal 2021, equation 17; as diffusers, not divided by its value at 0."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace_bar(t: float) -> float:
    log_snr = -0.5 * math.copysign(1.0, 0.5 - t) * math.log(1.0 - 2.0 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1.0 / (1.0 + math.exp(-log_snr)))


# The names are diffusers' `beta_schedule`.
BETAS: dict[str, Callable[[int, float, float], Floats]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _capped(_cosine_bar),
    "sigmoid": _sigmoid,
    "laplace": _capped(_laplace_bar),
    "exp": _capped(lambda t: math.exp(-12.0 * t)),
}
# Those that do not depend on `beta_start` and `beta_end`.
WITHOUT_RANGE = ("squaredcos_cap_v2", "laplace", "exp")


def zero_terminal_snr(bars: Floats) -> Floats:
    """Shift and scale sqrt(abar) so that it ends at 0 (Lin et al. 2023, algorithm 1)."""
    roots = np.sqrt(bars)
    if roots[0] == roots[-1]:  # one timestep: nothing to shift
        return bars
    rescaled: Floats = np.square((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1])))
    return rescaled
