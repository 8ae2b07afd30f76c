"""`hessian`: error-compensated rounding, column after column (GPTQ: Frantar et al. 2210.17323).

Rounding a column costs more than its own error: what the layer's output loses can be made up for by
the columns that are not rounded yet. By how much follows from the Gram matrix of the layer's inputs
(inverse_gram.py). A group, or a super-block of coded ones, gets its parameters by `lsq` when the
sweep reaches it, with the weights as they then are and 1 / U[j, j]^2, what an error in column j
costs, as importances. Other grids are tried beside it (grids.py), and each row keeps the one by
which rounding the unit costs it least.

The sweep itself is in the core; updates of the columns behind are matrix products in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.bit_streams import pack
from thermoq.blas_threads import blas_threads_for, product_for
from thermoq.grids import CODES, PAIR, Grid, grid_of
from thermoq.inverse_gram import compensation, damping_of
from thermoq.weights import Matrix, QuantizedMatrix, Scheme, quantize

DAMPING: Final = 0.01
"""Share of the mean squared input that is added to the Gram matrix's diagonal."""

_BLOCK: Final = 128  # columns that get what all before them ask for in one matrix product
_SWEEP: Final = 128  # columns of one sweep in the core
_REFITS: Final = 2  # of a unit's parameters to the codes that they gave

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
    with blas_threads_for(weights.size):
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
        self._by_activation = by_activation
        self._threads = threads
        self._rows, self._cols = weights.shape
        self._product = product_for(weights.size)
        energy = None
        if by_activation:
            energy = np.einsum("ij,ij->j", inputs, inputs, dtype=np.float64)
        self._units = list(_units(scheme, self._cols, energy))
        order = np.concatenate([unit.columns for unit in self._units])
        self._weights = np.take(weights, order, axis=1) if by_activation else weights.copy()
        self._inputs = np.take(inputs, order, axis=1) if by_activation else inputs
        self._damping = damping_of(inputs, damping)
        self._codes = np.empty(weights.shape, np.uint8)
        self._found = _Parameters.empty(scheme, self._rows, self._cols)

    def run(self) -> QuantizedMatrix:
        blocks = list(_blocks(self._units))
        columns = [slice(units[0].first, units[-1].last) for units in blocks]
        others = compensation(self._inputs, self._damping, columns, self._rows)
        for number, (units, block) in enumerate(zip(blocks, columns, strict=True)):
            upper, change = others.before(number, self._weights[:, : block.start])
            errors = self._block(units, block, self._weights[:, block] + change, upper)
            # From here on what rounding took from the weights is in their place.
            lost = self._product(errors, upper.astype(np.float32)) - change
            self._weights[:, block] = lost
            others.after(number, lost)
        parts = self._found.parts(self._scheme)
        if self._scheme.encoding == "q8":
            parts["codes"] = self._codes.view(np.int8)
        else:
            parts["codes"] = _core.pack_codes(
                self._codes, self._rows, self._cols, self._scheme.bit_width, self._threads
            )
        return QuantizedMatrix(self._scheme, self._rows, self._cols, parts)

    def _block(
        self, units: list[_Unit], block: slice, own: Floats, factor: NDArray[np.float64]
    ) -> Floats:
        """Round a block's columns `own`; returns their scaled errors, of the same shape."""
        errors = np.empty_like(own)
        upper = factor.astype(np.float32)
        for unit in units:
            part = slice(unit.first - block.start, unit.last - block.start)
            best = self._best(unit, np.ascontiguousarray(own[:, part]), factor[part, part])
            self._found.keep(self._scheme, unit, best.grid)
            self._codes[:, unit.columns] = best.codes
            errors[:, part] = best.errors
            if part.stop < own.shape[1]:
                own[:, part.stop :] -= self._product(best.errors, upper[part, part.stop :])
        return errors

    def _best(self, unit: _Unit, weights: Floats, factor: NDArray[np.float64]) -> _Trial:
        """Round a unit's weights by several grids; each row keeps the one that costs it least."""
        upper = factor.astype(np.float32)
        costs = (1.0 / np.square(np.diag(factor))).astype(np.float32)
        best = self._trial(unit, weights, upper, self._fit(unit, weights, "lsq", costs))
        if self._scheme.encoding == "affine":
            grid = self._fit(unit, weights, "minmax", None)
            best = best.better(self._trial(unit, weights, upper, grid))
        if self._by_activation and self._scheme.encoding != "q8":
            # As good a start where columns are alike; without that it tempts outliers' groups.
            grid = self._fit(unit, weights, "lsq", None)
            best = best.better(self._trial(unit, weights, upper, grid))
        if self._scheme.encoding == "q8":  # nothing to gain: all but exact as it is
            return best
        inverse = np.linalg.inv(factor).astype(np.float32)
        groups = unit.groups(self._scheme, unit.columns)
        for _ in range(_REFITS):
            codes = best.codes.astype(np.float32)
            grid = best.grid.refitted(codes, best.errors, inverse, groups, self._product)
            best = best.better(self._trial(unit, weights, upper, grid))
        return best

    def _trial(self, unit: _Unit, weights: Floats, upper: Floats, grid: Grid) -> _Trial:
        """Round a unit's weights by a grid, column after column."""
        own = weights
        codes, errors = np.empty(own.shape, np.uint8), np.empty_like(own)
        scale, minimum = grid.scale, grid.minimum
        for start in range(0, own.shape[1], _SWEEP):
            swept = slice(start, min(own.shape[1], start + _SWEEP))
            codes[:, swept], errors[:, swept] = _core.sweep(
                np.ascontiguousarray(own[:, swept]),
                np.ascontiguousarray(upper[swept, swept]),
                scale,
                minimum,
                unit.groups(self._scheme, unit.columns[swept]),
                *_code_range(self._scheme),
                self._threads,
            )
            if swept.stop < own.shape[1]:
                change = self._product(errors[:, swept], upper[swept, swept.stop :])
                behind = own[:, swept.stop :] - change
                own = np.concatenate([own[:, : swept.stop], behind], axis=1)
        return _Trial(grid, codes, errors, np.einsum("ij,ij->i", errors, errors))

    def _fit(
        self,
        unit: _Unit,
        weights: Floats,
        method: Literal["minmax", "lsq"],
        importances: Floats | None,
    ) -> Grid:
        """Find the parameters of a unit's groups for its weights as they are."""
        values = np.ascontiguousarray(weights)
        if (np.diff(unit.columns) < 0).any():  # back to the order in which they are stored
            stored = np.argsort(unit.columns)
            values = np.take(weights, stored, axis=1)
            importances = None if importances is None else importances[stored]
        matrix = Matrix(values.reshape(-1).view(np.uint8), "F32", *values.shape)
        fitted, _ = quantize(
            matrix, self._scheme, method=method, importances=importances, threads=self._threads
        )
        return grid_of(fitted)


@dataclass(frozen=True)
class _Trial:
    """A unit rounded by a grid: codes and scaled errors [rows, columns], and their cost [rows].

    The cost is what the unit adds to the layer's, all that follows being free to make up for it.
    """

    grid: Grid
    codes: NDArray[np.uint8]
    errors: Floats
    cost: Floats

    def better(self, other: _Trial) -> _Trial:
        """Return the better of two, row by row; this one is used up."""
        chosen = other.cost < self.cost
        if not chosen.any():
            return self
        self.codes[chosen] = other.codes[chosen]
        self.errors[chosen] = other.errors[chosen]
        cost = np.minimum(self.cost, other.cost)
        return _Trial(self.grid.where(other.grid, chosen), self.codes, self.errors, cost)


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

    def groups(self, scheme: Scheme, columns: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return the groups of some of the columns, counted from the unit's first."""
        return (columns // scheme.group_size - self.first_group).astype(np.int32)


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
        halves = {name: np.empty((rows, supers), np.float16) for name in PAIR}
        codes = {name: np.empty((rows, groups), np.uint8) for name in CODES}
        return cls({**halves, **codes})

    def keep(self, scheme: Scheme, unit: _Unit, grid: Grid) -> None:
        """Take over the parameters of a unit."""
        pair = (grid.first[:, 0], grid.second[:, 0])
        if scheme.encoding != "coded":
            for name, values in zip(("scale", "minimum"), pair, strict=True):
                if name in self.arrays:
                    self.arrays[name][:, unit.first_group] = values
            return
        for name, values in zip(PAIR, pair, strict=True):
            self.arrays[name][:, unit.first_super_block] = values
        where = slice(unit.first_group, unit.first_group + grid.scale_codes.shape[1])
        self.arrays["scale_codes"][:, where] = grid.scale_codes
        self.arrays["minimum_codes"][:, where] = 0 - grid.minimum_codes

    def parts(self, scheme: Scheme) -> dict[str, NDArray[np.generic]]:
        if scheme.encoding != "coded":
            return dict(self.arrays)
        packed = {
            name: pack(self.arrays[name].view(np.uint8), bits)
            for name, bits in zip(CODES, (scheme.scale_bits, scheme.minimum_bits), strict=True)
        }
        return {**self.arrays, **packed}
