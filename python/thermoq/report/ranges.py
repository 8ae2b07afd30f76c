"""The inputs' ranges over the trajectory as a calibration measured them: a strip for each layer."""

from __future__ import annotations

from dataclasses import dataclass

from thermoq.report.model import LayerRow, Report
from thermoq.report.order import labels_of, network_order
from thermoq.report.scales import Axis
from thermoq.report.trajectory import PATH_UNITS

_MOST_NUMBERS = 30_000
"""Above so many layers times bins the numbers are left to the JSON report."""


@dataclass(frozen=True)
class RangeStrip:
    """One layer: the area between its smallest and largest input, over the fine bins.

    `path` and `zero` lie in a square of PATH_UNITS that spans the layer's own range; `low` and
    `high` [bins] are the numbers. `change` is its narrowest bin's width over its widest's.
    """

    layer: LayerRow
    name: str
    path: str
    zero: int
    low: list[float]
    high: list[float]
    change: float


@dataclass(frozen=True)
class RangeChart:
    """The strips in network order; `edges` are where time groups begin, in percent from noise."""

    strips: list[RangeStrip]
    edges: list[float]
    bin_starts: list[float]
    with_numbers: bool


def range_chart(report: Report) -> RangeChart | None:
    """The measured ranges of all layers that have some; None without a calibration."""
    thermodynamics, calibration = report.thermodynamics, report.calibration
    if thermodynamics is None or calibration is None:
        return None
    time_axis = Axis(max(1, thermodynamics.num_timesteps - 1), 0)
    starts = calibration.bin_starts
    places = [0.0, *(time_axis.percent(start) for start in starts[1:]), 100.0]
    rows = network_order(report.layers)
    names = labels_of(rows)
    strips = [strip for row in rows if (strip := _strip(row, names[id(row)], places)) is not None]
    if not strips:
        return None
    return RangeChart(
        strips=strips,
        edges=[time_axis.percent(row.start_timestep) for row in thermodynamics.time_groups[1:]],
        bin_starts=starts,
        with_numbers=len(strips) * len(starts) <= _MOST_NUMBERS,
    )


def _strip(row: LayerRow, name: str, places: list[float]) -> RangeStrip | None:
    parameters = row.time_parameters
    if parameters is None or parameters.bin_minimum is None or parameters.bin_maximum is None:
        return None
    low, high = parameters.bin_minimum, parameters.bin_maximum
    bottom, top = min(low), max(high)
    axis = Axis(top, bottom)
    widths = [b - a for a, b in zip(low, high, strict=True)]
    return RangeStrip(
        layer=row,
        name=name,
        path=_area(low, high, places, axis),
        zero=_unit(axis.percent(0.0)),
        low=low,
        high=high,
        change=min(widths) / max(widths) if max(widths) > 0 else 1.0,
    )


def _area(low: list[float], high: list[float], places: list[float], axis: Axis) -> str:
    """A closed outline: along the largest values from noise to clean, back along the smallest."""
    there = "".join(
        f"V{_unit(axis.percent(value))}H{_unit(places[bin + 1])}" for bin, value in enumerate(high)
    )
    back = "".join(
        f"V{_unit(axis.percent(low[bin]))}H{_unit(places[bin])}"
        for bin in reversed(range(len(low)))
    )
    return f"M0 {_unit(axis.percent(high[0]))}{there}{back}Z"


def _unit(percent: float) -> int:
    return round(percent * PATH_UNITS / 100)
