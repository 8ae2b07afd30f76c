"""What is known of a layer's input: its rows by time group, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thermoq.optimization.extremes import variances_of_extremes
from thermoq.optimization.inputs import Floats, Inputs, Rows, evenly, has_distinct
from thermoq.optimization.row_fit import LEAST_DISTINCT_ROWS


class InputSample:
    """Rows of an input by time group, and what follows from them alone; layers may share it.

    `seen`: of how many rows each group's range is the extreme of.
    """

    def __init__(self, inputs: Sequence[Inputs], seen: Sequence[int]) -> None:
        cut = [rows.split() for rows in inputs]
        self.inputs, self.seen = inputs, seen
        self.fitted = [fitted for fitted, _ in cut]
        self.held_out = [held_out for _, held_out in cut]

    @property
    def says_something(self) -> bool:
        """Whether there are rows to fit to, and rows to choose by."""
        return any(map(len, self.fitted)) and any(map(len, self.held_out))

    @property
    def nbytes(self) -> int:
        """What the rows take, as they came and cut."""
        return sum(2 * (one.given.nbytes + one.full.nbytes) for one in self.inputs)

    @cached_property
    def distinct(self) -> NDArray[np.bool_]:
        """Whether 16 of the rows fitted to differ, [groups]."""
        enough = [has_distinct(rows.given, LEAST_DISTINCT_ROWS) for rows in self.fitted]
        return np.array(enough, np.bool_)

    @cached_property
    def distinct_together(self) -> bool:
        """Whether 16 of all groups' rows fitted to differ."""
        if self.distinct.any():
            return True
        every = np.concatenate([rows.given for rows in self.fitted])
        return has_distinct(every, LEAST_DISTINCT_ROWS)

    @cached_property
    def for_ranges(self) -> RangeRows:
        """What the quantized layer gets."""
        parts = (self.fitted, self.held_out)
        fitted, held_out = ([rows.given for rows in part] for part in parts)
        return RangeRows(fitted, held_out, self.seen)


class RangeRows:
    """Rows [n, in] of each time group's inputs; `seen` as in `InputSample`."""

    def __init__(
        self, fitted: Sequence[Rows], held_out: Sequence[Rows], seen: Sequence[int]
    ) -> None:
        self.fitted, self.held_out, self.seen = fitted, held_out, seen
        self._fewer: dict[int, RangeRows] = {}
        self._kept: dict[tuple[int, int], tuple[Floats, Floats]] = {}

    def evenly(self, most: int) -> RangeRows:
        """Return at most as many rows of each kind and group; made once."""
        if most not in self._fewer:
            parts = (self.fitted, self.held_out)
            fitted, held_out = ([evenly(rows, most) for rows in part] for part in parts)
            self._fewer[most] = RangeRows(fitted, held_out, self.seen)
        return self._fewer[most]

    def variances_of_extremes(self, bits: int, seed: int) -> tuple[Floats, Floats]:
        """Return `extremes.variances_of_extremes` of the rows fitted to; found once."""
        key = bits, seed
        if key not in self._kept:
            self._kept[key] = variances_of_extremes(self.fitted, bits, seed)
        return self._kept[key]
