"""`hessian` with trellis codes: a column takes its best path, those behind make up for its error.

As in hessian.py, but for what a path asks for: it runs down the rows of a column, so the scales of
all rows are there before it starts. A group's scales come from its weights as they are when the
sweep reaches it. In the end all scales are fitted to the paths, by least squares in the metric of
the layer's inputs (figures: docs/weight-methods.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.blas_threads import blas_threads_for, product_for
from thermoq.hessian import DAMPING
from thermoq.inverse_gram import compensation, damping_of
from thermoq.matrices import MAX_MAGNITUDE
from thermoq.trellis import Parts, TrellisScheme, dequantize_trellis, first_scales

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BLOCK: Final = 256  # columns that get what all before them ask for in one matrix product
_SWEEP: Final = 64  # columns of one sweep in the core
_ROOM: Final = 1.07
"""What the scales have beyond those of weights at rest: weights grow as they make up for errors."""
_RIDGE: Final = 1e-9  # share of its mean diagonal that keeps the fit of a row's scales solvable


def quantize_trellis_hessian(
    weights: Floats,
    scheme: TrellisScheme,
    inputs: Floats,
    *,
    by_activation: bool = False,
    damping: float = DAMPING,
    threads: int = 0,
) -> Parts:
    """Quantize `weights` [rows, cols] for the `inputs` [N, cols] of their layer.

    Returns scale and codes by suffix. `by_activation` as for `quantize_hessian`.
    """
    with blas_threads_for(weights.size):
        return _Sweep(weights, scheme, inputs, by_activation, damping, threads).run()


@dataclass(frozen=True)
class _Block:
    """Columns [start, stop) of the sweep, all of one group; `ends`: where that one ends."""

    group: int
    start: int
    stop: int
    begins: bool
    ends: int


class _Sweep:
    """One matrix on its way to codes; columns in the order of the sweep unless said otherwise."""

    def __init__(
        self,
        weights: Floats,
        scheme: TrellisScheme,
        inputs: Floats,
        by_activation: bool,
        damping: float,
        threads: int,
    ) -> None:
        self._scheme = scheme
        self._threads = threads
        self._rows, self._cols = weights.shape
        self._product = product_for(weights.size)
        energy = np.einsum("ij,ij->j", inputs, inputs, dtype=np.float64)
        self._groups = _groups(scheme, self._cols, energy if by_activation else None)
        self._order = np.concatenate([np.empty(0, np.intp), *self._groups])
        self._source, self._inputs = weights, inputs
        self._weights = np.take(weights, self._order, axis=1)
        self._damping = damping_of(inputs, damping)
        self._codes = np.empty(scheme.codes_bytes(self._rows, self._cols), np.uint8)
        self._scale = np.zeros((self._rows, scheme.groups(self._cols)), np.float16)

    def run(self) -> Parts:
        blocks = list(_blocks(self._scheme, self._groups))
        columns = [slice(block.start, block.stop) for block in blocks]
        inputs = np.take(self._inputs, self._order, axis=1)
        others = compensation(inputs, self._damping, columns, self._rows)
        for number, (block, own) in enumerate(zip(blocks, columns, strict=True)):
            upper, change = others.before(number, self._weights[:, : block.start])
            if block.begins:
                self._scale[:, block.group] = self._first_scales(block, change)
            factor = upper.astype(np.float32)
            errors = self._round(block, self._weights[:, own] + change, factor)
            # From here on what rounding took from the weights is in their place.
            lost = self._product(errors, factor) - change
            self._weights[:, own] = lost
            others.after(number, lost)
        self._fit()
        return {"scale": self._scale, "codes": self._codes}

    def _first_scales(self, block: _Block, change: Floats) -> NDArray[np.float16]:
        """Return the scales of a group that begins: those of its weights, with room for change.

        What its later columns will change by is not known yet; they grow as the first ones do.
        """
        own = self._weights[:, block.start : block.stop]
        energy = float(np.square(own, dtype=np.float64).sum())
        grown = float(np.square(own + change, dtype=np.float64).sum())
        growth = max(1.0, grown / energy) ** 0.5 if energy else 1.0
        weights = np.float32(_ROOM * growth) * self._weights[:, block.start : block.ends]
        return first_scales(weights, self._scheme, self._threads)

    def _round(self, block: _Block, own: Floats, factor: Floats) -> Floats:
        """Find the codes of the columns `own` of a block; returns their scaled errors."""
        own, errors = np.ascontiguousarray(own), np.empty_like(own)
        scale = self._scale[:, block.group, None].astype(np.float32)
        for start in range(0, own.shape[1], _SWEEP):
            swept = slice(start, min(own.shape[1], start + _SWEEP))
            streams, errors[:, swept] = _core.sweep_trellis(
                np.ascontiguousarray(own[:, swept]),
                np.ascontiguousarray(factor[swept, swept]),
                scale,
                np.zeros(swept.stop - swept.start, np.int32),
                self._scheme.bit_width,
                self._scheme.window_bits,
                self._scheme.block_rows,
                self._scheme.table,
                self._threads,
            )
            self._keep(streams, self._order[block.start + swept.start : block.start + swept.stop])
            if swept.stop < own.shape[1]:
                behind = factor[swept, swept.stop :]
                own[:, swept.stop :] -= self._product(errors[:, swept], behind)
        return errors

    def _keep(self, streams: NDArray[np.uint8], columns: NDArray[np.intp]) -> None:
        """Put the streams of some columns where they are stored."""
        read = written = 0
        for first in range(0, self._rows, self._scheme.block_rows):
            size = self._scheme.stream_bytes(min(self._scheme.block_rows, self._rows - first))
            block = self._codes[written : written + self._cols * size].reshape(self._cols, size)
            block[columns] = streams[read : read + len(columns) * size].reshape(-1, size)
            read, written = read + len(columns) * size, written + block.size

    def _fit(self) -> None:
        """Fit the scales to the paths: a row's have the least squared error of its output."""
        ones: Parts = {"scale": np.ones_like(self._scale), "codes": self._codes}
        shape, (rows, groups) = (self._rows, self._cols), self._scale.shape
        decoded = dequantize_trellis(ones, self._scheme, *shape, threads=self._threads)
        values = decoded.view(np.float32).reshape(shape)
        ridge = self._damping * max(1, len(self._inputs))
        wanted = self._product(self._source, self._inputs.T)
        outputs = np.empty((groups, *wanted.shape), np.float32)
        gram, along = np.empty((rows, groups, groups)), np.empty((rows, groups))
        for group in range(groups):
            own = slice(group * self._scheme.group_size, (group + 1) * self._scheme.group_size)
            outputs[group] = self._product(values[:, own], self._inputs[:, own].T)
            along[:, group] = _products(outputs[group], wanted)
            along[:, group] += ridge * _products(values[:, own], self._source[:, own])
            for other in range(group + 1):
                gram[:, group, other] = _products(outputs[group], outputs[other])
                gram[:, other, group] = gram[:, group, other]
            gram[:, group, group] += ridge * _products(values[:, own], values[:, own])
        diagonal = np.einsum("rgg->rg", gram)
        diagonal += _RIDGE * (diagonal.mean(axis=1, keepdims=True) + np.finfo(np.float64).tiny)
        fitted = np.linalg.solve(gram, along[..., None])[..., 0] if groups else along
        self._scale[:] = np.clip(fitted, 0.0, MAX_MAGNITUDE)


def _products(a: Floats, b: Floats) -> Doubles:
    """Return the inner products of the rows."""
    products: Doubles = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return products


def _groups(scheme: TrellisScheme, cols: int, energy: Doubles | None) -> list[NDArray[np.intp]]:
    """Return the columns of each group in the order of the sweep; by `energy` [cols], if given."""
    size = scheme.group_size
    groups = [np.arange(first, min(cols, first + size)) for first in range(0, cols, size)]
    if energy is not None:
        groups = [columns[np.argsort(-energy[columns], kind="stable")] for columns in groups]
        groups.sort(key=lambda columns: -float(energy[columns].mean()))
    return groups


def _blocks(scheme: TrellisScheme, groups: list[NDArray[np.intp]]) -> Iterator[_Block]:
    """Cut the groups, one behind the other, into blocks."""
    first = 0
    for columns in groups:
        ends = first + len(columns)
        group = int(columns[0]) // scheme.group_size
        for start in range(first, ends, _BLOCK):
            yield _Block(group, start, min(ends, start + _BLOCK), start == first, ends)
        first = ends
