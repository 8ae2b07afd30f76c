"""What the samplers of diffusion models have in common: their settings, batches and data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from thermoq.calibration.images import Images
from thermoq.calibration.job import At
from thermoq.calibration.loading import DiffusersModel
from thermoq.checkpoint.untrusted import bad_file


@dataclass(frozen=True)
class DiffusionSampling:
    """What to run: `samples` trajectories of `steps` steps, a share `mix` of them over images.

    `guidance` None: as the pipeline has it by default. `size` is in pixels, for pipelines. With
    `different_data` an image that is there twice counts once.
    """

    samples: int
    steps: int
    seed: int
    guidance: float | None = None
    prompts: tuple[str, ...] = ()
    data: Path | None = None
    mix: float = 0.5
    size: int | None = None
    different_data: bool = False

    @property
    def samples_of_data(self) -> int:
        """How many of the samples are images."""
        return round(self.samples * self.mix) if self.data is not None else 0


@dataclass(frozen=True)
class Batch:
    """Samples, by their number, that go through the model together."""

    samples: range
    is_data: bool


class DiffusionSampler(Protocol):
    """Draws samples batch by batch; a batch depends on the settings and its own samples alone."""

    guidance: float | None
    notes: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Samples that go through the model together."""

    def run(self, batch: Batch, at: At, stepped: Callable[[int], None]) -> None:
        """Make all forward passes of a batch; `stepped` is told of each step, counted from 1."""


def batches(sampling: DiffusionSampling, batch_size: int) -> tuple[Batch, ...]:
    """Return all batches in the order that they run in: from noise, then over images."""
    of_data = sampling.samples_of_data
    parts = (range(sampling.samples - of_data), range(sampling.samples - of_data, sampling.samples))
    return tuple(
        Batch(part[start : start + batch_size], is_data)
        for is_data, part in ((False, parts[0]), (True, parts[1]))
        for start in range(0, len(part), batch_size)
    )


def latents_of(
    model: DiffusersModel, images: Images, chosen: Sequence[int], shape: tuple[int, ...]
) -> Tensor:
    """Return images as clean samples [n, *shape], through the autoencoder where there is one."""
    if model.vae is None:
        if shape[0] not in (1, 3):
            raise bad_file(
                model.directory,
                f"--data: expected a vae beside a model of {shape[0]} channels, got none",
            )
        pictures = [images.get(i, shape[0], shape[1], shape[2]) for i in chosen]
        return torch.stack(pictures).to(model.dtype)
    config = model.vae.config
    factor = 2 ** (len(config.block_out_channels) - 1)
    channels = int(config.in_channels)
    pictures = [images.get(i, channels, shape[1] * factor, shape[2] * factor) for i in chosen]
    with torch.no_grad():
        encoded = model.vae.encode(torch.stack(pictures).to(model.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    shift = getattr(config, "shift_factor", None) or 0.0
    result = (latents - shift) * float(getattr(config, "scaling_factor", None) or 1.0)
    if tuple(result.shape[1:]) != shape:
        raise bad_file(
            model.directory,
            f"--data: expected latents of {list(shape)}, got {list(result.shape[1:])} from the vae",
        )
    assert isinstance(result, Tensor)
    return result


def seed_of(seed: int, sample: int) -> int:
    """Return a seed of a sample's own, for torch."""
    return int(np.random.SeedSequence([seed, sample]).generate_state(1, np.uint64)[0] >> 1)
