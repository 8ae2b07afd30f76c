"""The time parameters of all layers of a model, evaluated at the timesteps of a forward pass.

All layers are evaluated together, once for each place on the schedule that comes up: a sampling
loop would otherwise spend its time on thousands of small operations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermoq.interpolation import TimeSchedule, piecewise
from thermoq.schedule import uniform_time_groups
from thermoq.time_parameters import RowParameters, TimeParameters, activation_at

_KEPT = 4  # evaluated places; a step of a sampler needs one

Place = tuple[int, float]
"""A group and the fraction of the way to the next, as `TimeSchedule.blend` gives them."""


@dataclass(frozen=True)
class LayerParameters:
    """What varies over the trajectory in one layer: its input's range, its rows; None for none."""

    activation: TimeParameters | None
    rows: RowParameters | None


@dataclass(frozen=True)
class Range:
    """`x~ = clip(rint(x / divisor), low, high) * scale`, with the zero point in the bounds.

    `scale` is a tensor [], the bounds are numbers; or all are tensors [n], a number a sample. Where
    the scale is 0 the divisor is 1.
    """

    scale: Tensor
    divisor: Tensor
    low: Any  # float | Tensor, which torch's own annotations do not take
    high: Any


@dataclass(frozen=True)
class LayerValues:
    """The parameters of a layer in a forward pass, in float32 on one device.

    `activation` are the numbers of its input's range. `gain` and `bias` are [out], or [n, out] with
    a row for each of `samples` = n samples. None for what the layer does not have.
    """

    samples: int
    activation: Range | None = None
    gain: Tensor | None = None
    bias: Tensor | None = None


class Moment:
    """The parameters of every layer at one place, or at one for each sample."""

    def __init__(self, table: ParameterTable, places: tuple[Place, ...]) -> None:
        self._table = table
        self._places = places
        self._on: dict[torch.device, list[LayerValues]] = {}

    def of(self, slot: int, device: torch.device) -> LayerValues:
        """Return the values of layer number `slot`, for inputs on `device`."""
        values = self._on.get(device)
        if values is None:
            values = self._on[device] = self._table.evaluate(self._places, device)
        return values[slot]


class ParameterTable:
    """The parameters of a model's layers, by their number, and the schedule that they follow."""

    def __init__(self, schedule: TimeSchedule, layers: Sequence[LayerParameters]) -> None:
        self._schedule = schedule
        self._set(layers)

    def _set(self, layers: Sequence[LayerParameters]) -> None:
        self._layers = tuple(layers)
        ranges = [layer.activation for layer in layers if layer.activation is not None]
        groups = len(self._schedule.groups)
        self._scale = _columns([one.scale for one in ranges], groups)
        self._zero_point = _columns([one.zero_point for one in ranges], groups)
        self._bits = np.array([one.activation_bits for one in ranges], np.int64)
        self._top = (2**self._bits - 1).astype(np.float32)
        self._grouped = [i for i, one in enumerate(layers) if one.rows and one.rows.num_groups > 1]
        self._rows: dict[torch.device, _Rows] = {}
        self._moments: dict[tuple[Place, ...], Moment] = {}

    def replace(self, changed: Mapping[int, LayerParameters]) -> None:
        """Give some layers, by their number, other parameters from the next pass on."""
        self._set([changed.get(slot, layer) for slot, layer in enumerate(self._layers)])

    @property
    def is_needed(self) -> bool:
        """Whether some layer has anything that varies."""
        return any(layer.activation or layer.rows for layer in self._layers)

    def at(self, timesteps: Sequence[float]) -> Moment:
        """Return the parameters at one timestep, or at one for each sample of a batch.

        Samples that are at the same place of the schedule are treated as one. Raises
        OutsideTrajectoryError outside [0, T).
        """
        groups, fractions = self._schedule.blends(timesteps)
        places = tuple(zip(groups.tolist(), fractions.tolist(), strict=True))
        if len(set(places)) == 1:
            places = places[:1]
        if len(places) > 1:  # large, and hardly ever the same again
            return Moment(self, places)
        moment = self._moments.pop(places, None) or Moment(self, places)
        self._moments[places] = moment  # the newest last
        while len(self._moments) > _KEPT:
            del self._moments[next(iter(self._moments))]
        return moment

    def static(self) -> Moment:
        """Return what a model without time has: one group's ranges, the middle one's, and no rows.

        It is the only moment of such a model; nothing in it is a gain, a bias or a blend.
        """
        middle = len(self._schedule.groups) // 2
        one = copy.copy(self)
        one._schedule = piecewise(uniform_time_groups(self._schedule.groups.num_timesteps, 1))
        one._set(
            [LayerParameters(_of_group(layer.activation, middle), None) for layer in self._layers]
        )
        return one.at([0.0])

    def forget(self) -> None:
        """Evaluate anew at the next pass, as at a timestep that was not visited before."""
        self._moments.clear()

    def evaluate(self, places: Sequence[Place], device: torch.device) -> list[LayerValues]:
        """Return the values of every layer, in their order."""
        distinct = list(dict.fromkeys(places))
        chosen = [distinct.index(place) for place in places]
        ranges = self._ranges(distinct, chosen, device)
        gains = self._gains(distinct, chosen, device)
        values = []
        for slot, layer in enumerate(self._layers):
            own = next(ranges) if layer.activation is not None else None
            values.append(LayerValues(len(places), own, *gains.get(slot, (None, None))))
        return values

    def _ranges(
        self, distinct: Sequence[Place], chosen: Sequence[int], device: torch.device
    ) -> Iterator[Range]:
        """Yield the range of each layer that has one."""
        found = [activation_at(self._scale, self._zero_point, self._bits, *one) for one in distinct]
        scale = np.stack([scale for scale, _ in found])[chosen]
        zero_point = np.stack([zero_point for _, zero_point in found])[chosen]
        divisor = np.where(scale > 0, scale, np.float32(1))
        low, high = -zero_point, self._top - zero_point
        scales, divisors = (torch.from_numpy(one).to(device) for one in (scale, divisor))
        if len(chosen) == 1:
            bounds = low[0].tolist(), high[0].tolist()
            return map(Range, scales[0].unbind(), divisors[0].unbind(), *bounds)
        lows, highs = (torch.from_numpy(one).to(device) for one in (low, high))
        return map(Range, *(one.unbind(1) for one in (scales, divisors, lows, highs)))

    def _gains(
        self, distinct: Sequence[Place], chosen: Sequence[int], device: torch.device
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Return gain and bias of each layer that has them, by its number."""
        if device not in self._rows:
            self._rows[device] = _Rows(self._layers, self._grouped, device)
        return self._rows[device].at(distinct, chosen)


class _Rows:
    """Row gains and biases on one device; those that vary lie side by side, [G, rows of all]."""

    def __init__(
        self, layers: Sequence[LayerParameters], grouped: Sequence[int], device: torch.device
    ) -> None:
        rows = {slot: layer.rows for slot, layer in enumerate(layers) if layer.rows is not None}
        self._pooled = {
            slot: (
                torch.from_numpy(one.gain[0]).to(device),
                torch.from_numpy(one.bias[0]).to(device),
            )
            for slot, one in rows.items()
            if slot not in set(grouped)
        }
        self._grouped = grouped
        self._sizes = [rows[slot].gain.shape[1] for slot in grouped]
        if grouped:
            gain = np.concatenate([rows[slot].gain for slot in grouped], axis=1)
            bias = np.concatenate([rows[slot].bias for slot in grouped], axis=1)
            self._gain, self._bias = (torch.from_numpy(one).to(device) for one in (gain, bias))

    def at(
        self, distinct: Sequence[Place], chosen: Sequence[int]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        if not self._grouped:
            return self._pooled
        parts = [
            torch.split(_chosen([_blended(all, one) for one in distinct], chosen), self._sizes, -1)
            for all in (self._gain, self._bias)
        ]
        return {**self._pooled, **dict(zip(self._grouped, zip(*parts, strict=True), strict=True))}


def _blended(values: Tensor, place: Place) -> Tensor:
    """`(1 - f) * values[g] + f * values[g + 1]` in float32, as `RowParameters.at` has it."""
    group, fraction = place
    if fraction == 0.0:
        return values[group]
    f = np.float32(fraction)
    rest = np.float32(1.0) - f
    following = min(group + 1, len(values) - 1)
    return values[group] * float(rest) + values[following] * float(f)


def _chosen(blended: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    if len(chosen) == 1:
        return blended[0]
    return torch.stack([blended[i] for i in chosen])


def _of_group(activation: TimeParameters | None, group: int) -> TimeParameters | None:
    if activation is None:
        return None
    scale, zero_point = (
        values[group : group + 1] for values in (activation.scale, activation.zero_point)
    )
    return replace(activation, scale=scale, zero_point=zero_point)


def _columns(values: Sequence[np.ndarray], groups: int) -> np.ndarray:
    """Return the layers' values [G] side by side, [G, layers], in float32."""
    if not values:
        return np.zeros((groups, 0), np.float32)
    return np.stack(values, axis=1).astype(np.float32)
