"""Other ways to treat the inputs of a runtime model's layers, for the rows of comparison."""

from __future__ import annotations

from typing import Any

import torch
from thermoq.runtime.modules import TimedLayer, TimedSettings
from thermoq.runtime.parameters import LayerValues
from torch import Tensor


class _Exact(TimedSettings):
    """Inputs stay as they are, but for the rotation that the weights are in."""

    def quantized(self, given: Tensor, values: LayerValues) -> Tensor:
        """Return `given`, rotated if the layer is."""
        if values.activation is None or self._rotation is None:
            return given
        rotated: Tensor = self._rotation(given.float())
        found: Tensor = rotated.to(given.dtype)
        return found


class _PerToken(_Exact):
    """A scale and a zero point for each token, min-max, found as the layer runs.

    A convolution's input has one range a sample.
    """

    bits: int | None

    def quantized(self, given: Tensor, values: LayerValues) -> Tensor:
        """Return `given` rotated, then rounded to the codes of each row's own range."""
        if values.activation is None:
            return given
        x = super().quantized(given, values).float()
        axes = tuple(range(1, x.dim())) if self._spatial else (x.dim() - 1,)
        low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
        own = values.activation
        top = own.high - own.low if self.bits is None else 2**self.bits - 1
        scale = (high - low) / top
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero_point = (-low / divisor).round()
        codes = ((x / divisor).round() + zero_point).clamp(0, top)
        found: Tensor = ((codes - zero_point) * scale).to(given.dtype)
        return found


def with_exact_inputs(model: Any) -> Any:
    """Let the layers of a model that `thermoq.load` returned take their inputs as they are."""
    return _with(model, _Exact)


def with_dynamic_inputs(model: Any, bits: int | None = None) -> Any:
    """Let them quantize each token of their inputs with a range of its own.

    To so many bits; None: to those of the layer, for samples at one timestep.
    """
    return _with(model, _PerToken, bits=bits)


def _with(model: Any, kind: type[TimedSettings], **also: Any) -> Any:
    for layer in model.modules():
        if isinstance(layer, TimedLayer):
            changed = object.__new__(kind)
            changed.__dict__.update({**vars(layer._thermoq), **also})
            layer._thermoq = changed
    return model
