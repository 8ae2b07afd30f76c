"""Names of points in a picture, each beside its point and clear of everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from quantizers import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from points import Point

INK, FAINT, PAPER = "#24292f", "#8c959f", "#ffffff"


@dataclass(frozen=True)
class Style:
    """Colour (Okabe and Ito's, darkened for text) and marker of a family."""

    color: str
    marker: str
    size: float


STYLES = {
    OURS: Style("#0067a5", "o", 7.0),
    "llama.cpp": Style("#b8500f", "s", 5.5),
    "HQQ": Style("#00805c", "^", 6.5),
    "quanto": Style("#a8467f", "v", 6.5),
    "OrbitQuant": Style("#6b5b00", "D", 5.0),
    "round-to-nearest": Style("#57606a", "X", 6.0),
}
OTHER = Style("#24292f", "P", 6.0)


@dataclass(frozen=True)
class Panel:
    """A part of the plane; where not `all_labels`, only what no other panel names is named."""

    title: str
    bits: tuple[float, float]
    ticks: tuple[float, ...]
    error: tuple[float, float]
    error_ticks: tuple[float, ...]
    all_labels: bool


AROUND_TWO = Panel(
    "around 2 bits", (1.97, 3.17), (2, 2.25, 2.5, 2.75, 3), (0.042, 0.33), (0.05, 0.1, 0.2), True
)
AROUND_FOUR = Panel(
    "around 4 bits",
    (3.97, 5.12),
    (4, 4.25, 4.5, 4.75, 5),
    (0.0029, 0.0132),
    (0.003, 0.005, 0.01),
    True,
)
WHOLE = Panel(
    "2 to 8 bits", (1.7, 9), (2, 3, 4, 5, 6, 7, 8), (6e-6, 0.5), (1e-4, 1e-3, 1e-2, 1e-1), False
)


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        """Its size."""
        return (self.right - self.left) * (self.top - self.bottom)

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0


def write_labels(axis: Axes, panel: Panel, points: Sequence[Point], front: Sequence[Point]) -> None:
    """Name the points, each label where it covers no point, no other label and not the front.

    Points that lie on each other get one label. thermoq's go first, then those on the front.
    """
    inside = [p for p in points if _within(p, panel)]
    where = {p: axis.transData.transform((p.bits_per_weight, p.error)) for p in inside}
    taken = _front_boxes(axis, front)
    for p, (x, y) in where.items():
        half = 10 if p.default_of else 5
        taken.append(Box(x - half, y - half, x + half, y + half))
    inside.sort(key=lambda p: (p.default_of is None, p not in front, not p.ours, p.error))
    named: set[Point] = set()
    for point in inside:
        if point in named or not _worth_a_label(point, panel):
            continue
        x, y = where[point]
        together = [point]
        if not point.default_of:
            others = [p for p in inside if p not in named and p != point and not p.default_of]
            together += [p for p in others if math.dist(where[p], (x, y)) < 4]
        named.update(together)
        color = style_of(point).color if len({p.family for p in together}) == 1 else INK
        label = _joined(short_name(p, panel) for p in together)
        look = (color, point.default_of is not None)
        taken.append(_place(axis, label, look, (x, y), taken))


def _within(point: Point, panel: Panel) -> bool:
    (fewest, most), (least, greatest) = panel.bits, panel.error
    return fewest < point.bits_per_weight < most and least < point.error < greatest


def _worth_a_label(point: Point, panel: Panel) -> bool:
    if point.default_of:
        return True
    if panel.all_labels:
        if point.ours and point.name.endswith(("trellis e2", "trellis e3", "trellis e4")):
            return False  # the curve's ends have names
        scale_bits, _, minimum_bits = point.name.rpartition(" ")[2].partition("+")
        return scale_bits == minimum_bits or not minimum_bits  # else it is one of a close pair
    elsewhere = any(_within(point, other) for other in (AROUND_TWO, AROUND_FOUR))
    return not elsewhere and "g16" not in point.name


def _front_boxes(axis: Axes, front: Sequence[Point]) -> list[Box]:
    """The steps of the front as thin rectangles."""
    corners = [axis.transData.transform((p.bits_per_weight, p.error)) for p in front]
    boxes = [Box(corners[0][0] - 1.5, corners[0][1], corners[0][0] + 1.5, math.inf)]
    for (x, y), (next_x, next_y) in pairwise(corners):
        boxes.append(Box(x, y - 1.5, next_x, y + 1.5))
        boxes.append(Box(next_x - 1.5, next_y, next_x + 1.5, y))
    return boxes


def _joined(names: Iterable[str]) -> str:
    """One label of several names; a group size that they share is said once."""
    by_group: dict[str, list[str]] = {}
    for name in names:
        stem, separator, group = name.rpartition(" g")
        grouped = separator and group.isdigit()
        by_group.setdefault(f" g{group}" if grouped else "", []).append(stem if grouped else name)
    parts = [", ".join(dict.fromkeys(stems)) + group for group, stems in by_group.items()]
    return ", ".join(parts)


def short_name(point: Point, panel: Panel) -> str:
    """A name for a panel that says the width already, unless it shows them all."""
    words = point.name.split()
    if point.ours:
        if point.default_of and not panel.all_labels:
            return f"INT{point.default_of} default"
        kind = "minmax" if words[0] == "minmax" else words[2]
        group = words[3:] if panel.all_labels else []
        return " ".join([kind, *group]) + (" (default)" if point.default_of else "")
    if point.family == "llama.cpp":
        return point.name
    group = [word for word in words if word[0] == "g"] if panel.all_labels else []
    family = {"round-to-nearest": "nearest"}.get(point.family, point.family)
    if "HqqOptimizer" in words:  # quanto's own version of HQQ
        family = "quanto (HQQ)"
    return " ".join([family, *group])


def _spots() -> list[tuple[float, float]]:
    """Where a label may go, as offsets from its point in pixels, the nearest first."""
    directions: list[tuple[float, float]] = [(1, 0), (0, 1), (0, -1), (-1, 0)]
    directions += [(0.8, 0.6), (0.8, -0.6), (-0.8, 0.6), (-0.8, -0.6)]
    slanted = [(0.9, 0.4), (0.9, -0.4), (-0.9, 0.4), (-0.9, -0.4)]
    slanted += [(0.4, 0.9), (0.4, -0.9), (-0.4, 0.9), (-0.4, -0.9)]
    near = [(9 * across, 9 * up) for across, up in directions]
    near += [(13 * across, 13 * up) for across, up in directions]
    far = [(r * across, r * up) for r in (26, 40, 55, 72) for across, up in directions + slanted]
    return near + far


def _place(
    axis: Axes,
    label: str,
    look: tuple[str, bool],
    where: tuple[float, float],
    taken: Sequence[Box],
) -> Box:
    """Put a label, in a color and bold or not, in the first free spot or the least crowded one."""
    from matplotlib.patheffects import withStroke

    color, bold = look
    canvas: Any = axis.figure.canvas
    renderer = canvas.get_renderer()
    text = axis.text(
        0, 0, label, transform=None, color=color, zorder=6, fontsize=9.2,
        fontweight="bold" if bold else "normal",
        path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
    )  # fmt: skip
    frame = axis.get_window_extent(renderer)
    within = Box(frame.x0 + 2, frame.y0 + 2, frame.x1 + 14, frame.y1)

    def attempt(spot: tuple[float, float]) -> tuple[float, Box]:
        _move(text, where, spot)
        extent = text.get_window_extent(renderer)
        box = Box(extent.x0 - 1, extent.y0, extent.x1 + 1, extent.y1)
        outside = max(0.0, box.area - box.overlap(within) - 0.01)
        return sum(box.overlap(other) for other in taken) + 4 * outside, box

    attempts = {spot: attempt(spot) for spot in _spots()}
    spot = min(attempts, key=lambda one: attempts[one][0])  # the first of the least
    _move(text, where, spot)
    if max(map(abs, spot)) > 20:  # far enough to need a line to its point
        axis.annotate(
            "", where, (where[0] + spot[0], where[1] + spot[1]), xycoords="figure pixels",
            textcoords="figure pixels", zorder=3,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 4},
        )  # fmt: skip
    return attempts[spot][1]


def _move(text: Any, where: tuple[float, float], spot: tuple[float, float]) -> None:
    across, up = spot
    text.set_position((where[0] + across, where[1] + up))
    text.set_horizontalalignment("left" if across > 0 else "right" if across < 0 else "center")
    text.set_verticalalignment("bottom" if up > 0 else "top" if up < 0 else "center_baseline")


def style_of(point: Point) -> Style:
    """Colour and marker of the point's family."""
    return STYLES.get(point.family, OTHER)
