"""The noise-schedule prior: kappa against singular values, scales against the formula."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from thermoq.prior import POWER_ITERATIONS, prior_parameters
from thermoq.schedule import schedule_for, uniform_time_groups
from thermoq.weights import Matrix, spectral_concentration


def kappa(
    values: reference.Floats,
    *,
    dtype: str = "F32",
    iterations: int = POWER_ITERATIONS,
    seed: int = 0,
    threads: int = 1,
) -> float:
    data = np.frombuffer(reference.encode_dtype(values, dtype), np.uint8)
    energy = float(np.sum(reference.decode_dtype(data.tobytes(), dtype).astype(float) ** 2))
    matrix = Matrix(data, dtype, *values.shape)
    return spectral_concentration(matrix, energy, iterations=iterations, seed=seed, threads=threads)


@functools.cache
def decaying(rows: int, cols: int, seed: int = 0) -> reference.Floats:
    """Random directions with singular values 1, 1/2, 1/3, ..."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    right, _ = np.linalg.qr(rng.standard_normal((cols, cols)))
    count = min(rows, cols)
    product: reference.Doubles = (left[:, :count] / np.arange(1, count + 1)) @ right[:count]
    return product.astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 33), (64, 64), (200, 17)])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_rank_one_is_exact(simd_level: str, shape: tuple[int, int], dtype: str) -> None:
    # Powers of two, which every dtype holds.
    rng = np.random.default_rng(0)
    left, right = (2.0 ** rng.integers(-3, 4, n) * rng.choice([-1, 1], n) for n in shape)
    for seed in range(3):
        found = kappa(np.outer(left, right).astype(np.float32), dtype=dtype, seed=seed)
        assert found == pytest.approx(shape[1], rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 2), (3, 4), (8, 8), (64, 64), (5, 1000)])
def test_a_constant_matrix_is_rank_one(shape: tuple[int, int]) -> None:
    """Whatever the start of the iteration, it must not be orthogonal to the one direction."""
    for seed in range(20):
        found = kappa(np.full(shape, 0.5, np.float32), seed=seed)
        assert found == pytest.approx(shape[1], rel=1e-5)


@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30)])
def test_a_decaying_spectrum_is_close_and_never_above(
    simd_level: str, shape: tuple[int, int]
) -> None:
    matrix = decaying(*shape)
    truth = reference.spectral_concentration(matrix)
    after_four = []
    for seed in range(8):
        found = [kappa(matrix, iterations=n, seed=seed) for n in (1, 2, 4, 8, 30)]
        assert all(a <= b * (1 + 1e-6) for a, b in itertools.pairwise(found))
        assert found[-1] <= truth * (1 + 1e-5)
        assert found[-1] == pytest.approx(truth, rel=1e-4)
        after_four.append(found[2])
    assert np.mean(after_four) == pytest.approx(truth, rel=0.04)
    assert min(after_four) >= 0.9 * truth


@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.floats(-1000, 1000, width=32),
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_matrix(simd_level: str, values: reference.Floats) -> None:
    truth = reference.spectral_concentration(values)
    found = kappa(values)
    assert 1.0 <= found <= max(1.0, truth * (1 + 1e-4))
    assert found <= values.shape[1]


def test_zero_and_vanishing_weights() -> None:
    assert kappa(np.zeros((4, 8), np.float32)) == 1.0
    assert kappa(np.zeros((0, 8), np.float32)) == 1.0
    assert 1.0 <= kappa(np.full((4, 8), 1e-42, np.float32)) <= 8.0
    assert kappa(np.full((4, 8), 1e-30, np.float32)) == pytest.approx(8.0, rel=1e-5)
    assert kappa(np.full((4, 8), 65504.0, np.float32)) == pytest.approx(8.0, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (300, 1000), (1000, 300)])
def test_threads_and_levels_change_nothing_and_seeds_do(
    simd_level: str, shape: tuple[int, int]
) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    once = kappa(matrix)
    assert [kappa(matrix, threads=threads) for threads in (0, 2, 3, 4, 7)] == [once] * 5
    assert kappa(matrix, seed=0) == once
    assert len({kappa(matrix, iterations=1, seed=seed) for seed in range(4)}) > 1


def test_levels_agree_on_every_bit() -> None:
    from thermoq import _core

    before = _core.simd_level()
    found = set()
    for level in _core.available_simd_levels():
        _core.set_simd_level(level)
        found.add(kappa(decaying(33, 77), threads=2))
    _core.set_simd_level(before)
    assert len(found) == 1


SCHEDULERS = [
    {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000},
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000},
    None,
]


@pytest.mark.parametrize("config", SCHEDULERS)
@pytest.mark.parametrize("num_time_groups", [1, 4, 7])
@pytest.mark.parametrize("activation_bits", [4, 8])
def test_scales_follow_the_formula(
    config: dict[str, object] | None, num_time_groups: int, activation_bits: int
) -> None:
    schedule = schedule_for(config, None)
    groups = uniform_time_groups(schedule.num_timesteps, num_time_groups)
    found = prior_parameters(12.5, schedule, groups, activation_bits)
    assert found.source == "noise-schedule prior"
    assert found.scale.shape == found.zero_point.shape == (num_time_groups,)
    for group, middle in enumerate(groups.middles):
        signal, noise = schedule.variances(middle)
        assert found.scale[group] == pytest.approx((signal * 12.5 + noise) ** 0.5)
    assert (found.zero_point == 2 ** (activation_bits - 1)).all()


def test_no_concentration_means_no_jumps() -> None:
    """signal^2 + noise^2 = 1 on a Gaussian chain, whatever the timestep."""
    schedule = schedule_for(None, None)
    found = prior_parameters(1.0, schedule, uniform_time_groups(1000, 10), 8)
    assert found.scale == pytest.approx(np.ones(10))
