"""What layer outputs lose, beside NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import F32
from thermoq.calibration.statistics import InputStatistics
from thermoq.outputs import OutputError, output_error, sampled_rows


def test_the_figures() -> None:
    random = np.random.default_rng(0)
    w, d, x = (random.standard_normal(s).astype(F32) for s in ((20, 30), (20, 30), (50, 30)))
    d = w + F32(0.1) * d
    found = output_error(w, d, x)
    y, z = (m.astype(np.float64) @ x.T.astype(np.float64) for m in (w, d))
    relative = np.square(z - y).sum() / np.square(y).sum()
    assert found.relative_squared_error == pytest.approx(relative, rel=1e-5)
    cosine = (y * z).sum() / math.sqrt(np.square(y).sum() * np.square(z).sum())
    assert found.cosine_similarity == pytest.approx(cosine, abs=1e-6)


def test_outputs_of_nothing() -> None:
    assert OutputError(0, 0, 0).relative_squared_error == 0
    assert OutputError(0, 0, 0).cosine_similarity == 1
    assert OutputError(1, 0, 1).relative_squared_error == math.inf
    assert OutputError(1, 1, 0).cosine_similarity == 0


def test_rows_come_from_all_bins() -> None:
    statistics = InputStatistics(2, 4, 500, 0, "input")
    for bin_number in range(4):
        statistics.add(bin_number, np.full((500, 2), bin_number, F32))
    rows = sampled_rows(statistics.finish())
    assert rows.shape == (256, 2)
    assert sorted(set(rows[:, 0])) == [0, 1, 2, 3]
