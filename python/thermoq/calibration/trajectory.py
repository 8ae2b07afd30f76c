"""Where on the trajectory a running sampler is, and what the model sees of data there."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermoq.schedule import NoiseSchedule


class Clock:
    """Follows a scheduler of diffusers: which of its timesteps comes next.

    The value that a denoiser gets will not do: some pipelines hand over `t / 1000`, or `1 - t /
    1000`. So the scheduler's own steps are counted, which works for those that evaluate twice, too.
    """

    def __init__(self, scheduler: Any, schedule: NoiseSchedule) -> None:
        self._scheduler = scheduler
        self._schedule = schedule
        self._own = scheduler.step, scheduler.set_timesteps
        self.steps_done = 0

    def __enter__(self) -> Clock:
        step, set_timesteps = self._own

        # `wraps` keeps the signature, by which pipelines decide what to pass.
        @functools.wraps(step)
        def counted(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            self.steps_done += 1
            return result

        @functools.wraps(set_timesteps)
        def started(*args: Any, **kwargs: Any) -> Any:
            self.steps_done = 0
            return set_timesteps(*args, **kwargs)

        self._scheduler.step, self._scheduler.set_timesteps = counted, started
        return self

    def __exit__(self, *exception: object) -> None:
        del self._scheduler.step, self._scheduler.set_timesteps  # the class's own come back

    @property
    def total_steps(self) -> int:
        """Steps of the trajectory that the scheduler is on."""
        return len(self._scheduler.timesteps)

    @property
    def timestep(self) -> float:
        """The timestep of the next evaluation, in [0, T - 1]."""
        last = self._schedule.num_timesteps - 1
        index = min(self.steps_done, self.total_steps - 1)
        sigmas = getattr(self._scheduler, "sigmas", None)
        if self._schedule.kind == "flow_matching":
            if sigmas is not None:
                level = float(sigmas[index])
            else:
                level = float(self._scheduler.timesteps[index]) / (last + 1)
            return min(max(level, 0.0), 1.0) * last
        if sigmas is not None and not _counts_timesteps(self._scheduler):
            return self._of_sigma(float(sigmas[index]))
        timestep = float(self._scheduler.timesteps[index])
        if float(max(self._scheduler.timesteps)) <= 2.0:  # TrigFlow's angles, Wuerstchen's shares
            is_angle = self._scheduler.config.get("prediction_type") == "trigflow"
            timestep *= last / (math.pi / 2 if is_angle else 1.0)
        return min(max(timestep, 0.0), float(last))

    def _of_sigma(self, sigma: float) -> float:
        """Return where the schedule has as much noise: EDM's own timesteps are `log(sigma) / 4`."""
        bars = self._schedule.alphas_cumprod
        assert bars is not None
        data = float(self._scheduler.config.get("sigma_data") or 1.0)
        bar = 1.0 / (1.0 + (sigma / data) ** 2)
        return float(np.interp(-bar, -bars, np.arange(len(bars))))


def _counts_timesteps(scheduler: Any) -> bool:
    """Whether the scheduler's timesteps count from 0 to T - 1, as those of beta schedules do."""
    config = scheduler.config
    named = "beta_schedule" in config or config.get("trained_betas") is not None
    continuous = config.get("timestep_type") == "continuous"
    spaced = config.get("use_karras_sigmas") or config.get("use_exponential_sigmas")
    return named and not continuous and not (spaced and config.get("sigma_min") is not None)


def noised(clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return what the model gets at `timesteps` [n]: `signal * clean + noise level * noise`.

    Schedulers that scale the model's input scale it to just this.
    """
    pairs = [schedule.variances(float(t)) for t in timesteps]
    roots = torch.tensor(np.sqrt(pairs), dtype=clean.dtype)
    shape = (-1, *(1 for _ in clean.shape[1:]))
    return roots[:, 0].reshape(shape) * clean + roots[:, 1].reshape(shape) * noise
