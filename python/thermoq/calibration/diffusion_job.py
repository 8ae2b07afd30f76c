"""Models of diffusers made ready to be sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thermoq.calibration.failures import one_line
from thermoq.calibration.job import At, Job, Step, Watched, layers_to_watch
from thermoq.calibration.settings import CalibrationSettings
from thermoq.checkpoint import Checkpoint
from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import UsageError
from thermoq.schedule import NoiseSchedule

if TYPE_CHECKING:
    from torch import nn

    from thermoq.calibration.sampling import DiffusionSampling


def diffusion_job(
    checkpoint: Checkpoint, schedule: NoiseSchedule, settings: CalibrationSettings
) -> Job:
    """Load a model of diffusers. Raises InputError and UsageError as `load_diffusers` does."""
    import diffusers

    from thermoq.calibration.diffusion import diffusion_sampler
    from thermoq.calibration.loading import load_diffusers
    from thermoq.calibration.sampling import batches

    sampling = _sampling(schedule, settings)
    model = load_diffusers(checkpoint)
    sampler = diffusion_sampler(model, schedule, sampling)
    planned = batches(sampling, sampler.batch_size)
    smaller = "a smaller --size" if model.pipeline is not None else ""

    def run(
        at: At, told: Callable[[Step], None], finished: Callable[[int], None], done: int
    ) -> None:
        for number, batch in enumerate(planned[done:], done + 1):

            def stepped(step: int, begun: int = batch.samples[-1] + 1) -> None:
                told(Step(step, begun))

            with one_line(checkpoint.directory, "cannot be sampled", smaller):
                sampler.run(batch, at, stepped)
            finished(number)

    return Job(
        watched=_watched(checkpoint, model.denoisers),
        batches=tuple(batch.samples for batch in planned),
        steps=sampling.steps,
        sampler=type(model.scheduler).__name__,
        guidance=sampler.guidance,
        data_share=sum(len(b.samples) for b in planned if b.is_data) / settings.samples,
        precision=str(model.dtype).removeprefix("torch."),
        run=run,
        details={
            "diffusers_version": diffusers.__version__,
            "pipeline": model.class_name or None,
            "num_prompts": len(sampling.prompts),
        },
        notes=sampler.notes,
    )


def _sampling(schedule: NoiseSchedule, settings: CalibrationSettings) -> DiffusionSampling:
    from thermoq.calibration.sampling import DiffusionSampling

    if settings.length is not None:
        raise UsageError("--length: expected a masked-diffusion language model, got another")
    steps = settings.steps_of(schedule.num_timesteps)
    if steps > schedule.num_timesteps:
        most = f"expected at most {schedule.num_timesteps} (the model's timesteps)"
        raise UsageError(f"--steps: {most}, got {steps}")
    return DiffusionSampling(
        samples=settings.samples,
        steps=steps,
        seed=settings.seed,
        guidance=settings.guidance,
        prompts=read_lines(settings.prompts, "--prompts"),
        data=settings.data,
        mix=settings.share_of_data,
        size=settings.size,
        different_data=settings.different_data,
    )


def _watched(checkpoint: Checkpoint, denoisers: Mapping[str, nn.Module]) -> tuple[Watched, ...]:
    pairs = ((part, denoisers[part.name]) for part in checkpoint.components)
    return tuple(Watched(one, layers_to_watch(part, _paths_in(one))) for part, one in pairs)


# What the projections of an attention were called once; diffusers renames them as it loads.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _paths_in(module: nn.Module) -> Callable[[str], str]:
    """Return what finds the path of a weight tensor's layer in `module`."""
    known = dict(module.named_modules(remove_duplicate=False))

    def path_of(name: str) -> str:
        path = name.removesuffix(".weight")
        head, _, last = path.rpartition(".")
        return path if path in known else f"{head}.{_RENAMED.get(last, last)}"

    return path_of


def read_lines(path: Path | None, flag: str) -> tuple[str, ...]:
    """Return the lines of a text file that hold anything; none for no file.

    Raises InputError for a file that cannot be read, is not UTF-8, or is empty.
    """
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise bad_file(path, f"{flag}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise bad_file(path, f"{flag}: expected text in UTF-8") from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise bad_file(path, f"{flag}: expected a line of text, got none")
    return lines
