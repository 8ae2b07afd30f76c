"""The parameters over the trajectory: lines from noise on the left to clean on the right.

Step lines where every time group keeps its own, curves where a schedule smooths them.

Under the noise-schedule prior only ratios between time groups mean anything, so scales are shown
relative to the first group. Positions are percentages, as in `charts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thermoq.report.curves import Knots, Window, knots_of
from thermoq.report.model import LayerRow, Report
from thermoq.report.order import full_name, labels_of
from thermoq.report.scales import Axis, Tick, even_steps, ratio_steps
from thermoq.report.thermodynamics_model import LayerTimeParameters, TimeGroupRow
from thermoq.report.wording import TIMES, activation_bits

PATH_UNITS = 1000
"""Paths live in a square of this side that the page stretches over the plot."""

_Quantity = Literal["scale", "zero_point", "zero_point_share"]

_CROWDED = 80  # step lines whose verticals would run into one another


@dataclass(frozen=True)
class TimeBand:
    """A time group on the time axis, noise on the left."""

    row: TimeGroupRow
    left: float
    width: float
    labelled: bool


@dataclass(frozen=True)
class StepLine:
    """One layer's values per time group, and a path over the trajectory in PATH_UNITS squared."""

    layer: LayerRow
    name: str
    path: str
    values: list[float]
    worst: bool


@dataclass(frozen=True)
class TrajectoryChart:
    """A parameter of every layer over the trajectory.

    `bits` are those of the codes that zero points are among; where layers differ in them it is
    None, and zero points are shares of each layer's range of codes.
    """

    quantity: _Quantity
    bands: list[TimeBand]
    time_ticks: list[Tick]
    value_ticks: list[Tick]
    lines: list[StepLine]
    mean: list[float]
    mean_path: str
    left_out: int
    crowded: bool
    windows: list[Window]
    bits: int | None = None


def time_bands(report: Report) -> list[TimeBand]:
    """The time groups along the time axis, from noise (T - 1) on the left to clean (0)."""
    thermodynamics = report.thermodynamics
    if thermodynamics is None:
        return []
    axis = Axis(max(1, thermodynamics.num_timesteps - 1), 0)
    rows = thermodynamics.time_groups
    edges = [0.0, *(axis.percent(row.start_timestep) for row in rows[1:]), 100.0]
    stride = -(-len(rows) // 10)
    return [
        TimeBand(row, edges[index], round(edges[index + 1] - edges[index], 3), index % stride == 0)
        for index, row in enumerate(rows)
    ]


def scale_chart(report: Report) -> TrajectoryChart | None:
    """`scale[g] / scale[0]` per layer and its mean by number of weights, on a logarithmic axis.

    Layers whose first scale is 0 have no ratio and are left out and counted. None with fewer than
    two time groups, or where no layer has a ratio.
    """
    lines = _values(report, _scale_ratios)
    if not lines:
        return None
    knots = knots_of(report, crowded=len(lines) > _CROWDED)
    positive = [value for _, values in lines for value in values if value > 0]
    low, high = min(positive), max(positive)
    margin = max(1.02, (high / low) ** 0.06)
    axis = Axis(high * margin, low / margin, "log")
    ticks = [
        Tick(axis.percent(step), f"{step:g}{TIMES}") for step in ratio_steps(axis.last, axis.first)
    ]
    left_out = sum(_time_parameters(row) is not None for row in report.layers) - len(lines)
    return _trajectory(report, "scale", lines, axis, ticks, left_out, knots)


def zero_point_chart(report: Report) -> TrajectoryChart | None:
    """`zero_point[g]` per layer; None where it never changes along the trajectory."""
    lines = _values(report, lambda parameters: parameters.zero_point)
    if all(min(values) == max(values) for _, values in lines):
        return None
    knots = knots_of(report, crowded=len(lines) > _CROWDED)
    different = {activation_bits(report, row) for row, _ in lines}
    if len(different) > 1:
        lines = [(row, _shares(report, row, values)) for row, values in lines]
        axis = Axis(1.0, 0.0)
        ticks = [Tick(axis.percent(share), f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
        return _trajectory(report, "zero_point_share", lines, axis, ticks, 0, knots)
    (bits,) = different
    axis = Axis(float(2**bits - 1), 0.0)
    ticks = [Tick(axis.percent(step), f"{step:g}") for step in (0, *_quarters(bits))]
    return replace(_trajectory(report, "zero_point", lines, axis, ticks, 0, knots), bits=bits)


def _quarters(bits: int) -> list[int]:
    top = 2**bits
    return [top // 4, top // 2, 3 * top // 4, top - 1]


def _shares(report: Report, row: LayerRow, zero_points: Sequence[float]) -> list[float]:
    """A layer's zero points over the largest of its codes."""
    top = 2 ** activation_bits(report, row) - 1
    return [value / top for value in zero_points]


def _time_parameters(row: LayerRow) -> LayerTimeParameters | None:
    return row.time_parameters if row.in_headline else None


def _scale_ratios(parameters: LayerTimeParameters) -> list[float]:
    first = parameters.scale[0]
    return [value / first for value in parameters.scale] if first > 0 else []


def _values(
    report: Report, of: Callable[[LayerTimeParameters], list[float]]
) -> list[tuple[LayerRow, list[float]]]:
    if report.thermodynamics is None or len(report.thermodynamics.time_groups) < 2:
        return []
    pairs = [
        (row, of(parameters))
        for row in report.layers
        if (parameters := _time_parameters(row)) is not None and parameters.scale
    ]
    return [(row, values) for row, values in pairs if values]


def _trajectory(
    report: Report,
    quantity: _Quantity,
    lines: Sequence[tuple[LayerRow, list[float]]],
    axis: Axis,
    ticks: list[Tick],
    left_out: int,
    knots: Knots | None,
) -> TrajectoryChart:
    bands = time_bands(report)
    thermodynamics = report.thermodynamics
    assert thermodynamics is not None
    worst = set(thermodynamics.worst_layers[:3])
    weight = sum(row.num_weights for row, _ in lines) or 1
    means = [
        sum(row.num_weights * values[group] for row, values in lines) / weight
        for group in range(len(bands))
    ]
    time_axis = Axis(max(1, thermodynamics.num_timesteps - 1), 0)
    steps = even_steps(0, time_axis.first, 5)
    crowded = len(lines) > _CROWDED
    names = labels_of(row for row, _ in lines)

    def path(row: LayerRow, values: Sequence[float]) -> str:
        if knots is None:
            return _path(values, bands, axis, joined=not crowded or full_name(row) in worst)
        return _curve(knots, _at_knots(knots, row, quantity, values, report), axis)

    return TrajectoryChart(
        quantity=quantity,
        bands=bands,
        time_ticks=[
            Tick(time_axis.percent(step), f"{step:g}", minor=index % 2 == 1)
            for index, step in enumerate(steps)
        ],
        value_ticks=ticks,
        lines=[
            StepLine(
                layer=row,
                name=names[id(row)],
                path=path(row, values),
                values=values,
                worst=full_name(row) in worst,
            )
            for row, values in lines
        ],
        mean=means,
        mean_path=_mean_path(report, quantity, lines, means, bands, axis, knots),
        left_out=left_out,
        crowded=crowded,
        windows=[] if knots is None else knots.windows,
    )


def _at_knots(
    knots: Knots, row: LayerRow, quantity: _Quantity, values: Sequence[float], report: Report
) -> list[float]:
    """What is in force for a layer with these `values` per time group, at each knot."""
    if quantity == "scale":
        return knots.blended(values)
    assert row.time_parameters is not None
    found = knots.zero_points(row.time_parameters, activation_bits(report, row))
    return found if quantity == "zero_point" else _shares(report, row, found)


def _mean_path(
    report: Report,
    quantity: _Quantity,
    lines: Sequence[tuple[LayerRow, list[float]]],
    means: Sequence[float],
    bands: Sequence[TimeBand],
    axis: Axis,
    knots: Knots | None,
) -> str:
    if knots is None:
        return _path(means, bands, axis)
    if quantity == "scale":
        return _curve(knots, knots.blended(means), axis)
    weight = sum(row.num_weights for row, _ in lines) or 1
    curves = [
        [row.num_weights * value for value in _at_knots(knots, row, quantity, values, report)]
        for row, values in lines
    ]
    return _curve(knots, [sum(values) / weight for values in zip(*curves, strict=True)], axis)


def _path(
    values: Sequence[float], bands: Sequence[TimeBand], axis: Axis, *, joined: bool = True
) -> str:
    """A step line: horizontal inside each time group, `joined` by a vertical at each boundary."""
    unit = PATH_UNITS / 100
    parts = []
    for index, (value, band) in enumerate(zip(values, bands, strict=True)):
        height = round(axis.percent(value) * unit)
        moves = index == 0 or not joined
        parts.append(f"M{round(band.left * unit)} {height}" if moves else f"V{height}")
        parts.append(f"H{round((band.left + band.width) * unit)}")
    return "".join(parts)


def _curve(knots: Knots, values: Sequence[float], axis: Axis) -> str:
    """A line through the values at the knots."""
    unit = PATH_UNITS / 100
    points = (
        f"{round(place * unit)} {round(axis.percent(value) * unit)}"
        for place, value in zip(knots.places, values, strict=True)
    )
    return "M" + "L".join(points)
