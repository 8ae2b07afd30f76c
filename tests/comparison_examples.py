"""Evaluations and reports of three phases for tests, with figures that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from report_examples import calibrated_report, smoothed_report
from thermoq.evaluation.intervals import draws, median
from thermoq.evaluation.sums import PassFigures, SumsOverTrajectory
from thermoq.report.comparison_model import Cell, Comparison
from thermoq.report.evaluation_model import (
    DenoiserEvaluation,
    Evaluation,
    Figure,
    InferenceTime,
    LanguageEvaluation,
    MaskedRow,
    MaskedSums,
    SampleQuality,
)
from thermoq.report.json import write_json
from thermoq.report.model import Report
from thermoq.schedule import uniform_time_groups

FINGERPRINT = "xxh3-128:" + "1" * 32
CALIBRATION = "xxh3-128:" + "a" * 32


def cells(comparison: Comparison, key: str) -> list[Cell]:
    """The cells of a row."""
    return next(row for row in comparison.rows if row.key == key).cells


def equal(comparison: Comparison) -> dict[str, bool | None]:
    """What was equal, by name."""
    return {row.name: row.equal for row in comparison.equalities}


def denoiser_evaluation(
    error: float = 0.1, *, inputs: str = "same", samples: int = 32, groups: int = 4, seed: int = 0
) -> Evaluation:
    """Errors of about `error`: each sample's own difficulty times it, and a little noise."""
    random = np.random.default_rng([7, samples, *inputs.encode()])
    difficulty = random.lognormal(0.0, 0.5, samples)
    noise = np.random.default_rng(seed).lognormal(0.0, 0.01, (samples, 20))
    parts = [SumsOverTrajectory(samples, uniform_time_groups(1000, n), has_kl=False)
             for n in (groups, 4)]  # fmt: skip
    for step in range(20):
        energy = np.full(samples, 10.0)
        squared = error * energy * difficulty * noise[:, step] * (1 + step / 10)
        figures = PassFigures(squared, energy, 1 - squared / energy / 2, None)
        for each in parts:
            each.add(np.arange(samples), np.full(samples, 980.0 - 50 * step), figures)
    drawn = draws(samples, 0)
    denoiser = DenoiserEvaluation(
        overall=parts[0].overall(drawn),
        time_groups=parts[0].rows(drawn),
        quarters=parts[1].rows(drawn),
        time_group_sums=parts[0].for_report(),
        quarter_sums=parts[1].for_report(),
    )
    return _evaluation(inputs, samples, denoiser=denoiser)


def language_evaluation(correct: float = 0.5, divergence: float = 0.1) -> Evaluation:
    """A language model's, with 24 samples of 10 masked tokens at each of three ratios."""
    random = np.random.default_rng(3)
    tokens = np.full((24, 3), 10)
    hits = np.rint(10 * correct + random.integers(-2, 3, (24, 3))).astype(int)
    figure = Figure(value=divergence, low=divergence * 0.9, high=divergence * 1.1)
    accuracy = Figure(value=hits.sum() / tokens.sum(), low=0.0, high=1.0)

    def row(mask_ratio: float | None) -> MaskedRow:
        return MaskedRow(
            mask_ratio=mask_ratio,
            timestep=None,
            time_group=None,
            tokens=240,
            divergence=figure,
            cross_entropy=figure,
            full_cross_entropy=figure,
            accuracy=accuracy,
            full_accuracy=accuracy,
        )

    sums = MaskedSums(
        tokens=tokens.tolist(),
        divergence=(divergence * 10 * random.lognormal(0, 0.1, (24, 3))).tolist(),
        cross_entropy=tokens.astype(float).tolist(),
        full_cross_entropy=tokens.astype(float).tolist(),
        correct=hits.tolist(),
        full_correct=hits.tolist(),
    )
    language = LanguageEvaluation(
        text="own",
        length=64,
        overall=row(None),
        mask_ratios=[row(ratio) for ratio in (0.15, 0.5, 0.85)],
        time_groups=[],
        sums=sums,
    )
    return _evaluation("text", 24, language=language)


def judged(evaluation: Evaluation, accuracy: float, distance: float) -> Evaluation:
    """The same with 100 samples that a judge has seen."""
    votes = "1" * round(100 * accuracy) + "0" * round(100 - 100 * accuracy)
    replicates = (distance + 0.02 + 0.001 * np.sin(np.arange(200.0))).tolist()
    figure = Figure(value=distance, low=distance * 0.9, high=distance * 1.1)
    share = Figure(value=accuracy, low=accuracy - 0.05, high=min(1.0, accuracy + 0.05))
    quality = SampleQuality(
        judge="example",
        num_samples=100,
        steps=20,
        accuracy=share,
        frechet_distance=figure,
        full_accuracy=share,
        full_frechet_distance=figure,
        correct=votes,
        full_correct=votes,
        frechet_replicates=replicates,
        full_frechet_replicates=replicates,
    )
    return evaluation.model_copy(update={"sample_quality": quality})


def timed(evaluation: Evaluation, ratio: float, *, seed: int = 0, **changes: Any) -> Evaluation:
    """The same with 60 turns whose ratios are about `ratio`."""
    ratios = ratio * np.random.default_rng(seed).normal(1.0, 0.01, 60)
    inference = InferenceTime(
        over_static=median(ratios, 0),
        ratios=ratios.tolist(),
        static_s=0.0125,
        batch_size=64,
        num_timesteps=10,
        cpu="a CPU",
        threads=2,
    )
    return evaluation.model_copy(update={"inference": inference.model_copy(update=changes)})


def _evaluation(inputs: str, samples: int, **found: Any) -> Evaluation:
    return Evaluation(
        thermoq_version="0.1.0",
        model_fingerprint=FINGERPRINT,
        quantized_fingerprint="xxh3-128:" + "2" * 32,
        inputs_key=inputs,
        num_samples=samples,
        steps=20,
        seed=0,
        guidance=None,
        sampler="DDIMScheduler",
        precision="float32",
        data=None,
        num_prompts=0,
        confidence=0.95,
        num_replicates=1000,
        notes=[],
        elapsed_s=1.0,
        **found,
    )


def phase_reports(*, evaluated: bool = True, **given: Any) -> list[Report]:
    """Reports of Phase 1, 2 and 3 of one model."""
    first = calibrated_report(**given)
    second = smoothed_report(**given).model_copy(
        update={"phase": "smooth", "parameter_source": "calibration", "smoothness_score": 0.87}
    )
    third = second.model_copy(
        update={"phase": "optimize", "smoothness_score": 0.95, "violation_count": 0}
    )
    errors = (0.1, 0.1, 0.06)
    times = (4.0, 4.1, 4.8)
    return [
        report.model_copy(
            update={
                "evaluation": denoiser_evaluation(error, seed=i) if evaluated else None,
                "provenance": report.provenance.model_copy(
                    update={
                        "input_fingerprint": FINGERPRINT,
                        "calibration_fingerprint": CALIBRATION,
                        "times_s": {"total_s": seconds, "write_s": 0.5},
                    }
                ),
            }
        )
        for i, (report, error, seconds) in enumerate(
            zip((first, second, third), errors, times, strict=True)
        )
    ]


def with_provenance(report: Report, **changes: Any) -> Report:
    """The report with another provenance."""
    return report.model_copy(update={"provenance": report.provenance.model_copy(update=changes)})


def write_reports(folder: Path, reports: list[Report]) -> list[Path]:
    """Write reports as `1.json`, `2.json`, ..."""
    paths = [folder / f"{i}.json" for i in range(1, len(reports) + 1)]
    for report, path in zip(reports, paths, strict=True):
        write_json(report, path)
    return paths
