"""The picture of the layers in network order: jumps at each boundary, and the weight error."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

from thermoq.report.model import LayerRow, Report
from thermoq.report.order import block_of, labels_of, network_order
from thermoq.report.scales import Axis, HeatScale, Tick, decade_axis, heat_scale
from thermoq.report.wording import fixed, plain

MOST_CELLS = 30_000
"""Above so many layers times boundaries, cells are merged and numbers left to the JSON report."""

_LABELLED_ROWS = 60
_ROW_PIXELS = 16
_BLOCK_LABEL_PIXELS = 13


@dataclass(frozen=True)
class HeatCell:
    """One layer at one boundary: the larger of its two clipped jumps, and its colour step.

    Where the page would grow too large, a run of boundaries of one colour is one cell, and `jump`
    the largest in it, at `boundary`.
    """

    boundary: int
    jump: float
    run: tuple[int, int]
    step: int
    left: float
    width: float


@dataclass(frozen=True)
class ProfileRow:
    """One layer's row, `top` pixels down; `label` is empty where rows are too low for text."""

    number: int
    layer: LayerRow
    name: str
    top: int
    label: str
    opens_block: bool
    cells: list[HeatCell]
    error_left: float

    @cached_property
    def worst(self) -> HeatCell | None:
        """The cell with the largest jump."""
        return max(self.cells, key=lambda cell: cell.jump, default=None)


@dataclass(frozen=True)
class LayerProfile:
    """All quantized layers, one row each; `heat` is None without boundaries."""

    rows: list[ProfileRow]
    row_pixels: int
    dense: bool
    heat: HeatScale | None
    boundary_ticks: list[Tick]
    error_ticks: list[Tick]
    merged: bool

    @property
    def height(self) -> int:
        """In pixels."""
        return len(self.rows) * self.row_pixels


def layer_profile(report: Report) -> LayerProfile:
    """Rows in network order. Rows are lower the more layers there are; then blocks are labelled."""
    layers = network_order(report.layers)
    dense = len(layers) > _LABELLED_ROWS
    row_pixels = max(3, min(8, 960 // len(layers))) if dense else _ROW_PIXELS
    thermodynamics = report.thermodynamics
    boundaries = len(thermodynamics.boundaries) if thermodynamics else 0
    heat = (
        heat_scale(thermodynamics.smoothness_threshold) if thermodynamics and boundaries else None
    )
    errors, decades = decade_axis([row.relative_squared_error for row in layers])
    merged = len(layers) * boundaries > MOST_CELLS
    names = labels_of(layers)
    labels = _block_labels(layers, row_pixels) if dense else [plain(names[id(r)]) for r in layers]
    blocks = [(row.component, block_of(row.name)) for row in layers]
    rows = [
        ProfileRow(
            number=index + 1,
            layer=row,
            name=names[id(row)],
            top=index * row_pixels,
            label=labels[index],
            opens_block=index > 0 and blocks[index] != blocks[index - 1],
            cells=_cells(row, heat, merged),
            error_left=errors.percent(row.relative_squared_error),
        )
        for index, row in enumerate(layers)
    ]
    return LayerProfile(
        rows=rows,
        row_pixels=row_pixels,
        dense=dense,
        heat=heat,
        boundary_ticks=_boundary_ticks(boundaries),
        error_ticks=_error_ticks(errors, decades),
        merged=merged,
    )


def _cells(row: LayerRow, heat: HeatScale | None, merged: bool) -> list[HeatCell]:
    parameters = row.time_parameters
    if heat is None or parameters is None or not parameters.scale_jump:
        return []
    count = len(parameters.scale_jump)
    edges = [round(100 * index / count, 2) for index in range(count + 1)]
    jumps = list(map(max, parameters.scale_jump, parameters.zero_point_jump))
    cells = []
    keys = itertools.groupby(range(count), lambda i: heat.step(jumps[i]) if merged else i)
    for _, indices in keys:
        run = list(indices)
        worst = max(run, key=lambda i: jumps[i])
        left, right = edges[run[0]], edges[run[-1] + 1]
        cells.append(
            HeatCell(
                boundary=worst,
                jump=jumps[worst],
                run=(run[0], run[-1]),
                step=heat.step(jumps[worst]),
                left=left,
                width=round(right - left, 2),
            )
        )
    return cells


def cell_title(row: ProfileRow, cell: HeatCell) -> str:
    """What the page says when the pointer rests on a cell."""
    first, last = cell.run
    where = f"boundary {first}" if first == last else f"boundaries {first} to {last}, at most"
    return f"{row.name}\n{where}: {fixed(cell.jump, 3)}"


def _block_labels(layers: list[LayerRow], row_pixels: int) -> list[str]:
    """A label where a new block begins, unless the last label is too near above."""
    labels: list[str] = []
    last_block, last_top = "", -_BLOCK_LABEL_PIXELS
    for index, row in enumerate(layers):
        block, top = block_of(row.name), index * row_pixels
        if block != last_block and top - last_top >= _BLOCK_LABEL_PIXELS:
            labels.append(block)
            last_top = top
        else:
            labels.append("")
        last_block = block
    return labels


def _boundary_ticks(count: int) -> list[Tick]:
    stride = -(-count // 10) if count else 1
    return [
        Tick(
            round(100 * (index + 0.5) / count, 3),
            str(index),
            minor=count > 6 and index % (2 * stride) != 0,
        )
        for index in range(0, count, stride)
    ]


def _error_ticks(axis: Axis, decades: list[float]) -> list[Tick]:
    stride = -(-(len(decades) - 1) // 4)
    shown = decades[::-stride]
    return [
        Tick(axis.percent(value), _power_of_ten(value), minor=0 < index < len(shown) - 1)
        for index, value in enumerate(shown)
    ]


def _power_of_ten(value: float) -> str:
    return f"{value:g}" if value >= 1e-3 else f"1e{round(math.log10(value))}"
