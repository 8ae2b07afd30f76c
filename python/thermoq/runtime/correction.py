"""The correction of a model's prediction: `gain[j] * y + bias[j]` in fine time bin `j`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thermoq.errors import UsageError
from thermoq.output_correction import OutputCorrection
from thermoq.runtime.timing import CurrentTime


class Corrector:
    """A forward hook of the whole model that corrects what it predicts.

    With guidance that is each half of the batch, before the halves are combined. Channels beyond
    those of the biases (a learned variance) are left alone.
    """

    def __init__(self, correction: OutputCorrection, time: CurrentTime) -> None:
        self._correction = correction
        self._time = time
        self._on: dict[torch.device, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return `output` (a tensor, a tuple that begins with one, or diffusers') corrected."""
        if self._time.is_static:
            return output
        field = "logits" if self._correction.kind == "logits" else "sample"
        if isinstance(output, Tensor):
            return self._corrected(output)
        if isinstance(output, tuple) and isinstance(output[0], Tensor):
            return (self._corrected(output[0]), *output[1:])
        found = getattr(output, field, None)
        if not isinstance(found, Tensor):
            got = type(found if found is not None else output).__name__
            raise UsageError(
                f"{type(module).__name__}: expected a tensor to correct in its output, got {got}"
            )
        setattr(output, field, self._corrected(found))
        return output

    def _corrected(self, prediction: Tensor) -> Tensor:
        bins = [self._correction.bins.group_of(t) for t in self._time.timesteps]
        gains, biases = self._tensors(prediction.device)
        chosen = bins[0] if len(bins) == 1 else bins
        return corrected(prediction, gains[chosen], None if biases is None else biases[chosen])

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        if device not in self._on:
            gain, bias = self._correction.gain, self._correction.bias
            on_device = None if bias is None else torch.from_numpy(bias).to(device)
            self._on[device] = torch.from_numpy(gain).to(device), on_device
        return self._on[device]


def corrected(prediction: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Return `gain * prediction + bias`, evaluated in float32, in the prediction's dtype.

    `gain` is [] or [n], a number a sample. `bias` [channels] or, position by position, with the
    shape of a sample; either with a first dimension of n, if `gain` has one; None: all channels
    are scaled and none is shifted. Raises UsageError for a bias of another shape than a sample's.
    """
    samples = gain.dim()
    of_sample = gain.reshape(-1, *(1,) * (prediction.dim() - 1)) if samples else gain
    if bias is None:
        return (prediction.float() * of_sample).to(prediction.dtype)
    is_channel = bias.dim() == samples + 1
    channels = bias.shape[-1 if is_channel or prediction.dim() == 3 else samples]
    axis = channel_axis(prediction, channels)
    if is_channel:
        after = prediction.dim() - 1 - axis
        bias = bias.reshape(*bias.shape[:samples], *(1,) * (axis - 1), channels, *(1,) * after)
    there = prediction.shape[axis]
    part = prediction.narrow(axis, 0, min(channels, there)).float()
    if there < channels or not (is_channel or part.shape[1:] == bias.shape[samples:]):
        raise UsageError(
            f"output correction: expected predictions as they were when it was fitted, with biases "
            f"of shape {list(bias.shape[samples:])}, got {list(prediction.shape[1:])}"
        )
    found = (part * of_sample + bias).to(prediction.dtype)
    if there == channels:
        return found
    return torch.cat([found, prediction.narrow(axis, channels, there - channels)], dim=axis)


def channel_axis(prediction: Tensor, channels: int) -> int:
    """Return where the channels of a prediction lie: 1, or last for tokens [n, tokens, channels].

    `channels` are those of the prediction itself, without a learned variance.
    """
    return 2 if prediction.dim() == 3 and prediction.shape[2] == channels else 1
