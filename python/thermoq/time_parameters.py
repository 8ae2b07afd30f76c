"""What varies along the trajectory, whichever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermoq.terms import ParameterSource

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class TimeParameters:
    """Activation parameters of one layer, one value per time group: two arrays [G].

    `scale` is 0 or positive; where it is 0 the `zero_point` means nothing. `bin_minimum` and
    `bin_maximum` [bins] are what was measured in the calibration's fine bins, widened to contain
    0; None under the prior. `activation_bits` are those of the codes that zero points are among.
    """

    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    source: ParameterSource
    bin_minimum: NDArray[np.float64] | None = None
    bin_maximum: NDArray[np.float64] | None = None
    activation_bits: int = 8


@dataclass(frozen=True)
class RowParameters:
    """Row gains and biases of one layer: arrays [k, out] of float32 that float16 holds exactly.

    `k` is 1 where one set serves the whole trajectory (pooled), else the number of time groups.
    Raises ValueError for other shapes and for values that float16 would change.
    """

    gain: Floats32
    bias: Floats32

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together, or would not be stored as they are."""
        if self.gain.ndim != 2 or self.gain.shape != self.bias.shape or not len(self.gain):
            raise ValueError(
                f"expected gain and bias [k, out], got {self.gain.shape} and {self.bias.shape}"
            )
        for name, values in (("gain", self.gain), ("bias", self.bias)):
            if values.dtype != np.float32:
                raise ValueError(f"expected {name} in float32, got {values.dtype}")
            with np.errstate(over="ignore"):  # too large a value becomes infinite, so is refused
                stored = values.astype(np.float16).astype(np.float32)
            if not (np.isfinite(stored).all() and np.array_equal(stored, values)):
                raise ValueError(f"expected each {name} to be a finite float16 number")

    @property
    def num_groups(self) -> int:
        """How many sets there are: 1 or the number of time groups."""
        return len(self.gain)

    def at(self, group: int, fraction: float) -> tuple[Floats32, Floats32]:
        """Return gain and bias [out] where `TimeSchedule.blend` gives `group` and `fraction`.

        `(1 - f) * p[g] + f * p[g + 1]` in float32; exactly the group's own where f is 0.
        """
        if self.num_groups == 1:
            return self.gain[0], self.bias[0]
        if fraction == 0.0:
            return self.gain[group], self.bias[group]
        following = min(group + 1, self.num_groups - 1)
        f = np.float32(fraction)
        rest = np.float32(1.0) - f
        gain = rest * self.gain[group] + f * self.gain[following]
        return gain, rest * self.bias[group] + f * self.bias[following]


def activation_at(
    scale: ArrayLike, zero_point: ArrayLike, bits: ArrayLike, group: ArrayLike, fraction: ArrayLike
) -> tuple[Floats32, Floats32]:
    """Return scale and zero point where `TimeSchedule.blend` gives `group` and `fraction`.

    `scale` and `zero_point` [G] are the groups'; `group` and `fraction` are numbers, or arrays of
    one shape, which is that of the results. With numbers they may also be [G, layers], and `bits`
    [layers]. What is interpolated is the range, in float32:

        minimum = (1 - f) * (-zero_point[g] * scale[g]) + f * (-zero_point[g+1] * scale[g+1])
        maximum = likewise, of (2^bits - 1 - zero_point) * scale
        scale   = (maximum - minimum) / (2^bits - 1)
        zero_point = clip(rint(-minimum / scale), 0, 2^bits - 1)

    Where f is 0 both are exactly the group's own; a zero point beside a scale of 0 means nothing.
    """
    scales, points = np.asarray(scale, np.float32), np.asarray(zero_point, np.float32)
    this = np.asarray(group, np.int64)
    following = np.minimum(this + 1, len(scales) - 1)
    f = np.asarray(fraction, np.float64).astype(np.float32)
    top = (2 ** np.asarray(bits, np.int64) - 1).astype(np.float32)
    lows, highs = -points * scales, (top - points) * scales
    rest = np.float32(1.0) - f
    low = rest * lows[this] + f * lows[following]
    high = rest * highs[this] + f * highs[following]
    between = (high - low) / top
    steps = np.divide(-low, between, out=np.zeros_like(low), where=between > 0)
    own = f == 0
    zero = np.where(own, points[this], np.clip(np.rint(steps), np.float32(0), top))
    return np.where(own, scales[this], between), zero
