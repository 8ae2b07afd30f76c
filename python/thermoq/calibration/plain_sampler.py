"""Denoisers that need nothing but a noisy sample, a timestep and perhaps a class label."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermoq.calibration.images import Images
from thermoq.calibration.job import At
from thermoq.calibration.loading import DiffusersModel
from thermoq.calibration.sampling import Batch, DiffusionSampling, latents_of, seed_of
from thermoq.calibration.trajectory import Clock, noised
from thermoq.errors import UsageError
from thermoq.schedule import NoiseSchedule

_NULL_SHARE = 10  # without guidance, a sample after so many goes without its label
_DIT_GUIDANCE = 4.0  # `DiTPipeline`'s own default
_BATCH_VALUES = 1 << 17  # of the samples that are drawn together
_MAX_BATCH = 32


def is_plain(denoiser: Any) -> bool:
    """Whether a denoiser can be run by `PlainSampler`."""
    parameters = inspect.signature(denoiser.forward).parameters
    config = denoiser.config
    has_shape = config.get("sample_size") is not None and config.get("in_channels") is not None
    return "encoder_hidden_states" not in parameters and "timestep" in parameters and has_shape


class PlainSampler:
    """Samples a denoiser that takes a noisy sample, a timestep and perhaps a class label."""

    def __init__(
        self,
        model: DiffusersModel,
        schedule: NoiseSchedule,
        sampling: DiffusionSampling,
        images: Images | None,
    ) -> None:
        self._model = model
        self._denoiser: Any = next(iter(model.denoisers.values()))
        self._schedule = schedule
        self._sampling = sampling
        self._images = images
        self._shape = _sample_shape(self._denoiser.config)
        self._num_classes, self._null_label = _labels(self._denoiser)
        self.notes: tuple[str, ...] = ()
        self.guidance = sampling.guidance
        if self.guidance is None and model.class_name == "DiTPipeline":
            self.guidance = _DIT_GUIDANCE
        if (self.guidance or 1.0) > 1.0 and self._null_label is None:
            raise UsageError("--guidance: expected a model with a label for none, got one without")
        if (
            images is not None
            and schedule.kind == "gaussian"
            and "sigma_data" in model.scheduler.config
        ):
            name = type(model.scheduler).__name__
            raise UsageError(
                f"--data: expected a scheduler with betas or flow matching, got {name}"
            )

    @property
    def batch_size(self) -> int:
        """Samples that go through the model together."""
        return int(np.clip(_BATCH_VALUES // np.prod(self._shape), 1, _MAX_BATCH))

    def run(self, batch: Batch, at: At, stepped: Callable[[int], None]) -> None:
        """Make all forward passes of a batch."""
        if batch.is_data:
            self._run_over_images(batch.samples, at, stepped)
        else:
            self._run_from_noise(batch.samples, at, stepped)

    def _run_from_noise(self, samples: range, at: At, stepped: Callable[[int], None]) -> None:
        scheduler = self._model.scheduler
        generator = torch.Generator().manual_seed(seed_of(self._sampling.seed, samples[0]))
        # Ancestral samplers add noise; those that do not, take no generator.
        takes = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes else {}
        labels = self._labels(samples)
        with Clock(scheduler, self._schedule) as clock:
            scheduler.set_timesteps(self._sampling.steps)
            state = self._noise(samples) * scheduler.init_noise_sigma
            for number, timestep in enumerate(scheduler.timesteps, 1):
                given = state
                if hasattr(scheduler, "scale_model_input"):
                    given = scheduler.scale_model_input(state, timestep)
                with at([clock.timestep]):
                    predicted = self._predict(given, timestep, labels)
                state = scheduler.step(predicted, timestep, state, **extra).prev_sample
                stepped(number)

    def _run_over_images(self, samples: range, at: At, stepped: Callable[[int], None]) -> None:
        assert self._images is not None
        steps, total = self._sampling.steps, self._schedule.num_timesteps
        clean = self._clean(samples)
        draws = [np.random.default_rng([self._sampling.seed, 1, sample]) for sample in samples]
        nulls = [self._null_label if self._null_label is not None else 0] * len(samples)
        labels = torch.tensor(nulls) if self._num_classes else None
        for step in range(steps):
            # One timestep in each of as many equal parts as a trajectory has steps.
            ratios = [(steps - 1 - step + random.random()) / steps for random in draws]
            noise = np.stack([random.standard_normal(self._shape) for random in draws])
            if self._schedule.kind == "flow_matching":
                timesteps = torch.tensor(ratios, dtype=torch.float32) * (total - 1)
                handed = timesteps * (total / (total - 1))
            else:
                timesteps = handed = (torch.tensor(ratios) * total).long().clamp(max=total - 1)
            state = noised(clean, torch.from_numpy(noise).to(clean), timesteps, self._schedule)
            with at([float(t) for t in timesteps]):
                self._evaluate(state, handed, labels)
            stepped(step + 1)

    def _predict(self, given: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Return the model's prediction with guidance, without a learned variance."""
        guidance = self.guidance or 1.0
        if guidance > 1.0 and labels is not None:
            nulls = torch.full_like(labels, self._null_label or 0)
            both = self._evaluate(torch.cat([given] * 2), timestep, torch.cat([labels, nulls]))
            channels = given.shape[1]  # what comes after these is a learned variance
            with_label, without = both[:, :channels].chunk(2)
            guided = without + guidance * (with_label - without)
            predicted = torch.cat([guided, both[: len(given), channels:]], dim=1)
        else:
            predicted = self._evaluate(given, timestep, labels)
        learned = str(self._model.scheduler.config.get("variance_type")).startswith("learned")
        return predicted if learned else predicted[:, : given.shape[1]]

    def _evaluate(self, given: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        extra = {} if labels is None else {"class_labels": labels}
        result = self._denoiser(given, timestep=timestep.expand(len(given)), **extra).sample
        assert isinstance(result, Tensor)
        return result

    def _noise(self, samples: range) -> Tensor:
        seed = self._sampling.seed
        drawn = [np.random.default_rng([seed, 0, i]).standard_normal(self._shape) for i in samples]
        return torch.from_numpy(np.stack(drawn)).to(self._model.dtype)

    def _labels(self, samples: range) -> Tensor | None:
        """Return labels that visit every class in turn, in an order of the seed's."""
        if not self._num_classes:
            return None
        order = np.random.default_rng(self._sampling.seed).permutation(self._num_classes)
        labels = [int(order[sample % self._num_classes]) for sample in samples]
        if self._null_label is not None and (self.guidance or 1.0) <= 1.0:
            for i, sample in enumerate(samples):
                # A step past the tenth each time, so that it is not always the same class's turn.
                if sample % (_NULL_SHARE + 1) == _NULL_SHARE:
                    labels[i] = self._null_label
        return torch.tensor(labels)

    def _clean(self, samples: range) -> Tensor:
        assert self._images is not None
        first = self._sampling.samples - round(self._sampling.samples * self._sampling.mix)
        chosen = [(sample - first) % len(self._images) for sample in samples]
        return latents_of(self._model, self._images, chosen, self._shape)


def _sample_shape(config: Any) -> tuple[int, ...]:
    size = config["sample_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (int(config["in_channels"]), *map(int, sides))


def _labels(denoiser: Any) -> tuple[int, int | None]:
    """Return the number of classes and the label that stands for none of them."""
    if "class_labels" not in inspect.signature(denoiser.forward).parameters:
        return 0, None
    config = denoiser.config
    if config.get("num_embeds_ada_norm") is not None:  # DiT: the table has a row more
        return int(config["num_embeds_ada_norm"]), int(config["num_embeds_ada_norm"])
    return int(config.get("num_class_embeds") or 0), None
