"""Bands of the score, and expectations met or not."""

from __future__ import annotations

import pytest
from assessment_examples import figures, rows, run, violations
from thermoq.assessment import assess
from thermoq.expectations import band_of


@pytest.mark.parametrize(
    ("score", "band"),
    [(0.0, "poor"), (0.6499, "poor"), (0.65, "typical"), (0.6999, "typical"), (0.70, "good"),
     (0.78, "good"), (0.7801, "excellent"), (1.0, "excellent")],
)  # fmt: skip
def test_bands(score: float, band: str) -> None:
    assert band_of(score) == band
    assert assess(figures(score), run()).band == band


def test_typical_is_held_against_the_good_ones_expectations() -> None:
    given = figures(0.68, violations=violations("high", "high", "low", "low"))
    assert rows(assess(given, run()))["Violations in a good baseline"] == (
        *("0 to 3, mostly low or medium", "4: 2 high, 2 low"),
        False,
    )


def test_what_is_better_than_expected_is_told_from_what_is_worse() -> None:
    high = assess(figures(0.92, boundary_scores=[0.91, 0.92, 0.93]), run())
    better = {row.name: row.better for row in high.characteristics if row.better}
    assert better == {
        "Smoothness score": "above",
        "Lowest boundary score": "above",
        "Mean boundary score": "above",
        "Standard deviation of boundary scores": "below",
    }
    low = assess(figures(0.5, boundary_scores=[0.1, 0.5, 0.9]), run())
    assert not any(row.better for row in low.characteristics)
    assert [row.bad_sign for row in low.characteristics] == [True] * 3 + [False] * 6


def test_no_perfect_cosine_where_it_is_not_one() -> None:
    row = assess(figures(0.7, cosine_similarity=0.99999), run()).characteristics[2]
    assert (row.actual, row.of_weights) == ("0.99999", True)
