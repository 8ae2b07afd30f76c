"""The picture of the Pareto benchmark: error against bits per weight, points with their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labels import (
    AROUND_FOUR,
    AROUND_TWO,
    FAINT,
    INK,
    PAPER,
    STYLES,
    WHOLE,
    Panel,
    style_of,
    write_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from points import Point

PIXELS, DPI = (1240, 860), 100


def draw(points: Sequence[Point], front: Sequence[Point], path: Path) -> None:
    """Write the picture of `points` [any order], with the line through `front`, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    look: Any = {
        "font.size": 9.5,
        "font.family": "DejaVu Sans",
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    shown = [point for point in points if point.drawn]
    with matplotlib.rc_context(look):
        size = (PIXELS[0] / DPI, PIXELS[1] / DPI)
        figure = pyplot.figure(figsize=size, dpi=DPI, facecolor=PAPER)
        grid = figure.add_gridspec(
            2, 2, width_ratios=(1.35, 1), height_ratios=(1.12, 1), wspace=0.13, hspace=0.24,
            left=0.062, right=0.985, top=0.83, bottom=0.07,
        )  # fmt: skip
        places = {AROUND_TWO: grid[:, 0], AROUND_FOUR: grid[0, 1], WHOLE: grid[1, 1]}
        axes = {panel: figure.add_subplot(place) for panel, place in places.items()}
        for panel, axis in axes.items():
            _frame(axis, panel)
            _points(axis, shown, front)
        axes[AROUND_TWO].set_ylabel("relative squared error of the weights")
        axes[AROUND_TWO].set_xlabel("bits per weight, everything stored counted")
        axes[WHOLE].set_xlabel("bits per weight")
        _heading(figure, shown)
        figure.canvas.draw()
        for panel, axis in axes.items():
            write_labels(axis, panel, shown, front)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        pyplot.close(figure)
    _shrink(path)


def _shrink(path: Path) -> None:
    """Store the picture with a palette: a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        small = image.convert("RGB").quantize(256, method, dither=dither)
    small.save(path, optimize=True)


def _heading(figure: Any, points: Sequence[Point]) -> None:
    """Title, what was measured, and a legend of the families."""
    from matplotlib.lines import Line2D

    figure.text(
        0.012, 0.958, "Error against bits per weight, without calibration data",
        fontsize=15, fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.012, 0.925,
        "Relative squared error over the 36 attention and MLP matrices of all-MiniLM-L6-v2;"
        " lower left is better. * given uniform importances."
        " trellis: efforts 1 to 5, inputs rotated.",
        color="#57606a",
    )  # fmt: skip
    families = [family for family in STYLES if any(p.family == family for p in points)]
    handles = []
    for family in families:
        style = STYLES[family]
        handles.append(
            Line2D([], [], color=style.color, marker=style.marker, markersize=style.size,
                   linestyle="", label=family)
        )  # fmt: skip
    label = "front: nothing else has as few bits and as little error"
    handles.append(Line2D([], [], color=FAINT, linewidth=1.4, label=label))
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.915), ncols=len(handles),
        frameon=False, handletextpad=0.4, columnspacing=1.5, borderaxespad=0.2,
    )  # fmt: skip
    legend.get_texts()[0].set_fontweight("bold")


def _frame(axis: Axes, panel: Panel) -> None:
    """Scales, ticks and a light grid."""
    axis.set_yscale("log")
    axis.set_xlim(*panel.bits)
    axis.set_ylim(*panel.error)
    axis.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
    axis.set_yticks(panel.error_ticks, [f"{tick:g}" for tick in panel.error_ticks])
    axis.minorticks_off()
    axis.grid(color="#eaeef2", linewidth=1)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold")


def _trellis_curves(points: Sequence[Point]) -> list[list[Point]]:
    """The points of trellis codes by bits per code, from little effort to much."""
    curves: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.name):
        if point.ours and "trellis" in point.name:
            curves.setdefault(point.name.split()[1], []).append(point)
    return list(curves.values())


def _points(axis: Axes, points: Sequence[Point], front: Sequence[Point]) -> None:
    """The front as steps, trellis codes as curves, thermoq's points on top, its defaults ringed."""
    line = [(p.bits_per_weight, p.error) for p in front]
    ends = [(line[0][0], 10.0), *line, (100.0, line[-1][1])]
    axis.step(*zip(*ends, strict=True), where="post", color=FAINT, linewidth=1.4, zorder=2)
    for curve in _trellis_curves(points):
        places = [(p.bits_per_weight, p.error) for p in curve]
        axis.plot(*zip(*places, strict=True), color=style_of(curve[0]).color, zorder=3)
    for point in points:
        style = style_of(point)
        hollow = point.ours and not point.name.startswith("lsq")
        axis.plot(
            point.bits_per_weight, point.error, linestyle="",
            marker=style.marker, markersize=style.size,
            markerfacecolor=PAPER if hollow else style.color,
            markeredgecolor=style.color if hollow else PAPER,
            markeredgewidth=1.2 if hollow else 0.7,
            zorder=5 if point.ours else 4 - hollow,
        )  # fmt: skip
        if point.default_of:
            axis.plot(
                point.bits_per_weight, point.error, marker="o", markersize=style.size + 7,
                markerfacecolor="none", markeredgecolor=style.color, markeredgewidth=1.5, zorder=5,
            )  # fmt: skip
