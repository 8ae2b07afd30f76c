"""The judge of digits: what it knows, and the Frechet distance."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from thermoq.demonstration import MODEL_FOLDER
from thermoq.evaluation.judge import (
    JUDGE_FILE,
    MODEL_FINGERPRINT,
    NUM_COMPONENTS,
    load_judge,
    pixels_of,
)


def test_the_file_is_small() -> None:
    assert len((resources.files("thermoq") / JUDGE_FILE).read_bytes()) <= 200_000


def test_it_is_of_the_bundled_model() -> None:
    from thermoq.calibration.matching import calibrated_component
    from thermoq.checkpoint import MappedFiles, open_checkpoint

    with resources.as_file(resources.files("thermoq") / MODEL_FOLDER) as model, MappedFiles() as f:
        component = open_checkpoint(model).components[0]
        assert calibrated_component(component, f).fingerprint == MODEL_FINGERPRINT


def test_it_knows_real_digits() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    levels, labels = sklearn_datasets.load_digits(return_X_y=True)
    judge, pixels = load_judge(), pixels_of(levels)
    assert np.mean(judge.classes(pixels) == labels) > 0.99
    once = np.ones((1, len(pixels)), np.int64)
    assert judge.distances(judge.components(pixels), once)[0] == pytest.approx(0.0, abs=1e-6)


def test_the_distance_is_that_of_two_normal_distributions() -> None:
    judge = load_judge()
    rows = np.random.default_rng(0).normal(0.3, 1.2, (200, NUM_COMPONENTS))
    mean, covariance = rows.mean(0), np.cov(rows, rowvar=False)
    # tr (S1 S2)^(1/2): the sum of the roots of the product's eigenvalues.
    values = np.linalg.eigvals(covariance @ judge.covariance)
    expected = (
        np.square(mean - judge.mean).sum()
        + np.trace(covariance + judge.covariance)
        - 2 * np.sqrt(values.real.clip(min=0)).sum()
    )
    once = np.ones((1, len(rows)), np.int64)
    assert judge.distances(rows, once)[0] == pytest.approx(expected, rel=1e-9)


def test_a_replicate_counts_a_sample_as_often_as_it_is_drawn() -> None:
    judge = load_judge()
    rows = np.random.default_rng(1).normal(0.0, 1.0, (60, NUM_COMPONENTS))
    counts = np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60), size=1)
    repeated = np.repeat(rows, counts[0], axis=0)
    once = np.ones((1, len(repeated)), np.int64)
    expected = judge.distances(repeated, once)
    assert judge.distances(rows, counts) == pytest.approx(expected, rel=1e-9)
