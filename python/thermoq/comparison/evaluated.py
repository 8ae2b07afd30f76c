"""The table's rows that evaluations have: accuracy, errors, the quality of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from thermoq.comparison.cells import Metric, evaluated_row, target_over_phase_1
from thermoq.comparison.conditions import are_pairs, conditions_apart
from thermoq.comparison.differences import (
    Sums,
    difference,
    difference_of_replicates,
    mean_ratio,
    relative_change,
)
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Cell, Change, MetricRow
from thermoq.report.evaluation_model import Evaluation, Figure, SampleQuality
from thermoq.report.wording import significant
from thermoq.terms import Phase

_GAINS: dict[Phase, float] = {"smooth": 0.02, "optimize": 0.06}


def evaluated_rows(sources: Sequence[Source]) -> Iterator[MetricRow]:
    """Yield the rows; those of samples only where a judge has seen some."""
    is_language = any(one.evaluation and one.evaluation.language for one in sources)
    yield _accuracy(sources, is_language=is_language)
    yield _error(sources, is_language=is_language)
    yield _error_by_part(sources, is_language=is_language)
    if any(one.evaluation and one.evaluation.sample_quality for one in sources):
        yield _sample_accuracy(sources)
        yield _frechet_distance(sources)


def sums_of(evaluation: Evaluation, figure: Literal["error", "accuracy"]) -> Sums:
    """Return what the accuracy or the error of the table is made of, by part of the trajectory.

    Language models: top-1 accuracy and KL divergence, by mask ratio; others: cosine and output
    error, by quarter.
    """
    if evaluation.language is not None:
        of = evaluation.language.sums
        return Sums.of(of.divergence if figure == "error" else of.correct, of.tokens)
    assert evaluation.denoiser is not None
    sums = evaluation.denoiser.quarter_sums
    if figure == "error":
        return Sums.of(sums.squared_error, sums.energy)
    return Sums.of(sums.cosine, sums.passes)


def _accuracy(sources: Sequence[Source], *, is_language: bool) -> MetricRow:
    if is_language:
        metric = Metric(
            "accuracy",
            "Accuracy: masked tokens, top-1",
            "top-1 accuracy",
            "share of masked tokens of which the true one is the likeliest",
            "share",
            "higher",
        )
    else:
        metric = Metric(
            "accuracy",
            "Accuracy: output cosine",
            "output cosine",
            "of the prediction and full precision's, mean over held-out forward passes",
            "cosine",
            "higher",
        )

    def figure(evaluation: Evaluation) -> Figure | None:
        if evaluation.language is not None:
            return evaluation.language.overall.accuracy
        return evaluation.denoiser.overall.cosine_similarity if evaluation.denoiser else None

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        sums = sums_of(one, "accuracy"), sums_of(other, "accuracy")
        return relative_change(*sums, one.seed, paired=paired)

    row = evaluated_row(metric, sources, figure, change)
    cells = [_with_target(*pair, sources[0]) for pair in zip(row.cells, sources, strict=True)]
    return row.model_copy(update={"cells": cells})


def _with_target(cell: Cell, source: Source, reference: Source) -> Cell:
    wanted = _GAINS.get(source.report.phase)
    if cell.change is None or cell.verdict is None or wanted is None:
        return cell
    text, met = f"{wanted:+.0%} or more", cell.change.value >= wanted
    target = target_over_phase_1(reference, cell.verdict, text, met=met)
    return cell.model_copy(update={"target": target})


def _error(sources: Sequence[Source], *, is_language: bool) -> MetricRow:
    if is_language:
        title, short = "KL to full precision", "KL to full precision"
        meaning = "of the distributions of masked tokens, in nats"
    else:
        title, short = "Output error", "output error"
        meaning = "squared and relative, of the prediction to full precision's"
    metric = Metric("output_error", title, short, meaning, "figure", "lower")

    def figure(evaluation: Evaluation) -> Figure | None:
        if evaluation.language is not None:
            return evaluation.language.overall.divergence
        return evaluation.denoiser.overall.output_error if evaluation.denoiser else None

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        sums = sums_of(one, "error"), sums_of(other, "error")
        return relative_change(*sums, one.seed, paired=paired)

    return evaluated_row(metric, sources, figure, change)


def _error_by_part(sources: Sequence[Source], *, is_language: bool) -> MetricRow:
    """Return the mean of the parts' ratios: errors of the last steps do not outweigh the rest."""
    first = sources[0].evaluation
    what, part = ("KL", "mask ratio") if is_language else ("Error", "quarter")
    metric = Metric(
        "error_by_part",
        f"{what} by {part}, mean ratio",
        f"{what if is_language else 'error'} by {part}",
        f"each {part}'s figure over the reference's, averaged over all of them",
        "ratio",
        "lower",
    )

    def figure(evaluation: Evaluation) -> Figure | None:
        assert first is not None
        sums = sums_of(first, "error"), sums_of(evaluation, "error")
        return mean_ratio(*sums, first.seed, paired=are_pairs(first, evaluation))

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        found = figure(other)
        if found is None:
            return None
        return Change(
            value=found.value - 1.0,
            low=found.low - 1.0,
            high=found.high - 1.0,
            relative=True,
            kind="paired" if paired else "unpaired",
        )

    return evaluated_row(metric, sources, figure, change, of_reference=True)


def _sample_accuracy(sources: Sequence[Source]) -> MetricRow:
    quality = _any_quality(sources)
    metric = Metric(
        "sample_accuracy",
        "Sample accuracy",
        "sample accuracy",
        "share of samples with the label that a classifier gives them; full precision: "
        f"{quality.full_accuracy.value:.1%}",
        "share",
        "higher",
    )

    def figure(evaluation: Evaluation) -> Figure | None:
        return evaluation.sample_quality.accuracy if evaluation.sample_quality else None

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        if one.sample_quality is None or other.sample_quality is None:
            return None
        sums = _votes(one.sample_quality), _votes(other.sample_quality)
        return difference(*sums, one.seed, paired=paired)

    return evaluated_row(metric, sources, figure, change)


def _votes(quality: SampleQuality) -> Sums:
    return Sums.of([float(digit) for digit in quality.correct], np.ones(len(quality.correct)))


def _frechet_distance(sources: Sequence[Source]) -> MetricRow:
    quality = _any_quality(sources)
    metric = Metric(
        "frechet_distance",
        "Frechet distance of samples",
        "Frechet distance",
        f"to real data; full precision: {significant(quality.full_frechet_distance.value)}",
        "figure",
        "lower",
    )

    def figure(evaluation: Evaluation) -> Figure | None:
        return evaluation.sample_quality.frechet_distance if evaluation.sample_quality else None

    def change(one: Evaluation, other: Evaluation, paired: bool) -> Change | None:
        a, b = one.sample_quality, other.sample_quality
        if a is None or b is None:
            return None
        values = a.frechet_distance.value, b.frechet_distance.value
        replicates = a.frechet_replicates, b.frechet_replicates
        return difference_of_replicates(values, replicates, paired=paired)

    def apart(one: Evaluation, other: Evaluation) -> str | None:
        a, b = one.sample_quality, other.sample_quality
        if a and b and a.num_samples != b.num_samples:
            # With fewer samples the distance is larger, whatever the model.
            return f"different numbers of samples: {a.num_samples} and {b.num_samples}"
        return conditions_apart(one, other)

    return evaluated_row(metric, sources, figure, change, apart=apart)


def _any_quality(sources: Sequence[Source]) -> SampleQuality:
    return next(
        one.evaluation.sample_quality
        for one in sources
        if one.evaluation and one.evaluation.sample_quality
    )
