"""Evaluate a quantized model beside the one it was made of, on inputs that no calibration saw."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from thermoq.build import version
from thermoq.calibration.packages import require_packages
from thermoq.calibration.run import content_of, job_for, torch_settings
from thermoq.errors import InputError, UsageError
from thermoq.evaluation.held_out import fewer_note, with_different_images
from thermoq.evaluation.intervals import CONFIDENCE, NUM_REPLICATES
from thermoq.evaluation.judge import MODEL_FINGERPRINT, load_judge
from thermoq.evaluation.loading import Pair, load_quantized, open_pair
from thermoq.evaluation.publishing import Destinations
from thermoq.evaluation.settings import DEFAULT_JUDGED, MASK_RATIOS, EvaluationSettings
from thermoq.progress import NoSteps, StepProgress
from thermoq.report.evaluation_model import Evaluation, EvaluationInputs, InferenceTime
from thermoq.schedule import NoiseSchedule, schedule_for

if TYPE_CHECKING:
    from thermoq.calibration.job import Job
    from thermoq.evaluation.inference_time import TimedPass


def evaluate(
    model: Path | str,
    quantized: Path | str,
    *,
    report: Path | str | None = None,
    html_report: Path | str | None = None,
    threads: int | None = None,
    timing: bool = True,
    progress: StepProgress | None = None,
    **settings: Any,
) -> Evaluation:
    """Run the model in directory `model` and the quantized one made of it on the same inputs.

    `settings` are those of `EvaluationSettings`, by name; None: the default. The result is also put
    into the report that the quantized directory holds, and into the JSON report `report`: one that
    lies there and is of this model keeps all else it holds. `html_report` names the page, `threads`
    None or 0: as torch has it. With `timing` the quantized model's forward pass is timed beside one
    with static parameters: a measurement of this machine, and no other run gives the same digits.

    Raises UsageError for a wrong setting, too few samples and without torch; InputError for a
    directory that is not quantized, was made of another model, or cannot be run. Nothing is written
    then.
    """
    started = time.perf_counter()
    chosen = _settings(settings)
    if threads is not None and threads < 0:
        raise UsageError(f"--threads: expected at least 0, got {threads}")
    require_packages(verb="evaluate")
    places = Destinations(
        Path(quantized), *(None if path is None else Path(path) for path in (report, html_report))
    )
    places.check(Path(model))
    pair = open_pair(Path(model), Path(quantized))
    first = pair.full.components[0]
    schedule = schedule_for(pair.full.scheduler_config, first.config)
    run = _Run(pair, chosen, schedule, progress or NoSteps(), timing)
    with torch_settings(threads):
        found = run.language() if schedule.kind == "masked" else run.denoiser()
    found = found.model_copy(update={"elapsed_s": round(time.perf_counter() - started, 3)})
    places.write(found)
    return found


def _settings(given: dict[str, Any]) -> EvaluationSettings:
    known = {key: value for key, value in given.items() if value is not None}
    for key in ("prompts", "data"):
        if key in known:
            known[key] = Path(known[key])
    unknown = known.keys() - EvaluationSettings.__dataclass_fields__.keys()
    if unknown:
        raise UsageError(f"evaluate: unknown setting {min(unknown)}")
    return EvaluationSettings(**known)


@dataclass(frozen=True)
class _Run:
    """All that is settled before a model is loaded."""

    pair: Pair
    settings: EvaluationSettings
    schedule: NoiseSchedule
    progress: StepProgress
    timing: bool

    def denoiser(self) -> Evaluation:
        """Evaluate a denoiser, and the samples of one that the judge knows."""
        from thermoq.evaluation.denoiser import evaluate_denoiser
        from thermoq.evaluation.samples import check_can_be_judged
        from thermoq.evaluation.timed_passes import KeptPasses

        judged = self._num_judged()
        sampling = with_different_images(self.settings.for_sampling)
        job = job_for(self.pair.full, self.schedule, sampling)
        if judged:
            check_can_be_judged(job.watched[0].module)
        modules = load_quantized(self._running(), job.precision)
        kept = KeptPasses(modules, self.schedule.num_timesteps)
        found = evaluate_denoiser(
            job,
            modules,
            self.schedule,
            self.pair.full.scheduler_config,
            self.pair.time_groups,
            sampling.samples,
            self.settings.seed,
            self.progress,
            also_seen=kept.see if self.timing else None,
        )
        quality = self._quality(job, modules[0], judged) if judged else None
        return self._evaluation(
            steps=job.steps,
            guidance=job.guidance,
            sampler=job.sampler,
            precision=job.precision,
            num_prompts=int(job.details.get("num_prompts") or 0),
            notes=[*job.notes, *self._fewer(sampling.samples, "images")],
            num_samples=sampling.samples,
            denoiser=found,
            sample_quality=quality,
            inference=self._timed(kept.passes()),
        )

    def language(self) -> Evaluation:
        """Evaluate a masked-diffusion language model."""
        from thermoq.calibration.diffusion_job import read_lines
        from thermoq.calibration.job import precision_for
        from thermoq.calibration.language_configs import read_config
        from thermoq.calibration.language_models import load_language_model
        from thermoq.calibration.masked_job import masked_sampling
        from thermoq.evaluation.language import evaluate_language, given_text, own_text
        from thermoq.evaluation.timed_passes import language_passes
        from thermoq.runtime.loading import load_quantized_language_model

        if self.settings.judged:
            raise UsageError("--judged: expected an image model, got a language model")
        full_checkpoint, settings = self.pair.full, self.settings.for_sampling
        config = read_config(full_checkpoint.components[0].config or {}, full_checkpoint.directory)
        sampling = masked_sampling(self.schedule, settings, config.max_positions)
        prompts = read_lines(settings.prompts, "--prompts")
        lines = read_lines(settings.data, "--data")
        precision = precision_for(full_checkpoint)
        full = load_language_model(full_checkpoint.directory, dtype=precision)
        quantized = load_quantized_language_model(self._running()[0], dtype=precision)
        if settings.data is not None:
            text = given_text(full, settings.data, lines, sampling)
        else:
            text = own_text(full, sampling, prompts, self.progress)
        found = evaluate_language(
            full,
            quantized,
            text,
            sampling,
            self.pair.time_groups,
            self.settings.seed,
            self.progress,
        )
        passes = language_passes(quantized, text.tokens, sampling.seed) if self.timing else []
        return self._evaluation(
            text.checksum if text.source == "given" else None,
            steps=sampling.steps,
            guidance=None,
            sampler="unmasking by confidence" if text.source == "own" else "masking given text",
            precision=precision,
            num_prompts=len(prompts),
            notes=self._fewer(len(text.tokens), f"windows of {sampling.length} tokens"),
            num_samples=len(text.tokens),
            language=found,
            inference=self._timed(passes),
        )

    def _timed(self, passes: Sequence[TimedPass]) -> InferenceTime | None:
        from thermoq.evaluation.inference_time import inference_time

        return inference_time(passes, self.settings.seed, self.progress)

    def _quality(self, job: Job, quantized: Any, judged: int) -> Any:
        from thermoq.calibration.loading import load_scheduler
        from thermoq.evaluation.samples import judge_samples

        return judge_samples(
            load_judge(),
            job.watched[0].module,
            quantized,
            load_scheduler(self.pair.full),
            judged,
            job.steps,
            self.settings.seed,
            self.settings.for_sampling.seed,
            self.progress,
        )

    def _running(self) -> Any:
        found = self.pair.running()
        if len(found) != len(self.pair.full.components):
            raise InputError(
                f"{self.pair.full.directory}: expected each of its denoisers to be quantized, got "
                f"{len(found)} of {len(self.pair.full.components)}"
            )
        return found

    def _num_judged(self) -> int:
        if self.settings.judged is not None:
            return self.settings.judged
        return DEFAULT_JUDGED if self.pair.fingerprint == MODEL_FINGERPRINT else 0

    def _fewer(self, found: int, what: str) -> list[str]:
        return fewer_note(found, self.settings.samples, what, self.settings.data)

    def _evaluation(self, checksum: str | None = None, **found: Any) -> Evaluation:
        settings = self.settings
        return Evaluation(
            thermoq_version=version(),
            model_fingerprint=self.pair.fingerprint,
            quantized_fingerprint=self.pair.quantized_fingerprint,
            inputs_key=self._inputs_key(found, checksum),
            inputs=self._inputs(),
            seed=settings.seed,
            data=settings.data.name if settings.data is not None else None,
            confidence=CONFIDENCE,
            num_replicates=NUM_REPLICATES,
            elapsed_s=0.0,
            **found,
        )

    def _inputs_key(self, found: dict[str, Any], checksum: str | None) -> str:
        """Return what tells the inputs; `checksum` is of those that the settings do not tell."""
        quality = found.get("sample_quality")
        decides = {
            "model": self.pair.fingerprint,
            "scheduler": self.pair.full.scheduler_config,
            **dict(self._plain_settings()),
            **{key: found[key] for key in ("steps", "guidance", "sampler", "precision")},
            "mask_ratios": MASK_RATIOS,
            "judged": 0 if quality is None else quality.num_samples,
            "samples": found["num_samples"],
            **({} if self.settings.data is None else {"different": checksum}),
        }
        return _fingerprint_of(decides)

    def _inputs(self) -> EvaluationInputs:
        settings, scheduler = self.settings, self.pair.full.scheduler_config
        prompts, data = (content_of(path) for path in (settings.prompts, settings.data))
        return EvaluationInputs(
            length=settings.length,
            size=settings.size,
            prompts=f"xxh3-128:{prompts}" if prompts else None,
            data=f"xxh3-128:{data}" if data else None,
            scheduler=None if scheduler is None else _fingerprint_of(scheduler),
        )

    def _plain_settings(self) -> Iterator[tuple[str, Any]]:
        for key, value in dataclasses.asdict(self.settings).items():
            if key in ("prompts", "data"):
                yield key, content_of(value)
            elif key != "judged":
                yield key, value


def _fingerprint_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(text.encode())}"
