"""The rotation of a layer's inputs in torch, equal to `thermoq.rotation` bit for bit."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from thermoq import _core
from thermoq.rotation import Rotation


class InputRotation:
    """Rotates inputs [..., cols] in float32: signs, a permutation, Hadamard blocks.

    The last result is kept as long as its input is there, for layers that share it.
    """

    def __init__(self, rotation: Rotation) -> None:
        order = rotation.permutation
        self._block = rotation.block
        self._factor = 1.0 / math.sqrt(rotation.block)
        host = torch.device("cpu")
        self._order = {host: torch.from_numpy(order)}
        self._signs = {host: torch.from_numpy(rotation.signs[order])}
        self._last: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Return `values` rotated, not to be changed in place: another layer may get them, too."""
        if values.requires_grad or values.is_inference():  # no copy of a graph, no version to tell
            return self._rotated(values)
        if self._last is not None:  # as for keys and values, after the queries
            given, version, found = self._last
            if given() is values and values._version == version:
                return found
        found = self._rotated(values)
        self._last = weakref.ref(values, self._forget), values._version, found
        return found

    def _forget(self, given: weakref.ref[Tensor]) -> None:
        if self._last is not None and self._last[0] is given:
            self._last = None

    def _rotated(self, values: Tensor) -> Tensor:
        device = values.device
        if device not in self._order:
            host = torch.device("cpu")
            self._order[device] = self._order[host].to(device)
            self._signs[device] = self._signs[host].to(device)
        mixed = values.index_select(-1, self._order[device]) * self._signs[device]
        if device.type == "cpu" and not mixed.requires_grad:
            return self._by_core(mixed)
        return self._by_torch(mixed)

    def _by_core(self, mixed: Tensor) -> Tensor:
        rows = mixed.reshape(-1, mixed.shape[-1]).numpy()
        turned = _core.hadamard(rows, self._block, torch.get_num_threads())
        return torch.from_numpy(turned).reshape(mixed.shape)

    def _by_torch(self, mixed: Tensor) -> Tensor:
        """The core's butterflies, in its order: sums and differences at rising distances."""
        half = 1
        turned = mixed
        while half < self._block:
            pairs = turned.reshape(*mixed.shape[:-1], -1, 2, half)
            a, b = pairs[..., 0, :], pairs[..., 1, :]
            turned = torch.stack([a + b, a - b], dim=-2)
            half *= 2
        # A tensor rather than a number: the factor is rounded to float32, as the core's is.
        factor = torch.tensor(self._factor, dtype=torch.float32, device=mixed.device)
        return turned.reshape(mixed.shape) * factor
