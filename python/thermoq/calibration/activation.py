"""Activation parameters from a calibration: `scale` and `zero_point` per layer and time group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.ranges import bin_ranges, nearest_visited
from thermoq.calibration.statistics import CalibratedInput, Floats
from thermoq.time_parameters import TimeParameters

Rows = NDArray[np.float32]

_F16_MAX = np.finfo(np.float16).max


def measured_parameters(
    source: CalibratedInput,
    groups: Sequence[slice],
    activation_bits: int,
    rotate: Callable[[Rows], Rows] | None = None,
) -> TimeParameters:
    """Return min-max parameters of an input; `groups` are the bins of each time group.

    Over the range of the group's bins, widened to contain 0 (DESIGN section 4):
    `scale = (max - min) / (2^a - 1)`, `zero_point = rint(-min / scale)`. The scale is the f16
    number that is not below it, as it is stored. A constant zero input has scale 0. With `rotate`,
    which takes rows [N, in], the ranges are those of the rotated reservoir rows.
    """
    low, high = bin_ranges(source) if rotate is None else _rotated_ranges(source, rotate)
    scale, zero_point = affine_parameters(
        np.array([low[group].min() for group in groups]),
        np.array([high[group].max() for group in groups]),
        activation_bits,
    )
    return TimeParameters(scale, zero_point, "calibration", low, high, activation_bits)


def affine_parameters(low: Floats, high: Floats, bits: int) -> tuple[Floats, Floats]:
    """Return f16 scales and integer zero points of ranges that contain 0, as float64."""
    top = 2**bits - 1
    scale = _half_upwards((high - low) / top)
    divisor = np.where(scale > 0, scale, 1.0)
    zero_point = np.clip(np.rint(-low / divisor), 0, top)
    return scale, np.where(scale > 0, zero_point, 0.0)


def _half_upwards(values: Floats) -> Floats:
    """Return the smallest f16 numbers that are not below `values`, at most f16's largest."""
    values = np.minimum(values, float(_F16_MAX))
    half = values.astype(np.float16)
    above = np.where(half < values, np.nextafter(half, _F16_MAX), half)
    return above.astype(np.float64)


def _rotated_ranges(
    source: CalibratedInput, rotate: Callable[[Rows], Rows]
) -> tuple[Floats, Floats]:
    """Return minimum and maximum of the rotated rows of each fine bin, as `bin_ranges` does."""
    low, high = np.zeros(source.num_bins), np.zeros(source.num_bins)
    for bin, num_rows in enumerate(source.num_rows):
        if num_rows:
            rows = rotate(source.sample(slice(bin, bin + 1)))
            low[bin], high[bin] = min(0.0, float(rows.min())), max(0.0, float(rows.max()))
    nearest = nearest_visited(source)
    return low[nearest], high[nearest]
