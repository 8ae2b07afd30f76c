"""Pipelines of diffusers, run as they are, while their denoisers are watched."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermoq.calibration.conditioning import bare_pipeline, empty_embeddings, has_home, homes
from thermoq.calibration.images import Images
from thermoq.calibration.job import At
from thermoq.calibration.loading import DiffusersModel
from thermoq.calibration.sampling import Batch, DiffusionSampling, latents_of, seed_of
from thermoq.calibration.trajectory import Clock, noised
from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import InputError, UsageError
from thermoq.schedule import NoiseSchedule


class PipelineSampler:
    """Runs a pipeline of diffusers as it is and watches its denoisers."""

    def __init__(
        self,
        model: DiffusersModel,
        schedule: NoiseSchedule,
        sampling: DiffusionSampling,
        images: Images | None,
    ) -> None:
        first: Any = next(iter(model.denoisers.values()))
        self._is_bare = model.pipeline is None
        if self._is_bare and (not has_home(first) or len(model.denoisers) > 1):
            raise bad_file(
                model.directory,
                f"expected a pipeline, got {type(first).__name__} alone, which needs more than a "
                f"noisy sample (alone go: {', '.join(homes())}); give the pipeline's directory",
            )
        if self._is_bare and sampling.prompts:
            raise UsageError("--prompts: expected a pipeline with a text encoder, got none")
        self._pipeline = bare_pipeline(first, model.scheduler) if self._is_bare else model.pipeline
        self._model = model
        self._schedule = schedule
        self._sampling = sampling
        self._images = images
        self._arguments = inspect.signature(self._pipeline.__call__).parameters
        self._check(model.directory)
        self.guidance = self._guidance()
        self.notes = self._notes()

    @property
    def batch_size(self) -> int:
        """Samples that go through the model together: large models have no room for more."""
        return 1

    def run(self, batch: Batch, at: At, stepped: Callable[[int], None]) -> None:
        """Make all forward passes of a batch."""
        with Clock(self._pipeline.scheduler, self._schedule) as clock:
            watch = _Watch(clock, at, stepped)
            if batch.is_data:
                watch.replaced = lambda given: self._noised_images(batch.samples, given, clock)
            handles = [
                handle
                for module in self._model.denoisers.values()
                for handle in (
                    module.register_forward_pre_hook(watch.before, with_kwargs=True),
                    module.register_forward_hook(watch.after),
                )
            ]
            try:
                self._pipeline(**self._call(batch.samples))
            finally:
                for handle in handles:
                    handle.remove()

    def _check(self, directory: Path) -> None:
        needed = {
            name
            for name, one in self._arguments.items()
            if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        } - {"prompt", "self"}
        if needed:
            raise bad_file(
                directory,
                f"expected a pipeline that needs no more than prompts, got "
                f"{type(self._pipeline).__name__}, which needs {', '.join(sorted(needed))}; "
                "calibrate a directory with only the denoiser's and the scheduler's folders",
            )

    def _guidance(self) -> float | None:
        if self._is_bare:
            if (self._sampling.guidance or 1.0) > 1.0:
                raise UsageError("--guidance: expected a pipeline with a text encoder, got none")
            return None
        if "guidance_scale" not in self._arguments:
            return None
        default = self._arguments["guidance_scale"].default
        return self._sampling.guidance if self._sampling.guidance is not None else default

    def _notes(self) -> tuple[str, ...]:
        if self._is_bare:
            return ("there is no text encoder: sampled with text embeddings of zeros",)
        if not self._sampling.prompts:
            return ("sampled with empty prompts; --prompts FILE gives the model some, one a line",)
        return ()

    def _call(self, samples: range) -> dict[str, Any]:
        """Return the arguments of the pipeline, of those that it takes."""
        sampling, size = self._sampling, self._sampling.size
        seeds = [seed_of(sampling.seed, sample) for sample in samples]
        wanted: dict[str, Any] = {
            "num_inference_steps": sampling.steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "latent",
            "guidance_scale": 1.0 if self._is_bare else sampling.guidance,
            "true_cfg_scale": 1.0 if self._is_bare else sampling.guidance,
            "height": size,
            "width": size,
        }
        if self._is_bare:
            first = next(iter(self._model.denoisers.values()))
            wanted.update(empty_embeddings(first, len(samples)))
        else:
            prompts = sampling.prompts or ("",)
            wanted["prompt"] = [prompts[sample % len(prompts)] for sample in samples]
        return {k: v for k, v in wanted.items() if k in self._arguments and v is not None}

    def _noised_images(self, samples: range, given: Tensor, clock: Clock) -> Tensor:
        """Return images with the noise of the step, in place of the pipeline's own latents."""
        assert self._images is not None
        if given.dim() != 4:
            raise InputError(
                "--data: expected a denoiser whose input is [samples, channels, height, width], "
                f"got one with {given.dim()} dimensions"
            )
        first = self._sampling.samples - round(self._sampling.samples * self._sampling.mix)
        chosen = [(sample - first) % len(self._images) for sample in samples]
        clean = latents_of(self._model, self._images, chosen, tuple(given.shape[1:]))
        draws = [
            np.random.default_rng([self._sampling.seed, 1, sample, clock.steps_done])
            for sample in samples
        ]
        noise = np.stack([random.standard_normal(clean.shape[1:]) for random in draws])
        timesteps = torch.full((len(samples),), clock.timestep)
        state = noised(clean, torch.from_numpy(noise).to(clean), timesteps, self._schedule)
        return state.repeat(len(given) // len(state), 1, 1, 1).to(given)


class _Watch:
    """Hooks around a denoiser's call: the pass is counted where the scheduler is by then."""

    def __init__(self, clock: Clock, at: At, stepped: Callable[[int], None]) -> None:
        self.replaced: Callable[[Tensor], Tensor] | None = None
        self._clock, self._at, self._stepped = clock, at, stepped
        self._block: AbstractContextManager[None] | None = None
        self._told = 0

    def before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begin a pass, of the user's images if there are to be any."""
        self._block = self._at([self._clock.timestep])
        self._block.__enter__()
        if self.replaced is None:
            return None
        if args:
            return (self.replaced(args[0]), *args[1:]), kwargs
        name = "hidden_states" if "hidden_states" in kwargs else "sample"
        return args, {**kwargs, name: self.replaced(kwargs[name])}

    def after(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """End it. With guidance a step may have several passes; it is told of once."""
        assert self._block is not None
        self._block.__exit__(None, None, None)
        if self._clock.steps_done + 1 != self._told:
            self._told = self._clock.steps_done + 1
            self._stepped(self._told)
