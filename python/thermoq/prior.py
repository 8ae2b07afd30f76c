"""Time parameters without a calibration: the noise-schedule prior (DESIGN section 4).

A model, not a measurement. The spread of a layer's response at a timestep is taken to be
`sigma^2 = signal^2 * kappa + noise^2`: noise excites all directions of the input alike, the signal
lies in few, and kappa says how much more the weights amplify their top direction. Only ratios
between time groups mean anything.
"""

from __future__ import annotations

import numpy as np

from thermoq.schedule import NoiseSchedule, TimeGroups
from thermoq.time_parameters import TimeParameters

POWER_ITERATIONS = 4


def prior_parameters(
    spectral_concentration: float,
    schedule: NoiseSchedule,
    time_groups: TimeGroups,
    activation_bits: int,
) -> TimeParameters:
    """Return scale[g] = sigma at the middle timestep of group g, and a centred zero-point."""
    variances = np.array([schedule.variances(middle) for middle in time_groups.middles])
    scale = np.sqrt(variances[:, 0] * spectral_concentration + variances[:, 1])
    zero_point = np.full(len(time_groups), float(2 ** (activation_bits - 1)))
    return TimeParameters(
        scale, zero_point, "noise-schedule prior", activation_bits=activation_bits
    )
