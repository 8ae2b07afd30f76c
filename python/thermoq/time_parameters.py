"""What varies along the trajectory, whichever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq.terms import ParameterSource


@dataclass(frozen=True)
class TimeParameters:
    """Activation parameters of one layer, one value per time group: two arrays [G].

    `scale` is 0 or positive; where it is 0 the `zero_point` means nothing.
    """

    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    source: ParameterSource
