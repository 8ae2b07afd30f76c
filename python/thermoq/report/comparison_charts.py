"""The charts of a comparison, as positions in percent: layout only, every value is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thermoq.report.charts import Segment, StackedBar
from thermoq.report.comparison_model import Comparison, Variant
from thermoq.report.evaluation_model import Figure
from thermoq.report.scales import Axis, Tick, decade_axis, even_steps, ratio_steps
from thermoq.report.wording import fixed, significant

NUM_STYLES = 4
"""Colours and marks of variants; more than these repeat."""


@dataclass(frozen=True)
class ScorePoint:
    """A boundary's score; `left` and `top` in percent."""

    left: float
    top: float
    timestep: float
    score: float


@dataclass(frozen=True)
class ScoreLine:
    """One variant's scores from noise to clean; `path` lies in a box of 1000 by 1000."""

    variant: Variant
    style: int
    points: list[ScorePoint]
    path: str

    @property
    def words(self) -> str:
        """The scores, or where there are many their range."""
        scores = [point.score for point in self.points]
        if len(scores) > 10:
            return f"{fixed(min(scores), 3)} to {fixed(max(scores), 3)}"
        return ", ".join(fixed(score, 3) for score in scores)


@dataclass(frozen=True)
class ScoreChart:
    """Smoothness at each boundary, a line a variant."""

    lines: list[ScoreLine]
    score_ticks: list[Tick]
    time_ticks: list[Tick]
    num_timesteps: int


def score_chart(comparison: Comparison) -> ScoreChart | None:
    """The chart of boundary scores; None where no variant has any."""
    shown = [(i, one) for i, one in enumerate(comparison.variants) if one.boundary_scores]
    lengths = [one.num_timesteps for _, one in shown if one.num_timesteps]
    if not shown or not lengths:
        return None
    timesteps = max(lengths)
    across = Axis(timesteps - 1, 0)
    lowest = min(score for _, one in shown for score in one.boundary_scores)
    scores = Axis(1.0, max(0.0, min(0.9, math.floor(lowest * 10 - 1e-9) / 10)))
    ticks = even_steps(0, timesteps, 4)
    return ScoreChart(
        lines=[_score_line(i, one, across, scores) for i, one in shown],
        score_ticks=[
            Tick(scores.percent(step), f"{step:g}") for step in even_steps(scores.last, 1.0, 4)
        ],
        time_ticks=[
            Tick(across.percent(step), f"{step:g}") for step in ticks if 0 < step < timesteps - 1
        ],
        num_timesteps=timesteps,
    )


def _score_line(index: int, variant: Variant, across: Axis, scores: Axis) -> ScoreLine:
    pairs = zip(variant.boundary_timesteps, variant.boundary_scores, strict=True)
    points = [ScorePoint(across.percent(t), scores.percent(s), t, s) for t, s in pairs]
    places = " L".join(f"{10 * point.left:.1f} {10 * point.top:.1f}" for point in points)
    return ScoreLine(variant, index % NUM_STYLES, points, f"M{places}")


@dataclass(frozen=True)
class ErrorMark:
    """One variant's error in a part, with the ends of its interval."""

    variant: Variant
    style: int
    left: float
    top: float
    low_top: float
    high_top: float
    error: Figure


@dataclass(frozen=True)
class ErrorSlot:
    """A part of the trajectory with the marks of all variants."""

    label: str
    left: float
    width: float
    marks: list[ErrorMark]

    @property
    def middle(self) -> float:
        """Percent from the left."""
        return round(self.left + self.width / 2, 3)


@dataclass(frozen=True)
class ErrorChart:
    """Errors along the trajectory on a logarithmic axis."""

    title: str
    slots: list[ErrorSlot]
    ticks: list[Tick]


def error_chart(comparison: Comparison) -> ErrorChart | None:
    """The chart of errors by part of the trajectory; None without an evaluation."""
    shown = [one for one in comparison.variants if one.parts]
    if not shown:
        return None
    labels = [part.label for part in shown[0].parts]
    alike = [
        (i, one)
        for i, one in enumerate(comparison.variants)
        if [part.label for part in one.parts] == labels
    ]
    found = [part.error for _, one in alike for part in one.parts if part.error is not None]
    if not found:
        return None
    down, steps = _error_axis([value for f in found for value in (f.low, f.value, f.high)])
    width = 100 / len(labels)
    return ErrorChart(
        title=comparison.parts_title,
        slots=[
            ErrorSlot(label, round(i * width, 3), round(width, 3), _marks(i, width, alike, down))
            for i, label in enumerate(labels)
        ],
        ticks=[Tick(down.percent(step), significant(step, 1)) for step in steps],
    )


def _error_axis(values: Sequence[float]) -> tuple[Axis, list[float]]:
    """Decades where there are several, round numbers in between where not; low values below."""
    positive = [value for value in values if value > 0] or [1e-3]
    if max(positive) / min(positive) < 8:
        low, high = min(positive) / 1.1, max(positive) * 1.1
        return Axis(high, low, "log"), ratio_steps(low, high)
    axis, decades = decade_axis(positive)
    return Axis(axis.last, axis.first, "log"), decades


def _marks(
    part: int, width: float, variants: Sequence[tuple[int, Variant]], down: Axis
) -> list[ErrorMark]:
    marks = []
    for place, (index, variant) in enumerate(variants):
        error = variant.parts[part].error
        if error is not None:
            share = (place + 1) / (len(variants) + 1)
            left = round(width * (part + 0.15 + 0.7 * share), 3)
            marks.append(
                ErrorMark(
                    variant,
                    index % NUM_STYLES,
                    left,
                    top=down.percent(error.value),
                    low_top=down.percent(error.low),
                    high_top=down.percent(error.high),
                    error=error,
                )
            )
    return marks


def size_bars(comparison: Comparison) -> list[StackedBar]:
    """Bytes of each variant on one scale, from the parts that differ to those that do not."""
    full = max(1, *(one.sizes.model_bytes for one in comparison.variants))
    bars = []
    for variant in comparison.variants:
        sizes, segments, left = variant.sizes, [], 0.0
        for name, count in (
            ("weights", sizes.weight_bytes),
            ("time parameters", sizes.time_parameter_bytes),
            ("copied tensors", sizes.copied_bytes),
            ("headers", sizes.header_bytes),
        ):
            if count > 0:
                share = 100 * count / full
                segments.append(Segment(name, count, round(left, 3), round(share, 3)))
                left += share
        bars.append(StackedBar(variant.label, sizes.model_bytes, segments))
    return bars
