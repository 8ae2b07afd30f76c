"""Samples of both models from the same noise, for a judge who knows real data."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thermoq.calibration.sampling import seed_of
from thermoq.errors import InputError, UsageError
from thermoq.evaluation.intervals import draws, figure, rounded
from thermoq.evaluation.judge import IMAGE_SHAPE, NUM_CLASSES, Judge
from thermoq.progress import StepProgress
from thermoq.report.evaluation_model import Figure, SampleQuality

NUM_DISTANCE_REPLICATES = 200
_NOISE_STREAM = 3  # behind a sampler's seed: calibration's are 0 and 1, masks' 2
_BATCH = 250


def check_can_be_judged(denoiser: Any) -> None:
    """Raise UsageError for a model that draws no digits of the judge's kind."""
    config = denoiser.config
    size, channels = config.get("sample_size"), config.get("in_channels")
    labelled = "class_labels" in inspect.signature(denoiser.forward).parameters
    if (channels, size, size) != IMAGE_SHAPE or not labelled:
        got = f"{type(denoiser).__name__} of {channels} channels and size {size}"
        wanted = "a model that draws 8x8 digits by their label"
        raise UsageError(f"--judged: expected {wanted}, got {got}")


def judge_samples(
    judge: Judge,
    full: nn.Module,
    quantized: nn.Module,
    scheduler: Any,
    num_samples: int,
    steps: int,
    seed: int,
    sampler_seed: int,
    progress: StepProgress,
) -> SampleQuality:
    """Draw digits with both models, without guidance, labels in turn, and judge them.

    `sampler_seed` is that of the noise, `seed` that of the intervals. Raises InputError for samples
    that are not finite.
    """
    batches = -(-num_samples // _BATCH)
    progress.start("drawing samples", 2 * batches * steps, 0)
    labels = np.arange(num_samples) % NUM_CLASSES
    found = []
    for model in (quantized, full):
        pixels = draw(model, scheduler, num_samples, steps, sampler_seed, progress)
        found.append(_Judged(judge, pixels, labels, seed))
    ours, theirs = found
    return SampleQuality(
        judge="8x8 digits: kernel classifier, and statistics of 1,797 real ones",
        num_samples=num_samples,
        steps=steps,
        accuracy=ours.accuracy,
        frechet_distance=ours.distance,
        full_accuracy=theirs.accuracy,
        full_frechet_distance=theirs.distance,
        correct=ours.text,
        full_correct=theirs.text,
        frechet_replicates=rounded(ours.replicates, 6),
        full_frechet_replicates=rounded(theirs.replicates, 6),
    )


def draw(
    model: nn.Module,
    scheduler: Any,
    num_samples: int,
    steps: int,
    sampler_seed: int,
    progress: StepProgress,
) -> NDArray[np.float64]:
    """Return samples [n, pixels] in [-1, 1], sample i with the label i modulo 10."""
    drawn = []
    for first in range(0, num_samples, _BATCH):
        samples = range(first, min(first + _BATCH, num_samples))
        noise = [
            np.random.default_rng([sampler_seed, _NOISE_STREAM, i]).standard_normal(IMAGE_SHAPE)
            for i in samples
        ]
        labels = torch.tensor([i % NUM_CLASSES for i in samples])
        generator = torch.Generator().manual_seed(seed_of(sampler_seed, samples[0]))
        takes = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes else {}
        scheduler.set_timesteps(steps)
        state = torch.from_numpy(np.stack(noise)).float() * scheduler.init_noise_sigma
        for number, timestep in enumerate(scheduler.timesteps, 1):
            given = scheduler.scale_model_input(state, timestep)
            predicted = _predict(model, given, timestep, labels)
            state = scheduler.step(predicted, timestep, state, **extra).prev_sample
            progress.advance(f"step {number} of {steps}, sample {samples[-1] + 1} of {num_samples}")
        if not bool(torch.isfinite(state).all()):
            raise InputError(f"expected finite samples of {type(model).__name__}, got others")
        drawn.append(state.clamp(-1.0, 1.0).flatten(1).double().numpy())
    return np.concatenate(drawn)


def _predict(model: nn.Module, given: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(given, timestep=timestep.expand(len(given)), class_labels=labels).sample
    assert isinstance(output, Tensor)
    return output


class _Judged:
    """What a judge says of samples, with intervals."""

    def __init__(
        self, judge: Judge, pixels: NDArray[np.float64], labels: NDArray[np.int64], seed: int
    ) -> None:
        right = judge.classes(pixels) == labels
        drawn = draws(len(pixels), seed)
        self.text = "".join("1" if one else "0" for one in right)
        self.accuracy: Figure = figure(float(right.mean()), drawn @ right / len(right))
        rows = judge.components(pixels)
        self.replicates = judge.distances(rows, drawn[:NUM_DISTANCE_REPLICATES])
        value = float(judge.distances(rows, np.ones((1, len(rows)), np.int64))[0])
        self.distance: Figure = figure(value, self.replicates, centred=True)
