"""Noise schedules and time groups.

How much signal and how much noise a model sees at each timestep, and which time group a timestep
belongs to. Timestep `T - 1` is pure noise, 0 is clean; both ends may be approached by fractional
timesteps. Computed in float64 from the scheduler's configuration alone; nothing of diffusers or
torch is imported.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from thermoq.betas import BETAS, WITHOUT_RANGE, Floats, zero_terminal_snr
from thermoq.errors import InputError, UsageError

Config = Mapping[str, Any]

_DEFAULT_NUM_TIMESTEPS = 1000
_SIGMA_RANGE = (1e-9, 1e9)  # wide, and its ratios and squares stay finite
_MAX_NUM_TIMESTEPS = 1_000_000  # a table of this length is built; no real model comes near

# Defaults that differ from diffusers' usual ones (linear betas 0.0001 to 0.02, T = 1000). Saved
# configurations normally spell everything out; old or hand-written ones do not.
_LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_EDM_SIGMAS = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras"}
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "CogVideoXDDIMScheduler": {**_LATENT_BETAS, "beta_schedule": "scaled_linear"},
    "CogVideoXDPMScheduler": {**_LATENT_BETAS, "beta_schedule": "scaled_linear"},
    "DPMSolverSDEScheduler": _LATENT_BETAS,
    "HeunDiscreteScheduler": _LATENT_BETAS,
    "KDPM2AncestralDiscreteScheduler": _LATENT_BETAS,
    "KDPM2DiscreteScheduler": _LATENT_BETAS,
    "LCMScheduler": {**_LATENT_BETAS, "beta_schedule": "scaled_linear"},
    "TCDScheduler": {**_LATENT_BETAS, "beta_schedule": "scaled_linear"},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
    "EDMEulerScheduler": _EDM_SIGMAS,
    "EDMDPMSolverMultistepScheduler": _EDM_SIGMAS,
    "CMStochasticIterativeScheduler": {**_EDM_SIGMAS, "num_train_timesteps": 40},
    "CosineDPMSolverMultistepScheduler": {
        "sigma_min": 0.3,
        "sigma_max": 500.0,
        "sigma_data": 1.0,
        "sigma_schedule": "exponential",
    },
    "ScoreSdeVeScheduler": {
        "num_train_timesteps": 2000,
        "sigma_min": 0.01,
        "sigma_max": 1348.0,
        "sigma_schedule": "exponential",
    },
    "SCMScheduler": {"prediction_type": "trigflow"},
}
# Schedulers that use diffusers' usual defaults where their configuration is silent.
_BETA_CLASSES = (
    *("DDIM", "DDPM", "DEIS", "DPMSolver", "Euler", "Heun", "KDPM2", "LCM", "LMS", "PNDM"),
    *("RePaint", "SASolver", "TCD", "UniPC", "UnCLIP", "CogVideoXD"),
)
_NO_BETA_CLASSES = ("DDPMWuerstchen",)
_FLOW_CLASSES = ("flow", "helios", "eulerancestralrf", "minimaxh3")  # lower-case parts of names
_MASKED_CLASSES = ("AmusedScheduler", "BlockRefinementScheduler")
# Beginnings of the class names of diffusers' transformers that are trained with flow matching, for
# components that come without their scheduler.
_FLOW_MODELS = (
    *("AuraFlow", "Chroma", "Flux", "HiDream", "HunyuanVideo", "LTXVideo", "Lumina2", "Mochi"),
    *("OmniGen", "QwenImage", "SD3", "Wan", "ZImage"),
)
# Beginnings of `model_type` and of architecture names of masked-diffusion language models.
_MASKED_MODELS = ("dream", "llada", "mdlm", "mmada", "bd3lm")


@dataclass(frozen=True)
class NoiseSchedule:
    """How signal and noise share the model's input along the trajectory.

    `alphas_cumprod` [T] is set for the Gaussian kind alone: the signal variance at each integer
    timestep. `description` is for the report. `assumed` tells that nothing in the checkpoint names
    the schedule, `is_chain` that it is one of betas: a Markov chain of T steps.
    """

    kind: Literal["gaussian", "flow_matching", "masked"]
    num_timesteps: int
    description: str
    alphas_cumprod: Floats | None = field(default=None, repr=False, compare=False)
    assumed: bool = False
    is_chain: bool = False

    def variances(self, timestep: float) -> tuple[float, float]:
        """Return `(signal^2, noise^2)` at `timestep`, clipped to [0, T - 1].

        Gaussian: `(abar, 1 - abar)`, abar linear between integer timesteps. Flow matching with
        `s = t / (T - 1)`: `((1 - s)^2, s^2)`. Masked with `r = (t + 1) / T`: `(1 - r, r)`.
        """
        last = self.num_timesteps - 1
        t = min(max(timestep, 0.0), float(last))
        if self.alphas_cumprod is not None:
            signal = float(np.interp(t, np.arange(self.num_timesteps), self.alphas_cumprod))
            return signal, 1.0 - signal
        if self.kind == "flow_matching":
            # The only step of a one-step model starts from pure noise.
            level = t / last if last else 1.0
            return (1.0 - level) ** 2, level**2
        masked = (t + 1) / self.num_timesteps
        return 1.0 - masked, masked


def schedule_for(scheduler_config: Config | None, model_config: Config | None) -> NoiseSchedule:
    """Return the schedule that a model was trained with.

    Read from the scheduler's configuration; without one, masked diffusion if the model's own
    configuration says so, else the cosine schedule. Raises InputError for values that cannot be.
    """
    if scheduler_config is not None:
        return _from_scheduler(scheduler_config)
    family = _masked_family(model_config or {})
    if family:
        return _masked(_DEFAULT_NUM_TIMESTEPS, family)
    name = (model_config or {}).get("_class_name")
    if isinstance(name, str) and name.startswith(_FLOW_MODELS):
        steps = _DEFAULT_NUM_TIMESTEPS
        description = f"flow matching, T = {steps} ({name}, no scheduler config found)"
        return NoiseSchedule("flow_matching", steps, description)
    return _cosine(_DEFAULT_NUM_TIMESTEPS, "no scheduler config found")


def _from_scheduler(given: Config) -> NoiseSchedule:
    name = given.get("_class_name")
    name = name if isinstance(name, str) else ""
    said = {key: value for key, value in given.items() if value is not None}
    config = {**_CLASS_DEFAULTS.get(name, {}), **said}
    steps = _whole(config, "num_train_timesteps", _DEFAULT_NUM_TIMESTEPS)
    origin = name or "scheduler config"
    if (
        any(part in name.lower() for part in _FLOW_CLASSES)
        or config.get("prediction_type") == "flow_prediction"
        or config.get("use_flow_sigmas") is True
    ):
        return NoiseSchedule("flow_matching", steps, f"flow matching, T = {steps} ({origin})")
    if name in _MASKED_CLASSES:
        return _masked(steps, origin)
    if config.get("prediction_type") == "trigflow":
        return _trigonometric(steps, origin)
    if _has_sigma_grid(config):
        return _from_sigmas(config, steps, origin)
    named = any(key in said for key in ("trained_betas", "beta_schedule", "beta_start", "beta_end"))
    usual = name.startswith(_BETA_CLASSES) and not name.startswith(_NO_BETA_CLASSES)
    if named or usual:
        return _from_betas(config, steps, origin)
    return _cosine(steps, f"{origin} names no noise schedule that thermoq knows")


# Gaussian chains.


def _from_betas(config: Config, steps: int, origin: str) -> NoiseSchedule:
    if "trained_betas" in config:
        betas = _trained_betas(config["trained_betas"])
        steps = len(betas)
        described = "trained betas"
    else:
        kind = config.get("beta_schedule", "linear")
        if not isinstance(kind, str) or kind not in BETAS:
            raise _expected(f"beta_schedule one of {', '.join(BETAS)}", repr(kind))
        start, end = _beta(config, "beta_start", 0.0001), _beta(config, "beta_end", 0.02)
        betas = BETAS[kind](steps, start, end)
        described = f"{kind} betas"
        if kind not in WITHOUT_RANGE:
            described += f" {start:g} to {end:g}"
    bars: Floats = np.cumprod(1.0 - betas)
    if origin.startswith("CogVideoX"):  # the only schedulers with this key; its default is 3
        shift = _between(config, "snr_shift_scale", *_SIGMA_RANGE, 3.0)
        bars = bars / (shift + (1.0 - shift) * bars)
    if config.get("rescale_betas_zero_snr") is True:
        bars = zero_terminal_snr(bars)
        described += ", rescaled to zero terminal SNR"
    chain = _gaussian(bars, f"{described}, T = {steps} ({origin})")
    return replace(chain, is_chain=True)


def _has_sigma_grid(config: Config) -> bool:
    """Tell whether noise levels are given as sigmas rather than betas.

    Beta schedulers carry `sigma_min` and `sigma_max` too; there they only take effect with
    Karras or exponential spacing (Stable Video Diffusion).
    """
    if "sigma_min" not in config or "sigma_max" not in config:
        return False
    spaced = config.get("use_karras_sigmas") or config.get("use_exponential_sigmas")
    return bool(spaced) or "beta_schedule" not in config


def _from_sigmas(config: Config, steps: int, origin: str) -> NoiseSchedule:
    """Variance-exploding noise: `abar = sigma_data^2 / (sigma^2 + sigma_data^2)`.

    That is the share of the signal after the model's input scaling (Karras et al. 2022, table 1);
    the sigmas run from `sigma_min` at timestep 0 to `sigma_max` at T - 1.
    """
    low, high = (_between(config, key, *_SIGMA_RANGE) for key in ("sigma_min", "sigma_max"))
    data = _between(config, "sigma_data", *_SIGMA_RANGE, 1.0)
    if low > high:
        raise _expected("sigma_min at most sigma_max", f"{low:g} and {high:g}")
    exponential = config.get("sigma_schedule") == "exponential"
    if exponential or config.get("use_exponential_sigmas"):
        spacing, sigmas = "exponential", np.geomspace(low, high, steps)
    else:
        rho = _between(config, "rho", 1.0, 100.0, 7.0)
        roots = np.linspace(low ** (1.0 / rho), high ** (1.0 / rho), steps)
        spacing, sigmas = "Karras", roots**rho
    bars = 1.0 / (1.0 + np.square(sigmas / data))
    text = f"{spacing} sigmas {low:g} to {high:g}, sigma_data {data:g}, T = {steps} ({origin})"
    return _gaussian(bars, text)


def _trigonometric(steps: int, origin: str) -> NoiseSchedule:
    """TrigFlow: `x = cos(u) * x0 + sin(u) * noise`, u from 0 to pi/2 (Lu and Song 2024)."""
    angles = np.linspace(0.0, math.pi / 2, steps) if steps > 1 else np.array([math.pi / 2])
    return _gaussian(np.square(np.cos(angles)), f"trigonometric, T = {steps} ({origin})")


def _cosine(steps: int, why: str) -> NoiseSchedule:
    betas = BETAS["squaredcos_cap_v2"](steps, 0.0, 0.0)
    return replace(_gaussian(np.cumprod(1.0 - betas), f"cosine, T = {steps} ({why})"), assumed=True)


def _gaussian(bars: Floats, description: str) -> NoiseSchedule:
    bars.setflags(write=False)
    return NoiseSchedule("gaussian", len(bars), description, bars)


# Masked diffusion.


def _masked(steps: int, origin: str) -> NoiseSchedule:
    return NoiseSchedule("masked", steps, f"masked diffusion, T = {steps} ({origin})")


def _masked_family(config: Config) -> str:
    """Return what in a model's `config.json` says masked diffusion, or "" if nothing does."""
    architectures = config.get("architectures")
    names = [config.get("model_type")]
    names += architectures if isinstance(architectures, list) else []
    has_mask = config.get("mask_token_id") is not None
    for name in names:
        if not isinstance(name, str):
            continue
        lower = name.lower()
        if lower.startswith(_MASKED_MODELS) or (has_mask and "diffusion" in lower):
            return name
    return ""


# Checks on what the configuration says.


def _expected(what: str, got: str) -> InputError:
    return InputError(f"scheduler config: expected {what}, got {got}")


def _between(
    config: Config, key: str, low: float, high: float, default: float | None = None
) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _expected(f"{key} to be a number", repr(value))
    if not low <= value <= high:  # NaN is not, either
        raise _expected(f"{key} between {low:g} and {high:g}", str(value)[:40])
    return float(value)


def _beta(config: Config, key: str, default: float) -> float:
    return _between(config, key, 0.0, 1.0, default)


def _whole(config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= _MAX_NUM_TIMESTEPS:
        raise _expected(f"{key} to be an integer from 1 to {_MAX_NUM_TIMESTEPS}", repr(value))
    return value


def _trained_betas(values: object) -> Floats:
    if not isinstance(values, list) or not 1 <= len(values) <= _MAX_NUM_TIMESTEPS:
        raise _expected("trained_betas to be a list of numbers", type(values).__name__)
    return np.array([_beta({"trained_betas": value}, "trained_betas", 0.0) for value in values])


# Time groups.


@dataclass(frozen=True)
class TimeGroups:
    """The trajectory cut into contiguous runs of timesteps, noisiest first.

    Group `g` holds every timestep `t` with `starts[g + 1] < t <= starts[g]`, fractional ones
    included; the first group also holds what lies above `T - 1`, the last what lies below 0.
    Starts may be fractional; every group holds an integer timestep.
    """

    num_timesteps: int
    starts: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse starts that do not fall from T - 1, each past an integer timestep."""
        last = self.num_timesteps - 1
        bounds = (*map(math.floor, filter(math.isfinite, self.starts)), -1)
        falls = all(a > b for a, b in itertools.pairwise(bounds))
        if not falls or len(bounds) != len(self.starts) + 1 or self.starts[:1] != (last,):
            raise ValueError(
                f"expected starts to fall from {last} with a whole timestep in each group, "
                f"got {self.starts}"
            )

    def __len__(self) -> int:
        """Return the number of time groups."""
        return len(self.starts)

    @property
    def ends(self) -> tuple[int, ...]:
        """The cleanest integer timestep of each group; 0 for the last."""
        return (*(math.floor(start) + 1 for start in self.starts[1:]), 0)

    @property
    def middles(self) -> tuple[float, ...]:
        """Half way between the noisiest and the cleanest integer timestep of each group."""
        noisiest = (math.floor(start) for start in self.starts)
        return tuple((a + b) / 2 for a, b in zip(noisiest, self.ends, strict=True))

    def group_of(self, timestep: float) -> int:
        """Return the time group that `timestep` belongs to."""
        return max(0, bisect.bisect_right(self.starts, -timestep, key=lambda start: -start) - 1)


def uniform_time_groups(num_timesteps: int, num_time_groups: int) -> TimeGroups:
    """Cut the trajectory evenly: `g(t) = clip(floor((T - 1 - t) * G / T), 0, G - 1)`.

    Timesteps `t` may be fractional; group `g` starts at `T - 1 - g * T / G`.

    Raises UsageError unless there is at least one group and at least one timestep for each.
    """
    if not 1 <= num_time_groups <= num_timesteps:
        raise UsageError(
            f"expected --num-time-groups between 1 and {num_timesteps} (the model's timesteps), "
            f"got {num_time_groups}"
        )
    starts = (
        _rounded_down(num_timesteps - 1 - Fraction(g * num_timesteps, num_time_groups))
        for g in range(num_time_groups)
    )
    return TimeGroups(num_timesteps, tuple(starts))


def _rounded_down(value: Fraction) -> float:
    """Return the largest float that is not above `value`.

    A float timestep is not above the one if and only if it is not above the other, so that groups
    follow the formula to the last bit.
    """
    nearest = float(value)
    return nearest if nearest <= value else math.nextafter(nearest, -math.inf)
