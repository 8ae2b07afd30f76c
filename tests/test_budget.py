"""The allocation of bytes to tensors, against all possible ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from thermoq.budget import Allocation, Candidate, ErrorCurve, allocate, smallest_bytes
from thermoq.weights import Scheme

SCHEME = Scheme("affine", 2, 64)


def curve(*points: tuple[int, float], weight: float = 1.0) -> ErrorCurve:
    return ErrorCurve(tuple(Candidate(SCHEME, *point) for point in points), weight)


def total(curves: Sequence[ErrorCurve], choices: Sequence[int]) -> tuple[int, float]:
    chosen = [one.candidates[i] for one, i in zip(curves, choices, strict=True)]
    error = sum(one.weight * c.squared_error for one, c in zip(curves, chosen, strict=True))
    return sum(candidate.stored_bytes for candidate in chosen), error


def best_of_all(curves: Sequence[ErrorCurve], budget: int) -> float:
    every = itertools.product(*(range(len(one.candidates)) for one in curves))
    found = [total(curves, choices) for choices in every]
    return min(error for nbytes, error in found if nbytes <= budget)


def random_curves(rng: np.random.Generator, num: int) -> list[ErrorCurve]:
    """Tensors of many sizes, whose error falls with the bits about as that of weights does."""
    curves = []
    for _ in range(num):
        weights = int(rng.integers(1, 400)) * 64
        energy = weights * float(rng.lognormal(0.0, 1.0))
        bits = np.sort(rng.uniform(2.0, 8.5, int(rng.integers(1, 6))))
        errors = energy * 4.0**-bits * rng.uniform(0.7, 1.4, len(bits))
        points = [(int(b * weights / 8), float(e)) for b, e in zip(bits, errors, strict=True)]
        rng.shuffle(points)
        curves.append(curve(*points, weight=float(rng.choice([1.0, 3.0]))))
    return curves


def largest_bytes(curves: Sequence[ErrorCurve]) -> int:
    return sum(max(c.stored_bytes for c in one.candidates) for one in curves)


def check(curves: Sequence[ErrorCurve], budget: int, found: Allocation) -> None:
    assert (found.stored_bytes, found.squared_error) == total(curves, found.choices)
    assert found.stored_bytes <= budget
    assert found.lower_bound <= found.squared_error


@pytest.mark.parametrize("seed", range(30))
def test_against_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = random_curves(rng, int(rng.integers(1, 7)))
    smallest, largest = smallest_bytes(curves), largest_bytes(curves)
    for share in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        budget = smallest + int(share * (largest - smallest))
        found = allocate(curves, budget)
        check(curves, budget, found)
        best = best_of_all(curves, budget)
        assert found.lower_bound <= best * (1 + 1e-12)
        biggest_step = max(
            one.weight * (max(errors) - min(errors))
            for one in curves
            for errors in [[c.squared_error for c in one.candidates]]
        )
        assert found.squared_error <= found.lower_bound + biggest_step * (1 + 1e-12)


def test_the_gap_to_the_best_of_all_choices_is_small() -> None:
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(150):
        curves = random_curves(rng, 6)
        smallest, largest = smallest_bytes(curves), largest_bytes(curves)
        budget = smallest + int(rng.uniform(0.05, 0.95) * (largest - smallest))
        ratios.append(allocate(curves, budget).squared_error / best_of_all(curves, budget))
    assert np.mean(ratios) < 1.02
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.7


def test_many_tensors_use_the_budget_and_come_close_to_the_bound() -> None:
    rng = np.random.default_rng(3)
    curves = random_curves(rng, 200)
    smallest, largest = smallest_bytes(curves), largest_bytes(curves)
    for share in np.linspace(0.05, 0.95, 10):
        budget = smallest + int(share * (largest - smallest))
        found = allocate(curves, budget)
        check(curves, budget, found)
        assert found.stored_bytes >= 0.99 * budget
        assert found.squared_error <= 1.01 * found.lower_bound


def test_more_bytes_never_mean_more_error() -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        curves = random_curves(rng, 30)
        smallest, largest = smallest_bytes(curves), largest_bytes(curves)
        budgets = np.linspace(smallest, largest, 40).astype(int)
        errors, before = [], None
        for budget in budgets:
            starts: list[tuple[int, ...]] = [before.choices] if before else []
            before = allocate(curves, int(budget), starts)
            errors.append(before.squared_error)
        assert errors == sorted(errors, reverse=True)
        bounds = [allocate(curves, int(budget)).lower_bound for budget in budgets]
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(bounds))


def test_never_worse_than_a_choice_to_compare_with() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        curves = random_curves(rng, 4)
        starts = [[int(rng.integers(len(one.candidates))) for one in curves] for _ in range(8)]
        for start in starts:
            budget, error = total(curves, start)
            assert allocate(curves, budget, starts).squared_error <= error


def test_the_same_curves_give_the_same_choices() -> None:
    alike = [curve((10, 4.0), (20, 1.0)) for _ in range(5)]
    assert allocate(alike, 70).choices == (1, 1, 0, 0, 0)


def test_of_equal_candidates_the_first_is_chosen() -> None:
    assert allocate([curve((20, 1.0), (10, 4.0), (20, 1.0), (10, 4.0))], 30).choices == (0,)
    assert allocate([curve((20, 1.0), (10, 4.0), (20, 1.0), (10, 4.0))], 15).choices == (1,)


def test_what_costs_more_and_is_no_better_is_never_chosen() -> None:
    assert allocate([curve((10, 4.0), (12, 4.0), (15, 5.0))], 100).choices == (0,)
    assert allocate([curve((10, 0.0), (20, 0.0))], 100) == Allocation((0,), 10, 0.0, 0.0)


def test_a_candidate_above_the_hull_fills_what_is_left() -> None:
    above = curve((10, 10.0), (14, 9.0), (20, 1.0))
    assert allocate([above], 19).choices == (1,)
    assert allocate([above], 20).choices == (2,)


def test_an_exchange_where_no_single_change_fits() -> None:
    # By gain per byte the first tensor takes its step; the second's is worth more and just fits.
    curves = [curve((10, 5.0), (13, 2.0)), curve((10, 9.0), (20, 0.0))]
    assert allocate(curves, 30).choices == (0, 1)


def test_the_weight_of_a_tensor_counts() -> None:
    once, thrice = curve((10, 4.0), (20, 1.0)), curve((10, 3.0), (20, 1.0), weight=3.0)
    found = allocate([once, thrice], 30)
    assert found.choices == (0, 1)
    assert found.squared_error == 4.0 + 3.0


def test_one_candidate_each() -> None:
    assert allocate([curve((10, 4.0)), curve((7, 0.0))], 17) == Allocation((0, 0), 17, 4.0, 4.0)


def test_tensors_without_bytes_or_error() -> None:
    curves = [curve((0, 0.0), (0, 0.0)), curve((10, 4.0), (20, 1.0))]
    assert allocate(curves, 20).choices == (0, 1)


def test_nothing_to_choose() -> None:
    assert allocate([], 0) == Allocation((), 0, 0.0, 0.0)


def test_a_budget_below_the_smallest() -> None:
    with pytest.raises(ValueError, match="expected at least 17 bytes, got 16"):
        allocate([curve((10, 4.0)), curve((9, 1.0), (7, 2.0))], 16)


def test_no_limit_takes_the_least_error() -> None:
    curves = random_curves(np.random.default_rng(1), 20)
    found = allocate(curves, 10**12)
    least = [one.weight * min(c.squared_error for c in one.candidates) for one in curves]
    assert math.isclose(found.squared_error, sum(least), rel_tol=1e-12)
