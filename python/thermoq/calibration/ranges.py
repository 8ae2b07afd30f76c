"""The range of a layer's input over the trajectory, from a calibration."""

from __future__ import annotations

import numpy as np

from thermoq.calibration.statistics import CalibratedInput, Floats


def bin_ranges(source: CalibratedInput) -> tuple[Floats, Floats]:
    """Return minimum and maximum of each fine bin, [bins], widened to contain 0.

    Bins nobody visited take the nearest visited one, of two equally near the noisier.
    Raises ValueError if there is none.
    """
    nearest = nearest_visited(source)
    low = source.minimum.astype(np.float64)[nearest]
    high = source.maximum.astype(np.float64)[nearest]
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def nearest_visited(source: CalibratedInput) -> list[int]:
    """Return for each bin the nearest one that was visited."""
    visited = np.flatnonzero(source.count > 0)
    if not len(visited):
        raise ValueError("expected an input that was seen in at least one bin")
    return [int(visited[np.argmin(np.abs(visited - bin))]) for bin in range(source.num_bins)]
