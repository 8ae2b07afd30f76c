"""A model sampled as its calibration sampled it, and its quantized form to be run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from thermoq.calibration.file import Description
from thermoq.calibration.job import Job
from thermoq.calibration.run import job_for
from thermoq.calibration.settings import CalibrationSettings
from thermoq.checkpoint import Checkpoint, open_checkpoint
from thermoq.evaluation.pairs import AtTimesteps, as_handed, as_told
from thermoq.schedule import TimeGroups, schedule_for


@dataclass(frozen=True)
class OwnSampling:
    """A full-precision model that is ready to sample from the calibration's own noise."""

    checkpoint: Checkpoint
    job: Job
    bins: TimeGroups
    is_language: bool

    @property
    def at_timesteps(self) -> AtTimesteps:
        """How the quantized model is told where on the trajectory it is."""
        return as_told if self.is_language else as_handed

    def modules(self, quantized: Path | str | Sequence[nn.Module]) -> list[nn.Module]:
        """Load a quantized directory: modules in the places of the watched ones."""
        from thermoq.checkpoint.quantized import open_quantized
        from thermoq.evaluation.loading import load_quantized
        from thermoq.runtime.loading import load_quantized_language_model

        if not isinstance(quantized, (str, Path)):
            return list(quantized)
        _, parts = open_quantized(Path(quantized))
        if self.is_language:
            return [load_quantized_language_model(parts[0], dtype=self.job.precision).module]
        by_name = {part.component.name: part for part in parts}
        names = [part.name for part in self.checkpoint.components]
        wanted = [by_name[name] for name in names if name in by_name]
        return load_quantized(wanted or list(parts), self.job.precision)


def own_sampling(model: Path | str, description: Description, samples: int) -> OwnSampling:
    """Load the model in directory `model` to be sampled as `description` says.

    Raises InputError for a model that cannot be run, UsageError as `calibrate`.
    """
    checkpoint = open_checkpoint(Path(model))
    schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
    is_language = schedule.kind == "masked"
    settings = CalibrationSettings(
        samples=samples,
        steps=description.steps,
        seed=description.seed,
        guidance=None if is_language else description.guidance,
        length=_length(description) if is_language else None,
    )
    bins = TimeGroups(description.num_timesteps, description.bin_starts)
    return OwnSampling(checkpoint, job_for(checkpoint, schedule, settings), bins, is_language)


def _length(description: Description) -> int | None:
    length = description.details.get("length")
    return int(length) if length is not None else None
