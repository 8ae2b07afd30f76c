"""Axes and colour steps of the charts: where a value goes, in percent of the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis; minor ones go first where there is little room."""

    percent: float
    label: str
    minor: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values from `first` to `last` (in either direction) to 0 to 100 percent."""

    first: float
    last: float
    kind: Literal["linear", "log"] = "linear"

    def percent(self, value: float) -> float:
        """The position of `value`, clipped to the ends of the axis."""
        start, end = self._place(self.first), self._place(self.last)
        if start == end:
            return 0.0
        share = (self._place(value) - start) / (end - start)
        return round(100 * min(1.0, max(0.0, share)), 3)

    def _place(self, value: float) -> float:
        if self.kind == "linear":
            return value
        return math.log(value) if value > 0 else -math.inf


def even_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high]."""
    if not low < high:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def ratio_steps(low: float, high: float) -> list[float]:
    """Labels of a logarithmic axis: powers of two, every n-th if many; round numbers if few."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    stride = max(1, math.ceil((last - first) / 8))
    powers = [2.0**power for power in range(first, last + 1) if power % stride == 0]
    return powers if len(powers) >= 3 else [step for step in even_steps(low, high) if step > 0]


def decade_axis(values: Sequence[float]) -> tuple[Axis, list[float]]:
    """A logarithmic axis of whole decades around the positive `values`, and its decades."""
    positive = [value for value in values if value > 0] or [1e-3]
    first = math.floor(math.log10(min(positive)))
    last = max(first + 1, math.ceil(math.log10(max(positive))))
    decades = [10.0**power for power in range(first, last + 1)]
    return Axis(decades[0], decades[-1], "log"), decades


@dataclass(frozen=True)
class HeatScale:
    """Colour steps of a jump in [0, 1]: step 0 is no jump, up to 4 stay within the threshold.

    The page's style sheet turns step n into the colour `.h<n>`; steps get darker (on dark paper:
    lighter) one by one, and change hue above the threshold.
    """

    within: tuple[float, ...]
    above: tuple[float, ...]

    def step(self, jump: float) -> int:
        """The colour step of `jump`."""
        if jump <= 0:
            return 0
        for index, limit in enumerate(self.within):
            if jump <= limit:
                return 1 + index
        for index, limit in enumerate(self.above):
            if jump <= limit:
                return 5 + index
        return 4 + max(1, len(self.above))

    def legend(self) -> list[tuple[int, str]]:
        """Each colour step with its range, from no jump upwards."""
        entries = [(0, "0")]
        low = 0.0
        for first, limits in ((1, self.within), (5, self.above)):
            for index, limit in enumerate(limits):
                entries.append((first + index, f"{_short(low)} to {_short(limit)}"))
                low = limit
        return entries


def heat_scale(threshold: float) -> HeatScale:
    """Four even steps up to `threshold`, then up to 0.5 (critical), 0.75 and 1."""
    within = tuple(threshold * part / 4 for part in (1, 2, 3, 4)) if threshold > 0 else ()
    if threshold >= 1:
        return HeatScale(within, ())
    even = (1 - threshold) / 3
    middle = (0.5, 0.75) if threshold < 0.5 else (threshold + even, threshold + 2 * even)
    return HeatScale(within, (*middle, 1.0))


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"
