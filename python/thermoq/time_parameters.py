"""What varies along the trajectory, whichever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq.terms import ParameterSource


@dataclass(frozen=True)
class TimeParameters:
    """Activation parameters of one layer, one value per time group: two arrays [G].

    `scale` is 0 or positive; where it is 0 the `zero_point` means nothing. `bin_minimum` and
    `bin_maximum` [bins] are what was measured in the calibration's fine bins, widened to contain
    0; None under the prior.
    """

    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    source: ParameterSource
    bin_minimum: NDArray[np.float64] | None = None
    bin_maximum: NDArray[np.float64] | None = None
