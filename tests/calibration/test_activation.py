"""Activation parameters of a calibrated input, against the formula in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import statistics_of
from thermoq.calibration.activation import affine_parameters, measured_parameters
from thermoq.calibration.ranges import bin_ranges, nearest_visited
from thermoq.calibration.statistics import CalibratedInput


def source_of(ranges: dict[int, tuple[float, float]], num_bins: int) -> CalibratedInput:
    rows = {bin: np.array([pair], np.float32) for bin, pair in ranges.items()}
    return statistics_of(rows, num_bins=num_bins)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 2.0), (-3.0, -1.0), (0.5, 4.0), (0.0, 1e-7), (-1e-3, 1e4), (-5.0, 0.0), (-1.0, 5e5)],
)
def test_the_range_is_covered(low: float, high: float, bits: int) -> None:
    source = source_of({0: (low, high)}, 1)
    found = measured_parameters(source, [slice(0, 1)], bits)
    scale, zero_point = float(found.scale[0]), float(found.zero_point[0])
    bottom, top = min(low, 0.0), max(high, 0.0)
    assert scale == float(np.float16(scale))
    assert zero_point == round(-np.float64(np.float32(bottom)) / scale)
    exact = (top - bottom) / (2**bits - 1)
    # Never narrower than the range; wider by a step of f16 at most.
    assert exact * (1 - 1e-6) <= scale <= max(exact * (1 + 2**-10), 2**-24) * (1 + 1e-6)
    assert 0 <= zero_point <= 2**bits - 1
    for value in (bottom, 0.0, top):
        code = min(max(round(value / scale) + zero_point, 0), 2**bits - 1)
        assert abs((code - zero_point) * scale - value) <= scale
    assert found.source == "calibration"


def test_a_constant_zero_input_has_scale_zero() -> None:
    found = measured_parameters(source_of({0: (0.0, 0.0)}, 2), [slice(0, 2)], 8)
    assert (found.scale[0], found.zero_point[0]) == (0.0, 0.0)


def test_a_constant_input_decodes_to_itself() -> None:
    """Zero variance, but not 0: the range reaches from 0 to it."""
    found = measured_parameters(source_of({0: (3.0, 3.0)}, 1), [slice(0, 1)], 8)
    assert found.zero_point[0] == 0
    assert 255 * found.scale[0] == pytest.approx(3.0, rel=2**-10)


def test_ranges_beyond_f16_are_clipped_to_it() -> None:
    scale, zero_point = affine_parameters(np.array([-1e9]), np.array([1e9]), 8)
    assert scale[0] == 65504
    assert 0 <= zero_point[0] <= 255


def test_a_group_covers_all_of_its_bins() -> None:
    source = source_of({0: (-1, 1), 1: (-2, 1), 2: (-1, 5), 3: (0, 1)}, 4)
    found = measured_parameters(source, [slice(0, 2), slice(2, 4)], 8)
    assert found.scale * 255 == pytest.approx([3, 6], rel=2**-10)
    assert found.bin_minimum is not None
    assert found.bin_minimum.tolist() == [-1, -2, -1, 0]


def test_unvisited_bins_take_the_nearest_visited_one() -> None:
    source = source_of({2: (-1, 2), 6: (-4, 4)}, 8)
    assert nearest_visited(source) == [2, 2, 2, 2, 2, 6, 6, 6]
    low, high = bin_ranges(source)
    assert low.tolist() == [-1] * 5 + [-4] * 3
    assert high.tolist() == [2] * 5 + [4] * 3
    with pytest.raises(ValueError, match="at least one bin"):
        nearest_visited(statistics_of({0: np.empty((0, 2), np.float32)}))


def test_rotated_ranges_come_from_the_rows() -> None:
    rows = np.array([[3.0, 4.0], [-1.0, 1.0]], np.float32)
    source = statistics_of({1: rows}, num_bins=3)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
    found = measured_parameters(source, [slice(0, 3)], 8, rotate=lambda x: x @ turn)
    turned = rows @ turn
    assert found.scale[0] * 255 == pytest.approx(turned.max() - turned.min(), rel=2**-9)
