"""Quantized inputs against the formula, and the rows that serve what."""

from __future__ import annotations

import numpy as np
import pytest
from optimization_layers import plain_inputs
from thermoq.optimization.inputs import (
    BOOTSTRAP_REPLICATES,
    bootstrap_counts,
    evenly,
    has_distinct,
    quantized_inputs,
    split,
)


@pytest.mark.parametrize("bits", [4, 8])
def test_inputs_are_quantized_as_the_format_defines_it(bits: int) -> None:
    draw = np.random.default_rng(bits)
    rows = draw.standard_normal((40, 33)).astype(np.float32)
    rows[3, 4], rows[5, 6] = 1e9, -1e17
    scale = np.float16(draw.uniform(0.001, 0.3, 40)).astype(np.float64)
    scale[7] = 0.0
    zero_point = draw.integers(0, 2**bits, 40).astype(np.float64)
    found = quantized_inputs(rows, scale, zero_point, np.ones(40, np.int64), bits)
    for row, x, s, z in zip(rows, found, scale, zero_point, strict=True):
        assert np.array_equal(x, plain_inputs(row, float(s), float(z), bits))
    sizes = np.array([15, 0, 25])
    groups = quantized_inputs(rows, scale[:3], zero_point[:3], sizes, bits, error=True)
    for part, g in ((slice(0, 15), 0), (slice(15, 40), 2)):
        wanted = plain_inputs(rows[part], float(scale[g]), float(zero_point[g]), bits)
        assert np.array_equal(groups[part], wanted - rows[part])


def test_rows_are_taken_evenly_and_split_three_to_one() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None]
    assert evenly(rows, 5)[:, 0].tolist() == [0, 9, 19, 29, 39]
    assert evenly(rows, 40) is rows
    fitted, held_out = split(rows)
    assert (len(fitted), len(held_out)) == (30, 10)
    assert sorted([*fitted[:, 0], *held_out[:, 0]]) == list(range(40))


def test_distinct_rows_are_counted() -> None:
    rows = np.repeat(np.arange(15, dtype=np.float32), 9)[:, None]
    assert has_distinct(rows, 15)
    assert not has_distinct(rows, 16)


def test_bootstrap_counts_are_draws_with_replacement() -> None:
    counts = bootstrap_counts(50, 3)
    assert counts.shape == (BOOTSTRAP_REPLICATES, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.max() > 1
    assert not np.array_equal(counts, bootstrap_counts(50, 4))
