"""Search and coupling of ranges together: what is searched, and what coupling may cost."""

from __future__ import annotations

import numpy as np
import pytest
from optimization_layers import drifting_rows, sample_of
from thermoq.optimization import LayerSample
from thermoq.optimization.ranges import OptimizedRanges, RangeChoices, optimize_ranges
from thermoq.optimization.samples import RangeRows


def optimized(sample: LayerSample, coupling: float = 1.0, clip: bool = True) -> OptimizedRanges:
    given = sample.parameters.scale, sample.parameters.zero_point
    rows = RangeRows(sample.rows, sample.rows, [len(part) for part in sample.rows])
    return optimize_ranges(
        sample.weights,
        sample.decoded,
        given,
        sample.activation_bits,
        rows,
        RangeChoices(coupling, clip, 0),
    )


def test_eight_bits_beside_rough_codes_are_not_searched() -> None:
    rows = drifting_rows(4, 60, 32)
    assert optimized(sample_of(rows)).searched_groups == 0
    assert optimized(sample_of(rows, bits=4)).searched_groups > 0
    assert optimized(sample_of(rows, bits=4), clip=False).searched_groups == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_coupling_holds_groups_together_that_are_alike(bits: int) -> None:
    spread = {0.0: 0.0, 1.0: 0.0}
    for seed in range(10):
        sample = sample_of(drifting_rows(4, 60, 32, drift=0.0, seed=seed), bits=bits)
        for coupling in spread:
            spread[coupling] += float(np.ptp(np.log(optimized(sample, coupling).scale)))
    assert spread[1.0] < 0.6 * spread[0.0]


def test_coupling_gives_way_where_it_would_cost() -> None:
    rows = drifting_rows(4, 60, 32, drift=0.0)
    rows = [part * np.float32(40.0**g) for g, part in enumerate(rows)]
    sample = sample_of(rows, bits=4, exact=True)
    found, apart = optimized(sample, coupling=1e6), optimized(sample, coupling=0.0)
    assert found.coupling < 1e6
    for less in (1.0, 10.0, 100.0):  # asking for more gives about as much
        assert optimized(sample, coupling=less).coupling <= 4.0 * found.coupling
    assert (np.abs(np.log(found.scale / apart.scale)) < 0.5).all()


def test_coupling_zero_keeps_what_was_found() -> None:
    sample = sample_of(drifting_rows(4, 60, 32))
    found = optimized(sample, coupling=0.0)
    assert np.array_equal(found.scale, sample.parameters.scale)
    assert np.array_equal(found.zero_point, sample.parameters.zero_point)
