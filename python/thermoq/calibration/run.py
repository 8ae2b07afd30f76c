"""Calibrate a model: have it sample, watch its layers meanwhile, write what they have seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from thermoq.build import version
from thermoq.calibration.file import (
    CalibratedComponent,
    Calibration,
    Description,
    fine_bins,
    write_calibration,
)
from thermoq.calibration.handed import HandedValues
from thermoq.calibration.job import Job, Step
from thermoq.calibration.matching import calibrated_component
from thermoq.calibration.noise import noise_levels
from thermoq.calibration.packages import require_packages, silenced
from thermoq.calibration.settings import CalibrationSettings
from thermoq.calibration.statistics import PERCENTILE_LEVELS, CalibratedInput, InputStatistics
from thermoq.calibration.storage import RowStorage
from thermoq.checkpoint import Checkpoint, MappedFiles, open_checkpoint
from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import UsageError
from thermoq.progress import NoSteps, StepProgress
from thermoq.report.atomic import check_writable
from thermoq.schedule import NoiseSchedule, TimeGroups, schedule_for
from thermoq.staging import already_there, final_path
from thermoq.timestep_values import Table

if TYPE_CHECKING:
    from thermoq.calibration.collect import Collector
    from thermoq.calibration.partial import PartialFile


def calibrate(
    model: Path | str,
    output: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: StepProgress | None = None,
    **settings: Any,
) -> Calibration:
    """Run the model in directory `model` along its own trajectory and write what its layers see.

    `settings` are those of `CalibrationSettings`, by name; None: the default. With `resume`,
    finished batches are kept in `output` + ".partial" until all are done, and a run takes over
    those of an interrupted one. `threads` None or 0: as torch has it. What is worth a warning is in
    the description's `details`, as `note`, and in `not_reached`.

    Raises UsageError for a wrong setting and without torch, InputError for a model that cannot be
    sampled and for NaN in activations (named by layer and timestep); nothing is written then.
    """
    chosen = _settings(settings)
    if threads is not None and threads < 0:
        raise UsageError(f"--threads: expected at least 0, got {threads}")
    require_packages()
    root, path = Path(model), Path(output)
    _check_output(path, root, overwrite=overwrite)
    checkpoint = open_checkpoint(root)
    schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
    bins = fine_bins(schedule.num_timesteps, chosen.bins)
    with torch_settings(threads):
        job = job_for(checkpoint, schedule, chosen)
        models = _calibrated_components(checkpoint)
        partial = _partial(path, chosen, job, models, checkpoint) if resume else None
        run = _Run(job, chosen, schedule, bins, models, final_path(path).parent, partial)
        calibration = run.sample(progress or NoSteps())
    write_calibration(path, calibration, replace=overwrite)
    if partial is not None:
        partial.remove()
    return calibration


def _settings(given: dict[str, Any]) -> CalibrationSettings:
    known = {key: value for key, value in given.items() if value is not None}
    for key in ("prompts", "data"):
        if key in known:
            known[key] = Path(known[key])
    unknown = known.keys() - CalibrationSettings.__dataclass_fields__.keys()
    if unknown:
        raise UsageError(f"calibrate: unknown setting {min(unknown)}")
    return CalibrationSettings(**known)


def _check_output(path: Path, model: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path}: expected a file to write, got a directory")
    final = final_path(path)
    if final_path(model) in (final, *final.parents):
        raise UsageError(f"{path}: expected a file outside {model}")
    check_writable(path)
    if path.exists() and not overwrite:
        raise already_there(path)


@contextmanager
def torch_settings(threads: int | None) -> Iterator[None]:
    """Run models in the block: on so many threads, without gradients, and quietly."""
    import torch

    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        with silenced(), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def job_for(checkpoint: Checkpoint, schedule: NoiseSchedule, settings: CalibrationSettings) -> Job:
    """Load a model and choose how to sample it. Raises InputError or UsageError if it cannot."""
    if schedule.kind == "masked":
        from thermoq.calibration.masked_job import masked_job

        return masked_job(checkpoint, schedule, settings)
    from thermoq.calibration.diffusion_job import diffusion_job

    return diffusion_job(checkpoint, schedule, settings)


def _calibrated_components(checkpoint: Checkpoint) -> dict[str, CalibratedComponent]:
    with MappedFiles() as files:
        return {part.name: calibrated_component(part, files) for part in checkpoint.components}


def _partial(
    path: Path,
    settings: CalibrationSettings,
    job: Job,
    models: dict[str, CalibratedComponent],
    checkpoint: Checkpoint,
) -> PartialFile:
    from thermoq.calibration.partial import PartialFile

    identity = {
        **{key: str(value) for key, value in asdict(settings).items()},
        "prompts_content": content_of(settings.prompts),
        "data_content": content_of(settings.data),
        "thermoq_version": version(),
        "precision": job.precision,
        "scheduler": checkpoint.scheduler_config,
        "model": {name: part.fingerprint for name, part in models.items()},
    }
    return PartialFile(path, identity)


def content_of(path: Path | None) -> str:
    """Return what tells whether a file is the same; of a folder, its files' names and sizes."""
    if path is None:
        return ""
    try:
        if path.is_dir():
            files = sorted(path.iterdir())
            content = repr([(file.name, file.stat().st_size) for file in files]).encode()
        else:
            content = path.read_bytes()
    except OSError as error:
        raise bad_file(path, f"cannot be read: {error.strerror or error}") from None
    return xxhash.xxh3_128_hexdigest(content)


@dataclass(frozen=True)
class _Run:
    """All that is settled before the first forward pass."""

    job: Job
    settings: CalibrationSettings
    schedule: NoiseSchedule
    bins: TimeGroups
    models: dict[str, CalibratedComponent]
    directory: Path
    partial: PartialFile | None

    def sample(self, progress: StepProgress) -> Calibration:
        """Make all forward passes with hooks on every layer, and return what they have counted."""
        from thermoq.calibration.collect import Collector

        storage = RowStorage(self.directory)

        def new_statistics(name: str, num_columns: int) -> InputStatistics:
            rows, seed = self.settings.rows, self.settings.seed
            return InputStatistics(num_columns, len(self.bins), rows, seed, name, storage.allocate)

        with ExitStack() as hooks:
            collectors = [
                hooks.enter_context(Collector(one.module, one.layers, new_statistics))
                for one in self.job.watched
            ]
            handed = hooks.enter_context(HandedValues(one.module for one in self.job.watched))
            self._run(collectors, handed, progress)
        table = handed.table(self.schedule.kind, self.schedule.num_timesteps)
        return Calibration(self._description(collectors, table), _finished(collectors, storage))

    def _run(
        self, collectors: Sequence[Collector], handed: HandedValues, progress: StepProgress
    ) -> None:
        done = self.partial.restore(collectors, handed) if self.partial is not None else 0

        @contextmanager
        def at(timesteps: Sequence[float]) -> Iterator[None]:
            numbers = [self.bins.group_of(timestep) for timestep in timesteps]
            for collector in collectors:
                collector.begin(numbers, timesteps)
            yield
            for collector in collectors:
                collector.end()
            handed.note(timesteps)

        def told(step: Step) -> None:
            progress.advance(
                f"step {step.step} of {self.job.steps}, "
                f"sample {step.samples} of {self.settings.samples}"
            )

        def finished(batches: int) -> None:
            if self.partial is not None:
                self.partial.save(collectors, handed, batches)

        steps = self.job.steps
        progress.start("calibrating", len(self.job.batches) * steps, done * steps)
        self.job.run(at, told, finished, done)

    def _description(self, collectors: Sequence[Collector], table: Table | None) -> Description:
        job, settings = self.job, self.settings
        layers = {k: v for collector in collectors for k, v in collector.layer_inputs.items()}
        if not layers:
            raise bad_file(self.directory, "expected layers that run while sampling, got none")
        notes = {"note": "; ".join(job.notes)} if job.notes else {}
        return Description(
            thermoq_version=version(),
            components=self.models,
            schedule_kind=self.schedule.kind,
            num_timesteps=self.schedule.num_timesteps,
            schedule=self.schedule.description,
            noise_levels=noise_levels(self.schedule),
            timestep_table=table,
            bin_starts=self.bins.starts,
            percentile_levels=PERCENTILE_LEVELS,
            sampler=job.sampler,
            steps=job.steps,
            guidance=job.guidance,
            seed=settings.seed,
            num_samples=settings.samples,
            rows_per_bin=settings.rows,
            data_share=job.data_share,
            details={**job.details, "precision": job.precision, **notes},
            layers=layers,
            not_reached=tuple(name for collector in collectors for name in collector.unreached),
        )


def _finished(collectors: Sequence[Collector], storage: RowStorage) -> dict[str, CalibratedInput]:
    """Return what was counted, one input after the other, as rows may have to lie in files."""
    finished = {}
    for collector in collectors:
        for name, statistics in collector.inputs.items():
            one = statistics.finish()
            rows = storage.allocate(one.rows.shape, one.rows.dtype)
            rows[...] = one.rows
            finished[name] = replace(one, rows=rows)
    return finished
