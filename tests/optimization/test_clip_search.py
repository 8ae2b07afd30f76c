"""The clip search and the sketch that it measures with, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from optimization_layers import Rows, drifting_rows, parameters_of, plain_inputs
from thermoq.optimization.clip_search import Ranges, SearchSample, search_ranges
from thermoq.optimization.losses import Losses, loss_of_codes, sketch_of

BITS = [4, 8]


def heavy_tails(num_groups: int, num_rows: int, columns: int, seed: int = 0) -> list[Rows]:
    draw = np.random.default_rng(seed)
    shape = (num_groups, num_rows, columns)
    return list((0.3 + draw.standard_t(3, shape)).astype(np.float32))


def lost(weights: Rows, rows: Rows, scale: float, zero_point: float, bits: int) -> float:
    error = plain_inputs(rows, scale, zero_point, bits).astype(np.float64) - rows
    wrong = error @ weights.T.astype(np.float64)
    return float(np.square(wrong).sum() + 3 * len(rows) * np.square(wrong.mean(axis=0)).sum())


def searched(
    weights: Rows, rows: list[Rows], bits: int, held_out: list[Rows] | None = None
) -> tuple[Ranges, tuple[np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
    given = parameters_of(rows, bits)
    pair = given.scale, given.zero_point
    sample = SearchSample(
        sketch_of(weights, 0), rows, held_out or rows, [len(part) for part in rows]
    )
    found = search_ranges(sample, pair, bits, 0, np.ones(len(rows), np.bool_))
    return found, pair


def weights_of(outputs: int, columns: int) -> Rows:
    return np.random.default_rng(1).standard_normal((outputs, columns)).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
def test_a_search_is_never_worse_on_its_rows(bits: int) -> None:
    for seed, rows in enumerate([heavy_tails(3, 40, 48), drifting_rows(3, 40, 48)]):
        weights = weights_of(32, 48)  # few enough for the sketch to be the weights
        found, given = searched(weights, rows, bits)
        for g, part in enumerate(rows):
            before = lost(weights, part, given[0][g], given[1][g], bits)
            after = lost(weights, part, found.scale[g], found.zero_point[g], bits)
            assert after <= before * (1 + 1e-6)
            if seed == 0 and bits == 4:
                assert after < 0.8 * before
        assert np.array_equal(found.scale, found.scale.astype(np.float16))
        assert np.array_equal(found.zero_point, np.rint(found.zero_point))
        assert found.zero_point.min() >= 0
        assert found.zero_point.max() <= 2**bits - 1


def test_a_search_comes_near_the_best_of_a_fine_grid() -> None:
    weights, rows = weights_of(16, 24), heavy_tails(1, 60, 24)
    found, _ = searched(weights, rows, 4)
    best = min(
        lost(weights, rows[0], scale, zero_point, 4)
        for scale in np.geomspace(0.05, 3, 120)
        for zero_point in range(16)
    )
    assert lost(weights, rows[0], found.scale[0], found.zero_point[0], 4) < 1.05 * best


def test_one_sided_inputs_keep_their_side() -> None:
    rows = [np.maximum(part, -0.1) for part in heavy_tails(2, 50, 40)]
    found, given = searched(weights_of(20, 40), rows, 4)
    assert (found.zero_point <= 1).all()
    assert (found.scale <= given[0]).all()
    assert found.searched.any()


@pytest.mark.parametrize("bits", BITS)
def test_constant_zero_and_few_rows_stay(bits: int) -> None:
    rows = [np.zeros((40, 16), np.float32), *heavy_tails(1, 8, 16), *heavy_tails(1, 40, 16)]
    found, given = searched(weights_of(20, 16), rows, bits)
    assert found.searched[:2].tolist() == [False, False]
    assert np.array_equal(found.scale[:2], given[0][:2])
    assert found.scale[0] == 0.0
    assert np.isinf(found.log_scale_variance[:2]).all()
    assert np.isfinite(found.log_scale_variance[2])
    zero, same = searched(np.zeros((20, 16), np.float32), rows, bits)
    assert np.array_equal(zero.scale, same[0])


def test_a_range_stays_where_held_out_rows_say_so() -> None:
    calm = [np.clip(part, -1, 1) for part in heavy_tails(1, 60, 32)]
    calm[0][0, 0] = 30.0  # one outlier of those fitted to, and every held-out row has one
    wild = [calm[0].copy()]
    wild[0][:, 0] = 30.0
    weights = weights_of(20, 32)
    assert searched(weights, calm, 4)[0].searched.all()
    found, given = searched(weights, calm, 4, held_out=wild)
    assert not found.searched.any()
    assert np.array_equal(found.scale, given[0])


def test_an_extreme_that_no_row_shows_counts_by_how_rare_it_is() -> None:
    rows = heavy_tails(1, 40, 32)
    weights = weights_of(20, 32)
    seen = parameters_of([np.concatenate([rows[0], np.full((1, 32), 4000, np.float32)])], 8)
    scales = []
    for count in (41, 10**9):
        sample = SearchSample(sketch_of(weights, 0), rows, rows, [count])
        pair = seen.scale, seen.zero_point
        found = search_ranges(sample, pair, 8, 0, np.ones(1, np.bool_))
        scales.append(float(found.scale[0]))
    assert scales[1] < 0.5 * scales[0] <= seen.scale[0]


def test_the_sketch_measures_what_the_weights_do() -> None:
    weights, rows = weights_of(700, 50), heavy_tails(1, 60, 50)
    sketch = sketch_of(weights, 0)
    assert sketch.shape == (64, 50)
    assert np.allclose(np.square(sketch).sum(axis=0), np.square(weights).sum(axis=0), rtol=1e-4)
    assert np.array_equal(sketch, sketch_of(weights, 0))
    assert sketch_of(weights[:64], 0) is not sketch
    given = parameters_of(rows, 4)
    losses = Losses(sketch, rows, 4)
    exact = lost(weights, rows[0], given.scale[0], given.zero_point[0], 4)
    assert losses.of((given.scale, given.zero_point))[0] == pytest.approx(exact, rel=0.05)
    wrong = 0.9 * weights
    by_codes = np.square(0.1 * rows[0] @ weights.T).sum()
    assert loss_of_codes(weights, wrong, losses)[0] == pytest.approx(by_codes, rel=0.2)


def test_the_variance_of_a_searched_range_is_about_that_over_fresh_rows() -> None:
    draw = np.random.default_rng(4)
    rows = list(draw.standard_normal((80, 64, 32)).astype(np.float32))
    found, _ = searched(weights_of(20, 32), rows, 4)
    spread = float(np.log(found.scale).var())
    assert 0.3 * spread < float(found.log_scale_variance.mean()) < 3 * spread
