"""`hessian`: error-compensated rounding, column after column (GPTQ: Frantar et al. 2210.17323).

Rounding a column costs more than its own error: what the layer's output loses can be made up for by
the columns that are not rounded yet. By how much follows from the Gram matrix of the layer's inputs
(inverse_gram.py). A group, or a super-block of coded ones, gets its parameters by `lsq` when the
sweep reaches it, with the weights as they then are and 1 / U[j, j]^2, what an error in column j
costs, as importances.

The sweep itself is in the core; updates of the columns behind are matrix products in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.bit_streams import pack, unpack
from thermoq.inverse_gram import damping_of, factors
from thermoq.weights import Matrix, QuantizedMatrix, Scheme, quantize

DAMPING: Final = 0.01
"""Share of the mean squared input that is added to the Gram matrix's diagonal."""

_BLOCK: Final = 512  # columns whose effect on those behind is one matrix product
_SWEEP: Final = 128  # columns of one sweep in the core

Floats = NDArray[np.float32]


def quantize_hessian(
    weights: Floats,
    scheme: Scheme,
    inputs: Floats,
    *,
    by_activation: bool = False,
    damping: float = DAMPING,
    threads: int = 0,
) -> QuantizedMatrix:
    """Quantize `weights` [rows, cols] for the `inputs` [N, cols] of their layer.

    `by_activation` takes groups, and columns within them, from large inputs to small. It pays
    where inputs are alike, after a rotation, and costs where they are not: outliers then have
    groups to themselves (docs/weight-methods.md).
    """
    return _Sweep(weights, scheme, inputs, by_activation, damping, threads).run()


class _Sweep:
    """One matrix on its way to codes; columns in the order of the sweep unless said otherwise."""

    def __init__(
        self,
        weights: Floats,
        scheme: Scheme,
        inputs: Floats,
        by_activation: bool,
        damping: float,
        threads: int,
    ) -> None:
        self._scheme = scheme
        self._threads = threads
        self._rows, self._cols = weights.shape
        energy = np.einsum("ij,ij->j", inputs, inputs, dtype=np.float64)
        self._units = list(_units(scheme, self._cols, energy if by_activation else None))
        order = np.concatenate([unit.columns for unit in self._units])
        self._weights = np.ascontiguousarray(weights[:, order], np.float32)
        self._inputs = np.ascontiguousarray(inputs[:, order])
        self._damping = damping_of(inputs, damping)
        self._codes = np.empty(weights.shape, np.uint8)
        self._found = _Parameters.empty(scheme, self._rows, self._cols)

    def run(self) -> QuantizedMatrix:
        blocks = list(_blocks(self._units))
        columns = [slice(units[0].first, units[-1].last) for units in blocks]
        for units, block, (own, behind) in zip(
            blocks, columns, factors(self._inputs, self._damping, columns), strict=True
        ):
            errors = self._block(units, block, own)
            if behind.shape[1]:
                self._weights[:, block.stop :] -= errors @ behind
        parts = self._found.parts(self._scheme)
        if self._scheme.encoding == "q8":
            parts["codes"] = self._codes.view(np.int8)
        else:
            parts["codes"] = _core.pack_codes(
                self._codes, self._rows, self._cols, self._scheme.bit_width, self._threads
            )
        return QuantizedMatrix(self._scheme, self._rows, self._cols, parts)

    def _block(self, units: list[_Unit], block: slice, factor: NDArray[np.float64]) -> Floats:
        """Round a block's columns; returns their scaled errors [rows, columns of the block]."""
        own = np.ascontiguousarray(self._weights[:, block])
        errors = np.empty_like(own)
        upper = factor.astype(np.float32)
        costs = (1.0 / np.square(np.diag(factor))).astype(np.float32)
        for unit in units:
            first, last = unit.first - block.start, unit.last - block.start
            scale, minimum = self._fit(unit, own[:, first:last], costs[first:last])
            for start in range(first, last, _SWEEP):
                stop = min(last, start + _SWEEP)
                swept = unit.columns[start - first : stop - first]
                codes, lost = _core.sweep(
                    np.ascontiguousarray(own[:, start:stop]),
                    np.ascontiguousarray(upper[start:stop, start:stop]),
                    scale,
                    minimum,
                    (swept // self._scheme.group_size - unit.first_group).astype(np.int32),
                    *_code_range(self._scheme),
                    self._threads,
                )
                self._codes[:, swept] = codes
                errors[:, start:stop] = lost
                if stop < own.shape[1]:
                    own[:, stop:] -= lost @ upper[start:stop, stop:]
        return errors

    def _fit(self, unit: _Unit, weights: Floats, costs: Floats) -> tuple[Floats, Floats]:
        """Find the parameters of a unit's groups; returns scale and minimum [rows, groups]."""
        stored = np.argsort(unit.columns)  # back to the order in which they are stored
        values = np.ascontiguousarray(weights[:, stored])
        matrix = Matrix(values.reshape(-1).view(np.uint8), "F32", *values.shape)
        importances = np.ascontiguousarray(costs[stored])
        fitted, _ = quantize(
            matrix, self._scheme, method="lsq", importances=importances, threads=self._threads
        )
        return self._found.keep(self._scheme, unit, fitted)


@dataclass(frozen=True)
class _Unit:
    """Columns whose parameters are found together, and where they lie in the sweep."""

    columns: NDArray[np.intp]  # of the matrix, in the order of the sweep
    first: int
    first_group: int
    first_super_block: int

    @property
    def last(self) -> int:
        return self.first + len(self.columns)


def _units(scheme: Scheme, cols: int, energy: NDArray[np.float64] | None) -> Iterator[_Unit]:
    """Cut the columns into units; with `energy` [cols], the largest come first."""
    size = scheme.super_block if scheme.encoding == "coded" else scheme.group_size
    units = [np.arange(first, min(cols, first + size)) for first in range(0, cols, size)]
    if energy is not None:
        units = [columns[np.argsort(-energy[columns], kind="stable")] for columns in units]
        units.sort(key=lambda columns: -float(energy[columns].mean()))
    position = 0
    for columns in units:
        lowest = int(columns.min())
        yield _Unit(columns, position, lowest // scheme.group_size, lowest // size)
        position += len(columns)


def _blocks(units: list[_Unit]) -> Iterator[list[_Unit]]:
    block: list[_Unit] = []
    for unit in units:
        block.append(unit)
        if unit.last - block[0].first >= _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _code_range(scheme: Scheme) -> tuple[int, int]:
    return (-127, 127) if scheme.encoding == "q8" else (0, 2**scheme.bit_width - 1)


@dataclass(frozen=True)
class _Parameters:
    """The group parameters found so far, as they will be stored but for packing, by suffix."""

    arrays: dict[str, NDArray[np.generic]]

    @classmethod
    def empty(cls, scheme: Scheme, rows: int, cols: int) -> _Parameters:
        groups = -(-cols // scheme.group_size)
        if scheme.encoding == "q8":
            return cls({"scale": np.empty((rows, groups), np.float16)})
        if scheme.encoding == "affine":
            names = ("scale", "minimum")
            return cls({name: np.empty((rows, groups), np.float16) for name in names})
        supers = -(-cols // scheme.super_block)
        halves = {name: np.empty((rows, supers), np.float16) for name in _PAIR}
        codes = {name: np.empty((rows, groups), np.uint8) for name in _PARAMETER_CODES}
        return cls({**halves, **codes})

    def keep(self, scheme: Scheme, unit: _Unit, fitted: QuantizedMatrix) -> tuple[Floats, Floats]:
        """Take over the parameters of a unit; returns them decoded, [rows, groups of the unit]."""
        parts = fitted.parts
        groups = -(-len(unit.columns) // scheme.group_size)
        where = slice(unit.first_group, unit.first_group + groups)
        if scheme.encoding != "coded":
            self.arrays["scale"][:, where] = parts["scale"]
            scale = parts["scale"].astype(np.float32)
            if scheme.encoding == "q8":
                return scale, np.zeros_like(scale)
            self.arrays["minimum"][:, where] = parts["minimum"]
            return scale, parts["minimum"].astype(np.float32)
        decoded = []
        for pair, name, bits in zip(
            _PAIR, _PARAMETER_CODES, (scheme.scale_bits, scheme.minimum_bits), strict=True
        ):
            codes = unpack(parts[name].view(np.uint8), bits, groups)
            self.arrays[pair][:, unit.first_super_block] = parts[pair][:, 0]
            self.arrays[name][:, where] = codes
            decoded.append(parts[pair].astype(np.float32) * codes.astype(np.float32))
        return decoded[0], 0 - decoded[1]

    def parts(self, scheme: Scheme) -> dict[str, NDArray[np.generic]]:
        if scheme.encoding != "coded":
            return dict(self.arrays)
        packed = {
            name: pack(self.arrays[name].view(np.uint8), bits)
            for name, bits in zip(
                _PARAMETER_CODES, (scheme.scale_bits, scheme.minimum_bits), strict=True
            )
        }
        return {**self.arrays, **packed}


_PAIR = ("super_scale", "super_minimum")
_PARAMETER_CODES = ("scale_codes", "minimum_codes")
