"""Whether a calibration was measured over the noise schedule that the model has now.

Statistics belong to a noise level, and go by its timestep: with other betas the same timestep has
another level. A calibration therefore keeps the noise at a few timesteps, whatever its bins are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from thermoq.schedule import NoiseSchedule

_INTERVALS = 20
# As far as another machine's `cos` and `pow` may be off, and far below any change that matters.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-9


def noise_levels(schedule: NoiseSchedule) -> tuple[float, ...]:
    """Return the share of noise in the variance at 21 timesteps, from `T - 1` evenly down to 0."""
    return tuple(schedule.variances(t)[1] for t in timesteps_of_levels(schedule.num_timesteps))


def timesteps_of_levels(num_timesteps: int) -> tuple[float, ...]:
    """Return the timesteps of `noise_levels`."""
    last = num_timesteps - 1
    return tuple(last * (_INTERVALS - i) / _INTERVALS for i in range(_INTERVALS + 1))


def most_different(levels: Sequence[float], others: Sequence[float]) -> int | None:
    """Return where two schedules differ most; None if they do not.

    Of noise and of what it leaves of the signal each must agree: both ends of a schedule matter.
    """
    pairs = list(zip(levels, others, strict=True))
    differing = [
        i
        for i, (one, other) in enumerate(pairs)
        if not (_alike(one, other) and _alike(1.0 - one, 1.0 - other))
    ]
    return max(differing, key=lambda i: abs(pairs[i][0] - pairs[i][1]), default=None)


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
