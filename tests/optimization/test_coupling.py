"""The coupling against dense normal equations in float64, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from optimization_layers import Floats, solved
from thermoq.optimization.coupling import couple, couple_ranges, step_variance


def chains(num_chains: int = 30, num_groups: int = 7, seed: int = 0) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    steps = 0.1 * draw.standard_normal((num_chains, num_groups))
    variance = draw.uniform(0.001, 0.01, (num_chains, num_groups))
    noise = draw.standard_normal(steps.shape) * np.sqrt(variance)
    return 1 + steps.cumsum(axis=1) + noise, variance


def plain_tau_squared(theta: Floats, variance: Floats) -> float:
    parts = [
        (theta[r, g + 1] - theta[r, g]) ** 2 - variance[r, g] - variance[r, g + 1]
        for r in range(theta.shape[0])
        for g in range(theta.shape[1] - 1)
    ]
    return max(0.0, float(np.mean(parts)))


@pytest.mark.parametrize("coupling", [0.1, 1.0, 30.0])
def test_values_are_the_minimum(coupling: float) -> None:
    theta, variance = chains()
    found = couple(theta, variance, coupling, np.ones(6, np.bool_))
    tau_squared = plain_tau_squared(theta, variance)
    assert found.tau_squared == pytest.approx(tau_squared, rel=1e-12)
    wanted = [solved(t, v, coupling / tau_squared) for t, v in zip(theta, variance, strict=True)]
    assert np.allclose(found.values, wanted, rtol=1e-9)


def test_the_step_variance_is_found_from_noisy_chains() -> None:
    theta, variance = chains(4000)
    assert step_variance(theta, variance, np.ones((4000, 6), np.bool_)) == pytest.approx(
        0.01, rel=0.05
    )
    assert step_variance(theta, variance, np.zeros((4000, 6), np.bool_)) is None


def test_coupling_brings_estimates_nearer_to_the_truth() -> None:
    draw = np.random.default_rng(2)
    truth = 1 + (0.02 * draw.standard_normal((500, 8))).cumsum(axis=1)
    variance = np.full(truth.shape, 0.002)
    theta = truth + draw.standard_normal(truth.shape) * np.sqrt(0.002)
    found = couple(theta, variance, 1.0, np.ones(7, np.bool_)).values
    assert np.square(found - truth).mean() < 0.5 * np.square(theta - truth).mean()


def test_no_step_variance_pools_by_precision() -> None:
    draw = np.random.default_rng(3)
    variance = draw.uniform(0.5, 2, (40, 5))
    theta = np.full((40, 5), 1.3) + 0.01 * draw.standard_normal((40, 5))
    found = couple(theta, variance, 1.0, np.ones(4, np.bool_))
    assert found.tau_squared == 0.0
    mean = (theta / variance).sum(axis=1) / (1 / variance).sum(axis=1)
    assert np.allclose(found.values, mean[:, None], rtol=1e-12)


@pytest.mark.parametrize("moves", [True, False])
def test_coupling_zero_and_certainty_change_nothing(moves: bool) -> None:
    theta, variance = chains()
    if not moves:
        theta = np.full_like(theta, 1.25)
    linked = np.ones(6, np.bool_)
    assert np.array_equal(couple(theta, variance, 0.0, linked).values, theta)
    assert np.array_equal(couple(theta, np.zeros_like(theta), 5.0, linked).values, theta)
    alone = couple(theta[:, :1], variance[:, :1], 1.0, np.ones(0, np.bool_))
    assert np.array_equal(alone.values, theta[:, :1])
    assert alone.tau_squared is None


def test_values_that_are_no_estimates_neither_pull_nor_count() -> None:
    theta, variance = chains()
    known = np.ones(theta.shape, np.bool_)
    known[:, 3] = False
    theta[:, 3] = 50.0
    found = couple(theta, variance, 1.0, np.ones(6, np.bool_), known)
    assert (found.values[:, 3] == 50.0).all()
    assert np.abs(np.delete(found.values, 3, axis=1) - 1).max() < 2
    assert found.tau_squared is not None
    assert found.tau_squared < 0.1


@pytest.mark.parametrize("bits", [4, 8])
def test_ranges_are_rounded_and_clipped(bits: int) -> None:
    top = 2**bits - 1
    scale = np.array([0.5, 0.6, 0.55, 0.9])
    zero_point = np.array([0.0, top, 3.0, top])
    variance = np.array([0.3, 0.2, 0.4, 0.3])
    found = couple_ranges(scale, zero_point, variance, 900 * variance, 1.0, bits)
    assert found.log_scale_tau_squared == 0.0
    mean = np.exp((np.log(scale) / variance).sum() / (1 / variance).sum())
    assert (found.scale == float(np.float16(mean))).all()
    assert np.array_equal(found.zero_point, np.rint(found.zero_point))
    assert 0 <= found.zero_point.min() <= found.zero_point.max() <= top


def test_ranges_stay_bit_for_bit_without_coupling() -> None:
    scale = np.float16([0.013, 0.5, 7.1]).astype(np.float64)
    zero_point, variance = np.array([3.0, 9.0, 200.0]), np.full(3, 0.1)
    found = couple_ranges(scale, zero_point, variance, variance, 0.0, 8)
    assert np.array_equal(found.scale, scale)
    sure = couple_ranges(scale, zero_point, np.zeros(3), np.zeros(3), 1.0, 8)
    assert np.array_equal(sure.scale, scale)
    assert np.array_equal(sure.zero_point, zero_point)


def test_a_scale_of_zero_and_the_unknown_break_the_chain() -> None:
    scale = np.array([1.0, 1.0625, 0.0, 4.0, 4.25, 9.0])
    zero_point = np.array([8.0, 8.0, 0.0, 2.0, 2.0, 15.0])
    variance = np.array([1.0, 1.0, 1.0, 1.0, 1.0, np.inf])
    found = couple_ranges(scale, zero_point, variance, variance, 1.0, 4)
    assert found.scale[2] == 0.0
    assert found.scale[5] == 9.0
    assert found.scale[0] == found.scale[1] == pytest.approx(np.sqrt(1.0625), rel=1e-3)
    assert found.scale[3] == found.scale[4] == pytest.approx(np.sqrt(17), rel=1e-3)
    assert found.zero_point.tolist() == zero_point.tolist()
