"""Hooks that watch what the layers of a running model get, and count it by fine time bin.

Layers that always get the same values share one entry: the query, key and value projections of an
attention, or the modulations of all blocks. Two inputs are the same if their bytes are, in every
forward pass; a layer whose input turns out to differ in a later pass gets an entry of its own, with
what was counted until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn

from thermoq.calibration.patches import InputRows, input_rows
from thermoq.calibration.statistics import InputStatistics
from thermoq.errors import InputError

NewStatistics = Callable[[str, int], InputStatistics]
"""Makes the accumulator of an input, from its name and its number of columns."""


@dataclass
class _Input:
    """An input and the layers that get it. `watched` is the one of them that it was first seen at.

    Within a forward pass: the layers that have been `called`, and what they got, which is counted
    once all of them have been.
    """

    watched: str
    statistics: InputStatistics
    layers: list[str]
    called: set[str] = field(default_factory=set)
    waiting: tuple[bytes, Tensor] | None = None


class Collector:
    """Watches the layers of a model while somebody else runs it.

    `layers` tells the module path of each weight tensor; `new_statistics` makes an accumulator.
    Layers that multiply nothing (tables) and those that the model lacks are left out, and
    `unreached` names them. Use as a context manager: the hooks are removed at its end.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, str], new_statistics: NewStatistics
    ) -> None:
        self._new_statistics = new_statistics
        self._layers = tuple(layers)
        self._rows: dict[str, InputRows] = {}
        self._input_of: dict[str, _Input] = {}
        self._born: dict[bytes, _Input] = {}  # in this pass, with nothing but this one input
        self._bins: tuple[int, ...] = ()
        self._timesteps: tuple[float, ...] = ()
        self._handles = []
        modules = dict(model.named_modules(remove_duplicate=False))
        for layer, path in layers.items():
            module = modules.get(path)
            rows = input_rows(module) if module is not None else None
            if module is not None and rows is not None:
                self._rows[layer] = rows
                hook = self._hook(layer)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    # A forward pass.

    @contextmanager
    def at(self, bins: int | Sequence[int], timesteps: float | Sequence[float]) -> Iterator[None]:
        """Count one forward pass, made inside the block, in a bin, or a bin for each sample.

        `timesteps` are for messages. Raises InputError for NaN and infinities, named by layer and
        timestep; outside such a block nothing is counted.
        """
        self.begin(bins, timesteps)
        yield
        self.end()

    def begin(self, bins: int | Sequence[int], timesteps: float | Sequence[float]) -> None:
        """Begin a forward pass, as `at` does."""
        self._bins = (bins,) if isinstance(bins, int) else tuple(bins)
        if isinstance(timesteps, (int, float)):
            self._timesteps = (timesteps,) * len(self._bins)
        else:
            self._timesteps = tuple(timesteps)
        if len(set(self._bins)) == 1:
            self._bins, self._timesteps = self._bins[:1], self._timesteps[:1]

    def end(self) -> None:
        """Count what is waiting for layers that were not called; those part from the others."""
        for entry in _distinct(self._input_of.values()):
            if entry.waiting is not None:
                left_out = [layer for layer in entry.layers if layer not in entry.called]
                self._part(entry, left_out)
                self._count(entry)
            entry.called.clear()
        self._born.clear()
        self._bins = self._timesteps = ()

    # What was found.

    @property
    def inputs(self) -> dict[str, InputStatistics]:
        """What was counted, by input; an input is named after one of its layers."""
        entries = _distinct(self._input_of.values())
        return {entry.layers[0]: entry.statistics for entry in entries}

    @property
    def layer_inputs(self) -> dict[str, str]:
        """The input of each layer that was reached."""
        reached = (layer for layer in self._layers if layer in self._input_of)
        return {layer: self._input_of[layer].layers[0] for layer in reached}

    @property
    def unreached(self) -> tuple[str, ...]:
        """The layers that no forward pass came to."""
        return tuple(layer for layer in self._layers if layer not in self._input_of)

    # State, so that an interrupted run can go on.

    def state(self) -> tuple[list[dict[str, Any]], list[dict[str, NDArray[Any]]]]:
        """Return what `restore` needs, between two passes: of each input its layers and arrays."""
        entries = _distinct(self._input_of.values())
        described = [
            {
                "watched": entry.watched,
                "layers": entry.layers,
                "columns": entry.statistics.num_columns,
            }
            for entry in entries
        ]
        return described, [entry.statistics.state() for entry in entries]

    def restore(
        self, described: Sequence[Mapping[str, Any]], arrays: Sequence[dict[str, NDArray[Any]]]
    ) -> None:
        """Go on from a `state`. Raises ValueError if it is not one of this model and settings."""
        self._input_of.clear()
        for one, state in zip(described, arrays, strict=True):
            if not all(layer in self._rows for layer in one["layers"]):
                raise ValueError("other layers")
            statistics = self._new_statistics(one["watched"], one["columns"])
            statistics.restore(state)
            entry = _Input(one["watched"], statistics, list(one["layers"]))
            self._input_of.update(dict.fromkeys(entry.layers, entry))

    # Hooks.

    def _hook(self, layer: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._bins:
                values = args[0] if args else kwargs["input"]
                self._see(layer, values.detach())

        return see

    def _see(self, layer: str, values: Tensor) -> None:
        entry = self._input_of.get(layer)
        if entry is None:
            self._see_first(layer, values)
        elif layer in entry.called:  # a module that the model calls twice in a pass
            self._see_again(entry, layer, values)
        elif len(entry.layers) == 1:
            entry.called.add(layer)
            self._add(entry, values)
        else:
            self._see_shared(entry, layer, values)

    def _see_shared(self, entry: _Input, layer: str, values: Tensor) -> None:
        digest = _digest(self._rows[layer], values)
        if entry.waiting is None:  # a copy: the model may change its own before the others come
            entry.waiting = (digest, values.clone())
            entry.called.add(layer)
        elif entry.waiting[0] == digest:
            entry.called.add(layer)
        else:
            other = self._part(entry, [layer])
            other.called.add(layer)
            self._add(other, values)
        if len(entry.called) == len(entry.layers):
            self._count(entry)

    def _see_first(self, layer: str, values: Tensor) -> None:
        digest = _digest(self._rows[layer], values)
        entry = self._born.get(digest)
        if entry is None:
            statistics = self._new_statistics(layer, self._rows[layer].num_columns)
            entry = self._born[digest] = _Input(layer, statistics, [])
            entry.layers.append(layer)
            self._add(entry, values)
        else:
            entry.layers.append(layer)
        entry.called.add(layer)
        self._input_of[layer] = entry

    def _see_again(self, entry: _Input, layer: str, values: Tensor) -> None:
        if len(entry.layers) > 1:
            waiting = entry.waiting
            entry = self._part(entry, [layer])
            entry.called.add(layer)
            if waiting is not None:
                self._add(entry, waiting[1])
        self._born = {key: one for key, one in self._born.items() if one is not entry}
        self._add(entry, values)

    def _part(self, entry: _Input, layers: Sequence[str]) -> _Input:
        """Give `layers` of `entry` an entry of their own, with what has been counted so far."""
        if not layers:
            return entry
        statistics = self._new_statistics(entry.watched, entry.statistics.num_columns)
        statistics.restore(entry.statistics.state())
        other = _Input(entry.watched, statistics, list(layers))
        entry.layers = [layer for layer in entry.layers if layer not in layers]
        entry.called -= set(layers)
        self._input_of.update(dict.fromkeys(layers, other))
        return other

    def _count(self, entry: _Input) -> None:
        assert entry.waiting is not None
        values, entry.waiting = entry.waiting[1], None
        self._add(entry, values)

    def _add(self, entry: _Input, values: Tensor) -> None:
        layer = entry.layers[0]
        for bin, timestep, part in self._by_bin(layer, values):
            for chunk in self._rows[layer].chunks(part):
                rows = chunk.to("cpu", torch.float32).numpy()
                try:
                    entry.statistics.add(bin, rows)
                except InputError as error:
                    raise InputError(
                        f"layer {layer} at timestep {timestep:g}: {error}; the model itself gives "
                        "such values when it samples"
                    ) from None

    def _by_bin(self, layer: str, values: Tensor) -> Iterator[tuple[int, float, Tensor]]:
        """Yield bin, timestep and the samples of `values` [samples * m, ...] that belong there."""
        if len(self._bins) == 1:
            yield self._bins[0], self._timesteps[0], values
            return
        each, rest = divmod(values.shape[0], len(self._bins))
        if rest or not each:
            raise InputError(
                f"layer {layer}: expected a multiple of {len(self._bins)} samples, each with its "
                f"own timestep, got an input of shape {tuple(values.shape)}"
            )
        of_row = np.repeat(np.arange(len(self._bins)), each)
        for bin in sorted(set(self._bins)):
            samples = [i for i, its in enumerate(self._bins) if its == bin]
            chosen = np.flatnonzero(np.isin(of_row, samples))
            yield bin, self._timesteps[samples[0]], values[torch.from_numpy(chosen)]


def _distinct(entries: Any) -> list[_Input]:
    return list({id(entry): entry for entry in entries}.values())


def _digest(rows: InputRows, values: Tensor) -> bytes:
    """Return what tells inputs apart: shape, dtype, bytes, and how they become rows."""
    content = xxhash.xxh3_128(repr((rows.settings, tuple(values.shape), values.dtype)).encode())
    if values.numel():
        content.update(values.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return content.digest()
