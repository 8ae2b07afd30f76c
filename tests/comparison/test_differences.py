"""Differences and their intervals against plain NumPy, and verdicts in words."""

from __future__ import annotations

import numpy as np
import pytest
from thermoq.comparison.differences import (
    Sums,
    both_drawn,
    difference,
    difference_of_replicates,
    mean_ratio,
    relative_change,
    verdict_of,
)
from thermoq.evaluation.intervals import NUM_REPLICATES
from thermoq.report.comparison_model import Change


def some_sums(seed: int, factor: float = 1.0, samples: int = 40) -> Sums:
    """Sums of which most of the spread is the samples' own, the same for every `factor`."""
    hard = np.random.default_rng(99).lognormal(0.0, 0.6, (samples, 4))
    own = np.random.default_rng(seed).lognormal(0.0, 0.02, (samples, 4))
    return Sums.of(factor * hard * own, np.full((samples, 4), 2.0))


def replicates_by_hand(sums: Sums, seed: int) -> np.ndarray:
    """Ratios of resampled sums, sample by sample."""
    random = np.random.default_rng([seed, len(sums.above)])
    chosen = random.integers(0, len(sums.above), (NUM_REPLICATES, len(sums.above)))
    return np.array([sums.above[c].sum(0) / sums.below[c].sum(0) for c in chosen])


def test_a_paired_change_is_that_of_resampled_pairs() -> None:
    one, other = some_sums(1), some_sums(2, 0.7)
    found = relative_change(one, other, 5, paired=True)
    assert found is not None
    total = other.above.sum() / one.above.sum()
    assert found.value == pytest.approx(total - 1)
    ratios = replicates_by_hand(other.total, 5) / replicates_by_hand(one.total, 5)
    assert found.low == pytest.approx(np.percentile(ratios, 2.5) - 1)
    assert found.high == pytest.approx(np.percentile(ratios, 97.5) - 1)
    assert (found.kind, found.relative) == ("paired", True)


def test_pairs_tell_more_than_strangers() -> None:
    one, other = some_sums(1), some_sums(2, 0.97)
    paired = relative_change(one, other, 0, paired=True)
    unpaired = relative_change(one, other, 0, paired=False)
    assert paired is not None
    assert unpaired is not None
    assert unpaired.kind == "unpaired"
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)
    assert verdict_of(paired, "lower") == "better"
    assert verdict_of(unpaired, "lower") == "no measurable difference"


def test_unpaired_replicates_are_drawn_apart() -> None:
    first, second = both_drawn(30, 30, 0, paired=False)
    assert (first != second).any()
    first, second = both_drawn(30, 30, 0, paired=True)
    assert (first == second).all()
    assert [len(drawn[0]) for drawn in both_drawn(30, 20, 0, paired=False)] == [30, 20]


def test_a_mean_of_parts_weighs_them_alike() -> None:
    one, other = some_sums(1), some_sums(2)
    scaled = Sums(other.above * np.array([0.5, 1.0, 1.0, 100.0]), other.below)
    big = Sums(one.above * np.array([1.0, 1.0, 1.0, 100.0]), one.below)
    found = mean_ratio(big, scaled, 0, paired=True)
    assert found is not None
    by_hand = (scaled.above.sum(0) / big.above.sum(0)).mean()
    assert found.value == pytest.approx(by_hand)
    ratios = (replicates_by_hand(scaled, 0) / replicates_by_hand(big, 0)).mean(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))


def test_nothing_can_be_a_share_of_nothing() -> None:
    zero = Sums.of(np.zeros((40, 4)), np.ones((40, 4)))
    assert relative_change(zero, some_sums(1), 0, paired=True) is None
    three = Sums.of(np.ones((40, 3)), np.ones((40, 3)))
    assert mean_ratio(some_sums(1), three, 0, paired=True) is None
    empty = Sums.of(np.ones((40, 4)), np.ones((40, 4)) * [1, 1, 0, 1])
    assert mean_ratio(empty, some_sums(1), 0, paired=True) is None
    same = relative_change(some_sums(1), some_sums(1), 0, paired=True)
    assert same is not None
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_difference_of_shares() -> None:
    one = Sums.of([1.0] * 30 + [0.0] * 10, np.ones(40))
    other = Sums.of([1.0] * 38 + [0.0] * 2, np.ones(40))
    found = difference(one, other, 3, paired=True)
    assert found.value == pytest.approx(0.2)
    by_hand = (replicates_by_hand(other, 3) - replicates_by_hand(one, 3))[:, 0]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))
    assert not found.relative


def test_a_difference_of_distances_lies_around_its_value() -> None:
    random = np.random.default_rng(0)
    both = random.normal(0, 0.1, 500)
    one, other = 1.05 + both, 0.85 + both + random.normal(0, 0.01, 500)
    paired = difference_of_replicates((1.0, 0.8), (one, other), paired=True)
    unpaired = difference_of_replicates((1.0, 0.8), (one, other), paired=False)
    assert paired.value == pytest.approx(-0.2)
    assert (paired.low + paired.high) / 2 == pytest.approx(-0.2, abs=0.003)
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (0.1, 0.3, "higher", "better"),
        (0.1, 0.3, "lower", "worse"),
        (-0.3, -0.1, "higher", "worse"),
        (-0.3, -0.1, "lower", "better"),
        (-0.1, 0.1, "lower", "no measurable difference"),
        (0.0, 0.1, "higher", "no measurable difference"),
        (None, None, "higher", "better"),
    ],
)
def test_verdicts(low: float | None, high: float | None, better: str, verdict: str) -> None:
    middle = 0.2 if low is None else (low + (high or 0.0)) / 2
    change = Change(value=middle, low=low, high=high, relative=True, kind="paired")
    assert verdict_of(change, better) == verdict  # type: ignore[arg-type]


def test_no_change_is_no_difference() -> None:
    assert verdict_of(Change(value=0.0, relative=False, kind="exact"), "lower") == (
        "no measurable difference"
    )
