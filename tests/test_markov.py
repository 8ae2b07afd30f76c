"""The chains of time groups against dense solutions of the same least squares."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from thermoq import _core

Doubles = NDArray[np.float64]


def dense(
    observed: Doubles, variance: Doubles, strength: float, linked: NDArray[np.bool_]
) -> Doubles:
    """One row by `np.linalg.solve` on the normal equations, multiplied through by the variances."""
    groups = len(observed)
    laplacian = np.zeros((groups, groups))
    for g in range(groups - 1):
        if linked[g]:
            edge = np.zeros(groups)
            edge[g], edge[g + 1] = -1.0, 1.0
            laplacian += np.outer(edge, edge)
    matrix = np.eye(groups) + strength * variance[:, None] * laplacian
    solution: Doubles = np.linalg.solve(matrix, observed)
    return solution


def random_chains(
    rows: int, groups: int, seed: int
) -> tuple[Doubles, Doubles, Doubles, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    variance = np.exp(rng.normal(size=(rows, groups)))
    variance[rng.random((rows, groups)) < 0.1] = 0.0
    strength = np.exp(3 * rng.normal(size=rows))
    strength[rng.random(rows) < 0.1] = 0.0
    linked = rng.random((rows, groups - 1)) < 0.8
    return rng.normal(size=(rows, groups)), variance, strength, linked


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 10, 20, 100])
def test_dense_solutions(groups: int) -> None:
    observed, variance, strength, linked = random_chains(50, groups, groups)
    found = _core.solve_markov_chains(observed, variance, strength, linked)
    expected = [dense(*row) for row in zip(observed, variance, strength, linked, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_one_strength_and_links_for_all_rows() -> None:
    observed, variance, _, linked = random_chains(20, 6, 1)
    found = _core.solve_markov_chains(observed, variance, 2.5, linked[0])
    each = _core.solve_markov_chains(
        observed, variance, np.full(20, 2.5), np.repeat(linked[:1], 20, axis=0)
    )
    assert np.array_equal(found, each)
    np.testing.assert_allclose(found[3], dense(observed[3], variance[3], 2.5, linked[0]))


def test_the_same_bytes_on_any_number_of_threads() -> None:
    observed, variance, strength, linked = random_chains(20000, 7, 2)  # enough for a team
    one = _core.solve_markov_chains(observed, variance, strength, linked, threads=1)
    for threads in (2, 3, 4):
        again = _core.solve_markov_chains(observed, variance, strength, linked, threads=threads)
        assert again.tobytes() == one.tobytes()


def test_what_changes_nothing() -> None:
    observed, variance, _, linked = random_chains(200, 5, 3)
    same = _core.solve_markov_chains(observed, variance, 0.0, linked)
    assert np.array_equal(same, observed)
    for strength in (1e-3, 1.0, 1e300, np.inf):
        exact = _core.solve_markov_chains(observed, np.zeros_like(variance), strength, linked)
        assert np.array_equal(exact, observed)
        alone = _core.solve_markov_chains(observed, variance, strength, np.zeros(4, bool))
        assert np.array_equal(alone, observed)
        some = _core.solve_markov_chains(observed, variance, strength, linked)
        assert np.array_equal(some[variance == 0], observed[variance == 0])


def test_infinite_strength_pools_by_precision() -> None:
    observed, variance, _, _ = random_chains(30, 6, 4)
    variance = variance + 0.1  # none is fixed
    linked = np.array([True, True, False, True, True])
    found = _core.solve_markov_chains(observed, variance, np.inf, linked)
    for part in (slice(0, 3), slice(3, 6)):
        weight = 1 / variance[:, part]
        mean = (weight * observed[:, part]).sum(axis=1) / weight.sum(axis=1)
        np.testing.assert_allclose(found[:, part], np.repeat(mean[:, None], 3, axis=1))
        assert (found[:, part] == found[:, part][:, :1]).all()
    strong = _core.solve_markov_chains(observed, variance, 1e300, linked)
    np.testing.assert_allclose(strong, found, rtol=1e-12, atol=1e-12)


def test_infinite_strength_between_fixed_groups_is_a_straight_line() -> None:
    observed = np.array([[5.0, 1.0, 7.0, 7.0, 4.0, 9.0]])
    variance = np.array([[1.0, 0.0, 1.0, 2.0, 0.0, 3.0]])
    found = _core.solve_markov_chains(observed, variance, np.inf, np.ones(5, bool))
    np.testing.assert_allclose(found, [[1.0, 1.0, 2.0, 3.0, 4.0, 4.0]])
    strong = _core.solve_markov_chains(observed, variance, 1e14, np.ones(5, bool))
    np.testing.assert_allclose(strong, found, rtol=1e-10)


def test_groups_that_say_nothing_follow_their_neighbours() -> None:
    observed = np.array([[1.0, 99.0, 3.0]])
    variance = np.array([[0.5, np.inf, 0.5]])
    links = np.ones(2, bool)
    found = _core.solve_markov_chains(observed, variance, 2.0, links)
    np.testing.assert_allclose(
        found, dense(observed[0], np.array([0.5, 1e12, 0.5]), 2.0, links)[None]
    )
    assert np.array_equal(
        _core.solve_markov_chains(observed, variance, np.inf, links), np.full((1, 3), 2.0)
    )
    nothing = np.full((1, 3), np.inf)
    for strength in (2.0, np.inf):
        kept = _core.solve_markov_chains(observed, nothing, strength, links)
        assert np.array_equal(kept, observed)


def test_extreme_ratios_stay_between_the_observations() -> None:
    rng = np.random.default_rng(5)
    observed = rng.normal(size=(500, 6))
    variance = 10.0 ** rng.uniform(-300, 300, size=(500, 6))
    strength = 10.0 ** rng.uniform(-300, 300, size=500)
    found = _core.solve_markov_chains(observed, variance, strength, np.ones(5, bool))
    slack = 1e-12
    assert (found >= observed.min(axis=1, keepdims=True) - slack).all()
    assert (found <= observed.max(axis=1, keepdims=True) + slack).all()


def test_no_rows() -> None:
    empty = np.zeros((0, 4))
    assert _core.solve_markov_chains(empty, empty, 1.0, np.ones(3, bool)).shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros(4)}, r"theta: expected \[rows, time_groups\]"),
        ({"theta": np.zeros((2, 0))}, r"theta: expected \[rows, time_groups\]"),
        ({"theta": np.full((2, 4), np.nan)}, "theta: expected finite values, got nan"),
        ({"theta": np.full((2, 4), -np.inf)}, "theta: expected finite values, got -inf"),
        ({"variance": np.zeros((2, 3))}, "variance: expected 8 elements, got 6"),
        ({"variance": np.full((2, 4), -1.0)}, "variance: expected values of at least 0, got -1"),
        ({"variance": np.full((2, 4), np.nan)}, "variance: expected values of at least 0, got nan"),
        ({"strength": -1.0}, "strength: expected values of at least 0, got -1"),
        ({"strength": np.nan}, "strength: expected values of at least 0, got nan"),
        ({"strength": np.ones(3)}, "strength: expected 2 elements, got 3"),
        ({"linked": np.ones(4, bool)}, "linked: expected 3 elements, got 4"),
        ({"linked": np.ones((1, 3), bool)}, "linked: expected 6 elements, got 3"),
        ({"linked": np.ones((1, 1, 3), bool)}, r"linked: expected \[time_groups - 1\] or"),
    ],
)
def test_what_cannot_be(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "theta": np.zeros((2, 4)),
        "variance": np.ones((2, 4)),
        "strength": 1.0,
        "linked": np.ones(3, bool),
    }
    with pytest.raises(ValueError, match=message):
        _core.solve_markov_chains(**{**given, **change})  # type: ignore[arg-type]
