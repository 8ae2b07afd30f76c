"""Masked-diffusion language models made ready to be sampled."""

from __future__ import annotations

from collections.abc import Callable

from thermoq.calibration import masked
from thermoq.calibration.diffusion_job import read_lines
from thermoq.calibration.failures import one_line
from thermoq.calibration.job import At, Job, Step, Watched, layers_to_watch, precision_for
from thermoq.calibration.language_configs import read_config
from thermoq.calibration.language_models import load_language_model
from thermoq.calibration.settings import DEFAULT_LENGTH, CalibrationSettings
from thermoq.calibration.windows import repeat_note
from thermoq.checkpoint import Checkpoint
from thermoq.checkpoint.untrusted import shown_path
from thermoq.errors import UsageError
from thermoq.schedule import NoiseSchedule


def masked_job(
    checkpoint: Checkpoint, schedule: NoiseSchedule, settings: CalibrationSettings
) -> Job:
    """Load a language model. Raises InputError and UsageError as `load_language_model` does.

    UsageError also for settings that are not for language models, or not for this one.
    """
    config = read_config(checkpoint.components[0].config or {}, checkpoint.directory)
    sampling = masked_sampling(schedule, settings, config.max_positions)
    precision = precision_for(checkpoint)
    prompts = read_lines(settings.prompts, "--prompts")
    text = read_lines(settings.data, "--data")
    with one_line(checkpoint.directory, "cannot be loaded"):
        model = load_language_model(checkpoint.directory, dtype=precision)
    text_name = f"{shown_path(settings.data)}: --data" if settings.data is not None else ""
    planned = masked.batches(sampling, with_text=bool(text))
    num_texts = sum(len(batch.samples) for batch in planned if batch.is_text)
    note = repeat_note(model, text, num_texts, sampling.length, text_name) if num_texts else None

    def run(
        at: At, told: Callable[[Step], None], finished: Callable[[int], None], done: int
    ) -> None:
        passes = masked.run(
            model, sampling, at, prompts=prompts, text=text, text_name=text_name, done=done
        )
        with one_line(checkpoint.directory, "cannot be sampled", "a smaller --length"):
            for one in passes:
                told(Step(one.step, planned[one.batch - 1].samples[-1] + 1))
                if one.step == one.steps:
                    finished(one.batch)

    component = checkpoint.components[0]
    layers = layers_to_watch(component, lambda name: model.layers.get(name, name))
    return Job(
        watched=(Watched(model.module, layers),),
        batches=tuple(batch.samples for batch in planned),
        steps=sampling.steps,
        sampler="unmasking by confidence",
        guidance=None,
        data_share=num_texts / settings.samples,
        precision=precision,
        run=run,
        details={
            "family": model.family,
            "length": sampling.length,
            "temperature": sampling.temperature,
            "position_temperature": sampling.position_temperature,
            "num_prompts": len(prompts),
        },
        notes=() if note is None else (note,),
    )


def masked_sampling(
    schedule: NoiseSchedule, settings: CalibrationSettings, max_positions: int
) -> masked.MaskedSampling:
    """Return what to run. Raises UsageError for settings that are not for this model."""
    for name in ("guidance", "size"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--{name}: expected an image model, got a language model")
    length = settings.length if settings.length is not None else min(DEFAULT_LENGTH, max_positions)
    if length > max_positions:
        most = f"expected at most {max_positions} (the model's positions)"
        raise UsageError(f"--length: {most}, got {length}")
    return masked.MaskedSampling(
        samples=settings.samples,
        steps=settings.steps_of(length),
        length=length,
        seed=settings.seed,
        mix=settings.share_of_data,
        num_timesteps=schedule.num_timesteps,
    )
