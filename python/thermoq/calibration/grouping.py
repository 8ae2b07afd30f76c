"""Where time groups begin: at edges of a calibration's fine bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.file import Calibration
from thermoq.calibration.ranges import bin_ranges
from thermoq.calibration.statistics import Floats
from thermoq.errors import UsageError
from thermoq.schedule import TimeGroups
from thermoq.terms import Grouping

_TOUCH = 1e-6


def first_bins_of(
    calibration: Calibration,
    num_time_groups: int,
    grouping: Grouping,
    weights: Mapping[str, int],
) -> list[int]:
    """Cut the trajectory into `num_time_groups` runs of the calibration's fine bins.

    `uniform`: bin `j` of `n` joins group `j * G // n`. `adaptive`: each group covers as equal a
    share of the change of the layers' ranges as bins allow; `weights` are the numbers of weights of
    the layers that count. Returns the first bin of each group.

    Raises UsageError for more groups than bins.
    """
    num_bins = calibration.num_bins
    if num_time_groups > num_bins:
        raise UsageError(
            f"expected --num-time-groups between 1 and {num_bins} (the calibration's bins), got "
            f"{num_time_groups}"
        )
    if grouping == "uniform":
        # The first j with j * G // n == g.
        return [-(-group * num_bins // num_time_groups) for group in range(num_time_groups)]
    return split_evenly(range_change(calibration, weights), num_time_groups)


def time_groups_from(calibration: Calibration, first_bins: Sequence[int]) -> TimeGroups:
    """Return time groups that start at the noisier edges of these bins."""
    description = calibration.description
    starts = tuple(description.bin_starts[first] for first in first_bins)
    return TimeGroups(description.num_timesteps, starts)


def range_change(calibration: Calibration, weights: Mapping[str, int]) -> Floats:
    """Return how far the layers' ranges move between each bin and the next, [bins - 1].

    The movement of both ends of a layer's range, relative to the wider of the two bins, averaged
    over layers by their numbers of weights: a narrow range doubles as a wide one does, as
    quantization steps do. 0 between bins of the same range, unvisited ones included.
    """
    change = np.zeros(calibration.num_bins - 1)
    total = sum(weights.values()) or 1
    for layer, num_weights in weights.items():
        source = calibration.input_of(layer)
        if source is None or not source.count.any():
            continue
        low, high = bin_ranges(source)
        width = high - low
        wider = np.maximum(width[:-1], width[1:])
        moved = np.abs(np.diff(low)) + np.abs(np.diff(high))
        change += num_weights / total * moved / np.where(wider > 0, wider, 1.0)
    return change


def split_evenly(change: Floats, num_groups: int) -> list[int]:
    """Return the first bin of each of `num_groups` runs of bins, 0 first.

    `change[j]` lies between bin `j` and `j + 1`; a run covers what lies between its bins and half
    of what lies at each of its ends. The runs minimize the sum of the squares of what they cover,
    which is least where all cover the same; of equal ones, the earliest starts win.
    """
    num_bins = len(change) + 1
    # A touch of time itself, so that where nothing changes groups are as long as each other.
    change = change + (change.sum() or 1.0) * _TOUCH / num_bins
    # What lies before the middle of the step into bin j.
    steps = np.concatenate([[0.0], change])
    reached = np.concatenate([[0.0], (np.cumsum(steps) - steps / 2)[1:], [change.sum()]])
    cost = np.full((num_groups + 1, num_bins + 1), np.inf)
    came_from = np.zeros((num_groups + 1, num_bins + 1), np.int64)
    cost[0, 0] = 0.0
    for group in range(1, num_groups + 1):
        for end in range(group, num_bins - (num_groups - group) + 1):
            begins = np.arange(group - 1, end)
            costs = cost[group - 1, begins] + (reached[end] - reached[begins]) ** 2
            best = int(_first_smallest(costs))
            cost[group, end] = costs[best]
            came_from[group, end] = begins[best]
    first_bins: list[int] = []
    end = num_bins
    for group in range(num_groups, 0, -1):
        end = int(came_from[group, end])
        first_bins.insert(0, end)
    return first_bins


def _first_smallest(costs: NDArray[np.float64]) -> int:
    """Return the first of the smallest, taking what differs in the last digits as equal."""
    smallest = costs.min()
    return int(np.flatnonzero(costs <= smallest * (1 + 1e-12) + 1e-300)[0])


def groups_of_bins(first_bins: Sequence[int], num_bins: int) -> list[slice]:
    """Return the bins of each group."""
    ends = [*first_bins[1:], num_bins]
    return [slice(first, end) for first, end in zip(first_bins, ends, strict=True)]
