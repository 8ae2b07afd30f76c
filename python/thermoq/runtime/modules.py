"""Layers with quantized weights and inputs: `y = gain * (W^ x~) + bias + c` (DESIGN section 3).

A layer of the model becomes a quantized one in its place: its class is replaced by one that adds to
it what is below, so that everything else about it (stride, padding, hooks, what other code asks of
an `nn.Linear`) stays. Inputs are quantized, and rows scaled and shifted, in float32; the product in
between is in the module's own dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from thermoq.errors import UsageError
from thermoq.runtime.parameters import LayerValues
from thermoq.runtime.rotation import InputRotation
from thermoq.runtime.timing import CurrentTime
from thermoq.runtime.weights import PackedWeight


class TimedLayer(nn.Module):
    """Mixed into a linear layer or a convolution whose input or rows depend on the timestep."""

    _thermoq: TimedSettings

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the layer gives for `input` at the current timestep."""
        settings = self._thermoq
        values = settings.time.values(settings.name, settings.slot, input.device)
        given = settings.quantized(input, values)
        if values.gain is None or values.bias is None:
            found: Tensor = super().forward(given, *args, **kwargs)
            return found
        bias = self._parameters["bias"]
        self._parameters["bias"] = None  # the gain is not for the layer's own bias
        try:
            product: Tensor = super().forward(given, *args, **kwargs)
        finally:
            self._parameters["bias"] = bias
        return settings.corrected(product, values, bias)

    def extra_repr(self) -> str:
        """The layer's own, and that it is quantized."""
        return f"{super().extra_repr()}, {self._thermoq}"


class TimedSettings:
    """What a timed layer needs beside its weight. `slot` is its number in the parameters."""

    def __init__(
        self,
        name: str,
        slot: int,
        time: CurrentTime,
        layer: nn.Module,
        rotation: InputRotation | None,
    ) -> None:
        self.name = name
        self.slot = slot
        self.time = time
        self._rotation = rotation
        self._spatial = len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0
        # A transposed convolution's rows serve each of its channel groups.
        self._repeats = layer.groups if isinstance(layer, _ConvTransposeNd) else 1

    def __str__(self) -> str:
        return "time-aware, rotated" if self._rotation is not None else "time-aware"

    def quantized(self, given: Tensor, values: LayerValues) -> Tensor:
        """Return `x~`: the input rotated, then rounded to the codes of its range."""
        own = values.activation
        if own is None:
            return given
        x = given.float()
        if self._rotation is not None:
            x = self._rotation(x)
        scale, divisor, low, high = own.scale, own.divisor, own.low, own.high
        if values.samples > 1:
            scale, divisor = self._by_sample(scale, given), self._by_sample(divisor, given)
            low, high = self._by_sample(low, given), self._by_sample(high, given)
        x = torch.div(x, divisor).round_().clamp_(low, high).mul_(scale)  # a tensor of its own
        return x.to(given.dtype)

    def corrected(self, product: Tensor, values: LayerValues, bias: Tensor | None) -> Tensor:
        """Return `gain * product + bias + c` of a product without the layer's own bias `c`."""
        assert values.gain is not None
        assert values.bias is not None
        gain, shift = values.gain, values.bias
        if self._repeats > 1:
            gain = gain.repeat(*(1,) * (gain.dim() - 1), self._repeats)
            shift = shift.repeat(*(1,) * (shift.dim() - 1), self._repeats)
        if bias is not None:
            shift = shift + bias.float()
        gain, shift = self._as_rows(gain, product), self._as_rows(shift, product)
        return torch.addcmul(shift, product.float(), gain).to(product.dtype)

    def _as_rows(self, rows: Tensor, product: Tensor) -> Tensor:
        """Shape `rows` [out] or [n, out] for a product [..., out] or [..., out, positions]."""
        if rows.dim() == 2:
            rows = self._repeated(rows, product)
            if not self._spatial:
                between = (1,) * (product.dim() - 2)
                return rows.reshape(len(rows), *between, rows.shape[1])
        return rows.reshape(*rows.shape, *(1,) * self._spatial)

    def _by_sample(self, values: Tensor, given: Tensor) -> Tensor:
        return self._repeated(values, given).reshape(-1, *(1,) * (given.dim() - 1))

    def _repeated(self, values: Tensor, given: Tensor) -> Tensor:
        """Repeat `values` [n, ...] for `given` [n * m, ...]: each sample's rows lie together."""
        has_samples = given.dim() > (self._spatial + 1 if self._spatial else 1)
        each, rest = divmod(given.shape[0], len(values)) if has_samples else (0, 0)
        if rest or not each:
            raise UsageError(
                f"layer {self.name}: expected a multiple of {len(values)} samples, each with its "
                f"own timestep, got a tensor of shape {list(given.shape)}"
            )
        return values if each == 1 else values.repeat_interleave(each, dim=0)


class PackedLayer(nn.Module):
    """Mixed into a layer whose weight is decoded whenever it is asked for."""

    _packed: PackedWeight
    _like: Tensor  # empty; moves with the module, and tells its dtype and device

    @property
    def weight(self) -> Tensor:
        """The decoded weight, made anew."""
        return self._packed.decoded(self._like.dtype).to(self._like.device)


class PackedTable(PackedLayer):
    """Mixed into an embedding: only the rows that are looked up are decoded."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows [..., cols] of the table that `input` [...] names."""
        wanted, place = torch.unique(input, return_inverse=True)
        chosen: np.ndarray = wanted.cpu().numpy()
        rows = self._packed.rows(chosen, self._like.dtype).to(self._like.device)
        return rows[place]


def make_timed(layer: nn.Module, settings: TimedSettings) -> None:
    """Make `layer` quantize its input and correct its rows."""
    if not isinstance(layer, TimedLayer):  # one that the model has under two names is, by then
        _mix_in(layer, TimedLayer)
    layer._thermoq = settings  # type: ignore[assignment]


def make_packed(layer: nn.Module, packed: PackedWeight, dtype: torch.dtype) -> None:
    """Make `layer` decode its weight at each use."""
    if isinstance(layer, PackedLayer):
        return
    del layer._parameters["weight"]
    layer.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)
    _mix_in(layer, PackedTable if isinstance(layer, nn.Embedding) else PackedLayer)
    layer._packed = packed  # type: ignore[assignment]


def refuse_saving(*args: Any, **kwargs: Any) -> None:
    """Stand for `save_pretrained` of a loaded model: what it would write is no quantized model.

    Packed layers have no weight to be written, and time parameters are in no state of a module.
    """
    raise UsageError(
        "save_pretrained: expected a full-precision model, got a quantized one that thermoq.load "
        "returned; the quantized directory is the checkpoint, `thermoq export` writes dense weights"
    )


def is_layer(module: nn.Module | None) -> bool:
    """Whether `module` multiplies rows of its input, as time parameters need it."""
    return isinstance(module, (nn.Linear, _ConvNd))


def num_rows(layer: nn.Module) -> int:
    """Return the rows of a layer's matrix: its outputs, or those of a group if transposed."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    assert isinstance(layer, _ConvNd)
    groups = layer.groups if isinstance(layer, _ConvTransposeNd) else 1
    return layer.out_channels // groups


_mixed: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def _mix_in(layer: nn.Module, part: type[nn.Module]) -> None:
    of = type(layer)
    if (part, of) not in _mixed:
        name = of.__name__ if of.__name__.startswith("Quantized") else f"Quantized{of.__name__}"
        content = {"__module__": __name__, "__doc__": of.__doc__}
        _mixed[part, of] = type(name, (part, of), content)
    layer.__class__ = _mixed[part, of]
