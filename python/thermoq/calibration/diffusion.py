"""Run a model of diffusers along its own trajectory, from noise, and over a user's images.

Where a denoiser needs nothing but a noisy sample, a timestep and perhaps a label, it is run here,
with its own scheduler. Everything else (texts, packed latents, two denoisers) is the pipeline's own
business: it is run as it is, and its denoisers are watched.
"""

from __future__ import annotations

from thermoq.calibration.images import Images
from thermoq.calibration.loading import DiffusersModel
from thermoq.calibration.pipeline_sampler import PipelineSampler
from thermoq.calibration.plain_sampler import PlainSampler, is_plain
from thermoq.calibration.sampling import DiffusionSampler, DiffusionSampling
from thermoq.errors import UsageError
from thermoq.report.wording import counted
from thermoq.schedule import NoiseSchedule


def diffusion_sampler(
    model: DiffusersModel, schedule: NoiseSchedule, sampling: DiffusionSampling
) -> DiffusionSampler:
    """Choose how to sample `model`.

    Raises InputError for a model that nothing here can sample, UsageError for settings that do not
    go with it. Images that are taken more than once are worth a note.
    """
    images = Images(sampling.data) if sampling.data is not None else None
    if images is not None and sampling.different_data:
        images = images.different(sampling.samples_of_data)
    sampler = _sampler(model, schedule, sampling, images)
    if images is not None and sampling.samples_of_data > len(images):
        times = f"{sampling.samples_of_data} samples are of {counted(len(images), 'image')}"
        sampler.notes += (f"--data: {times}, taken again with other noise",)
    return sampler


def _sampler(
    model: DiffusersModel,
    schedule: NoiseSchedule,
    sampling: DiffusionSampling,
    images: Images | None,
) -> DiffusionSampler:
    first = next(iter(model.denoisers.values()))
    if model.pipeline is None and is_plain(first):
        if sampling.prompts:
            raise UsageError("--prompts: expected a pipeline with a text encoder, got none")
        if sampling.size is not None:
            raise UsageError(f"--size: the samples of {type(first).__name__} have a fixed size")
        return PlainSampler(model, schedule, sampling, images)
    return PipelineSampler(model, schedule, sampling, images)
