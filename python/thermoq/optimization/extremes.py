"""How unsure the extremes of a few rows are: the sampling variance of a range, by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thermoq.calibration.activation import affine_parameters
from thermoq.optimization.inputs import Floats, Rows, bootstrap_counts


def variances_of_extremes(groups: Sequence[Rows], bits: int, seed: int) -> tuple[Floats, Floats]:
    """Return the variances of log(scale) and zero_point of min-max ranges of each group's rows.

    Groups of as many rows go together. Infinite where a replicate has a scale of 0.
    """
    unknown = np.full(len(groups), np.inf)
    found = unknown, unknown.copy()
    for size in {len(rows) for rows in groups} - {0}:
        alike = [g for g, rows in enumerate(groups) if len(rows) == size]
        drawn = bootstrap_counts(size, seed) > 0
        together = np.concatenate([groups[g] for g in alike])
        low = np.minimum(together.min(axis=1), 0).reshape(-1, 1, size)
        high = np.maximum(together.max(axis=1), 0).reshape(-1, 1, size)
        pair = affine_parameters(
            np.where(drawn, low, 0).min(axis=2).astype(np.float64),
            np.where(drawn, high, 0).max(axis=2).astype(np.float64),
            bits,
        )
        for kept, variance in zip(found, variances_of_ranges(*pair), strict=True):
            kept[alike] = variance
    return found


def variances_of_ranges(scale: Floats, zero_point: Floats) -> tuple[Floats, Floats]:
    """Return the variances of log(scale) and zero_point over replicates, of each group.

    Both are [..., replicates]. Infinite with a scale of 0 among them.
    """
    positive = (scale > 0).all(axis=-1)
    logs = np.log(np.where(scale > 0, scale, 1.0))
    both = (part.var(axis=-1, ddof=1) for part in (logs, zero_point))
    first, second = (np.where(positive, part, np.inf) for part in both)
    return first, second
