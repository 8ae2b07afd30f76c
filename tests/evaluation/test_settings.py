"""What an evaluation is told to run, and seeds that a calibration does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thermoq.errors import UsageError
from thermoq.evaluation.settings import EvaluationSettings, held_out_seed


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"samples": 7}, "--samples: expected at least 8, with fewer there is no interval; got 7"),
        ({"judged": 3}, "--judged: expected at least 8, with fewer there is no interval; got 3"),
        ({"judged": -3}, "--judged: expected at least 8, with fewer there is no interval; got -3"),
        ({"seed": -1}, "--seed: expected at least 0, got -1"),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        EvaluationSettings(**given)
    assert str(caught.value) == problem


def test_data_takes_the_place_of_all_samples() -> None:
    assert EvaluationSettings().for_sampling.data is None
    chosen = EvaluationSettings(data=Path("text.txt"), samples=9).for_sampling
    assert (chosen.share_of_data, chosen.samples) == (1.0, 9)


def test_seeds_are_beyond_those_of_calibrations_and_follow_from_the_evaluations() -> None:
    seeds = [held_out_seed(seed) for seed in range(50)]
    assert len(set(seeds)) == 50
    assert all(2**127 <= seed < 2**128 for seed in seeds)
    drawn = {np.random.default_rng([seed, 0, 0]).random() for seed in (*seeds, *range(50))}
    assert len(drawn) == 100
