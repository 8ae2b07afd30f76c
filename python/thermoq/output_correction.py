"""The correction of a denoiser's prediction by fine time bin (DESIGN section 7, step 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq.interpolation import OutsideTrajectoryError
from thermoq.schedule import TimeGroups
from thermoq.terms import CorrectionKind

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class OutputCorrection:
    """One gain a bin, and a bias a channel or a position: piecewise constant over `bins`.

    `gain` [bins], above 0. `bias` is [bins, channels] ("channel"), [bins, channels, height, width]
    or whatever the shape of a prediction is ("position"), or None ("logits", the inverse
    temperature of a language model). All are f32 that f16 can hold. Raises ValueError for what does
    not fit together.
    """

    bins: TimeGroups
    kind: CorrectionKind
    gain: Floats
    bias: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that contradict each other and numbers that no f16 is."""
        if self.gain.shape != (len(self.bins),):
            raise ValueError(f"expected {len(self.bins)} gains, got {list(self.gain.shape)}")
        bias_shape = None if self.bias is None else self.bias.shape
        if not fits_kind(self.kind, len(self.bins), bias_shape):
            got = "none" if bias_shape is None else list(bias_shape)
            raise ValueError(f"expected biases that fit the kind {self.kind}, got {got}")
        for values in (self.gain, *(() if self.bias is None else (self.bias,))):
            with np.errstate(over="ignore"):  # too large a value becomes infinite, so is refused
                stored = values.astype(np.float16)
            if not (np.isfinite(stored).all() and np.array_equal(stored, values)):
                raise ValueError("expected numbers that f16 can hold, got others")
        if not (self.gain > 0).all():
            raise ValueError(f"expected gains above 0, got {self.gain.min():g}")

    @property
    def stored_bytes(self) -> int:
        """Bytes of it in a file."""
        return 2 * (self.gain.size + (0 if self.bias is None else self.bias.size))

    def at(self, timestep: float) -> tuple[np.float32, Floats | None]:
        """Return the gain and the bias in force: prediction = gain * prediction + bias.

        Raises OutsideTrajectoryError outside [0, T).
        """
        end = self.bins.num_timesteps
        if not 0 <= timestep < end:
            raise OutsideTrajectoryError(f"expected a timestep in [0, {end}), got {timestep:g}")
        found = self.bins.group_of(timestep)
        return self.gain[found], None if self.bias is None else self.bias[found]


def fits_kind(kind: str, num_bins: int, bias_shape: tuple[int, ...] | None) -> bool:
    """Tell whether biases of this shape (None: there are none) make sense for a kind."""
    if kind == "logits":
        return bias_shape is None
    if bias_shape is None or bias_shape[0] != num_bins:
        return False
    return len(bias_shape) == 2 if kind == "channel" else len(bias_shape) >= 2
