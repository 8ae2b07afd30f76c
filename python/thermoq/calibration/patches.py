"""The rows that a layer's weight matrix is multiplied with: tokens, or a convolution's patches.

With `rows` [n, in] of a layer and its weight reshaped to `[out, in*k...]` (a transposed
convolution's with its dimension 1 first), `rows @ W.T` is the layer's output without bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_CHUNK_VALUES = 1 << 22  # unfolded at a time: 16 MB in f32


class LinearRows:
    """A linear layer's input [..., in] as it is: a row a token."""

    def __init__(self, layer: nn.Linear) -> None:
        self.num_columns = layer.in_features
        self.settings: tuple[Any, ...] = ("linear", layer.in_features)

    def count(self, values: Tensor) -> int:
        """Return how many rows `values` has."""
        return values.numel() // self.num_columns

    def chunks(self, values: Tensor) -> Iterator[Tensor]:
        """Yield the rows of `values`, [n, in], all at once."""
        yield values.reshape(-1, self.num_columns)


class ConvolutionRows:
    """A convolution's input [n, channels, ...] unfolded: a row an output position.

    A patch reaches into the padding, as the kernel does. With channel groups, a row holds the
    channels of one group, and every position has a row for each.
    """

    def __init__(self, layer: _ConvNd) -> None:
        self._transposed = isinstance(layer, _ConvTransposeNd)
        self._kernel = layer.kernel_size
        self._dilation = layer.dilation
        self._groups = layer.groups
        self._stride = layer.stride
        if self._transposed:
            self._padding = _transposed_padding(layer)
            self._mode = "constant"
        else:
            self._padding = tuple(layer._reversed_padding_repeated_twice)
            self._mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        self.num_columns = layer.in_channels // layer.groups * math.prod(self._kernel)
        self.settings: tuple[Any, ...] = (
            *("convolution", self._transposed, self._kernel, self._dilation, self._groups),
            *(self._stride, self._padding, self._mode, layer.in_channels),
        )

    def count(self, values: Tensor) -> int:
        """Return how many rows `values` unfolds to."""
        if values.dim() == len(self._kernel) + 1:
            values = values[None]
        return len(values) * (self._patches(values[:1]).numel() // self.num_columns)

    def chunks(self, values: Tensor) -> Iterator[Tensor]:
        """Yield the rows of `values`, [n, in*k...], some samples and positions at a time."""
        if values.dim() == len(self._kernel) + 1:  # a sample without its batch
            values = values[None]
        for sample in torch.split(values, 1):
            patches = self._patches(sample)
            positions = math.prod(patches.shape[1:-1])
            # Cut along the first spatial dimension: what is cut out is all that gets copied.
            each = max(1, _CHUNK_VALUES * patches.shape[1] // (positions * patches.shape[-1] or 1))
            for part in torch.split(patches, each, dim=1):
                yield self._rows(part)

    def _patches(self, sample: Tensor) -> Tensor:
        """Return a view [1, first, rest..., values of a patch], the last three dimensions apart."""
        if self._transposed:
            sample = _stuffed(sample, self._stride)
        if any(self._padding):
            sample = functional.pad(sample, self._padding, mode=self._mode)
        dims = len(self._kernel)
        for i in range(dims):
            size, step = self._kernel[i], self._dilation[i]
            stride = 1 if self._transposed else self._stride[i]
            sample = sample.unfold(2 + i, (size - 1) * step + 1, stride)[..., ::step]
        # [1, channels, positions..., kernel...] to positions first, as the output has them.
        return sample.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))

    def _rows(self, patches: Tensor) -> Tensor:
        dims = len(self._kernel)
        if self._transposed:  # the kernel slides over the stuffed input the other way round
            patches = patches.flip(tuple(range(-dims, 0)))
        return patches.reshape(-1, self.num_columns)


InputRows = LinearRows | ConvolutionRows


def input_rows(layer: nn.Module) -> InputRows | None:
    """Return how the input of `layer` becomes rows; None for a layer that multiplies none."""
    if isinstance(layer, nn.Linear):
        return LinearRows(layer)
    if isinstance(layer, _ConvNd):
        return ConvolutionRows(layer)
    return None


def _transposed_padding(layer: _ConvNd) -> tuple[int, ...]:
    """Return what to pad the stuffed input with, so that a plain convolution gives the output."""
    sides: list[int] = []
    for i in reversed(range(len(layer.kernel_size))):
        reach = layer.dilation[i] * (layer.kernel_size[i] - 1)
        padding = layer.padding[i]
        assert isinstance(padding, int)  # only plain convolutions know "same"
        sides += [reach - padding, reach - padding + layer.output_padding[i]]
    return tuple(sides)


def _stuffed(sample: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Return `sample` with `stride - 1` zeros between neighbours."""
    if all(step == 1 for step in stride):
        return sample
    shape = [(n - 1) * step + 1 for n, step in zip(sample.shape[2:], stride, strict=True)]
    wide = sample.new_zeros(*sample.shape[:2], *shape)
    inside = tuple(slice(None, None, step) for step in stride)
    wide[(slice(None), slice(None)) + inside] = sample  # noqa: RUF005 (not before Python 3.11)
    return wide
