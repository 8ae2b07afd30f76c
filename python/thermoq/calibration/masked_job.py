"""Masked-diffusion language models made ready to be sampled."""

from __future__ import annotations

from collections.abc import Callable

from thermoq.calibration import masked
from thermoq.calibration.diffusion_job import read_lines
from thermoq.calibration.job import At, Job, Step, Watched, layers_to_watch, precision_for
from thermoq.calibration.language_models import load_language_model
from thermoq.calibration.settings import DEFAULT_LENGTH, CalibrationSettings
from thermoq.checkpoint import Checkpoint
from thermoq.errors import UsageError
from thermoq.schedule import NoiseSchedule


def masked_job(
    checkpoint: Checkpoint, schedule: NoiseSchedule, settings: CalibrationSettings
) -> Job:
    """Load a language model. Raises InputError and UsageError as `load_language_model` does."""
    sampling = _sampling(schedule, settings)
    precision = precision_for(checkpoint)
    prompts = read_lines(settings.prompts, "--prompts")
    text = read_lines(settings.data, "--data")
    model = load_language_model(checkpoint.directory, dtype=precision)
    planned = masked.batches(sampling, with_text=bool(text))

    def run(
        at: At, told: Callable[[Step], None], finished: Callable[[int], None], done: int
    ) -> None:
        for one in masked.run(model, sampling, at, prompts=prompts, text=text, done=done):
            told(Step(one.step, planned[one.batch - 1].samples[-1] + 1))
            if one.step == one.steps:
                finished(one.batch)

    component = checkpoint.components[0]
    layers = layers_to_watch(component, lambda name: model.layers.get(name, name))
    return Job(
        watched=(Watched(model.module, layers),),
        num_batches=len(planned),
        steps=sampling.steps,
        sampler="unmasking by confidence",
        guidance=None,
        data_share=sum(len(b.samples) for b in planned if b.is_text) / settings.samples,
        precision=precision,
        run=run,
        details={
            "family": model.family,
            "length": sampling.length,
            "temperature": sampling.temperature,
            "num_prompts": len(prompts),
        },
    )


def _sampling(schedule: NoiseSchedule, settings: CalibrationSettings) -> masked.MaskedSampling:
    for name in ("guidance", "size"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--{name}: expected an image model, got a language model")
    length = settings.length if settings.length is not None else DEFAULT_LENGTH
    return masked.MaskedSampling(
        samples=settings.samples,
        steps=settings.steps_of(length),
        length=length,
        seed=settings.seed,
        mix=settings.mix,
        num_timesteps=schedule.num_timesteps,
    )
