"""The score's ruler, the boundaries and the bytes by class, as positions in percent.

Only layout: every value shown is one of the report's. The plots have no fixed width; positions
across are percentages, so that text keeps its size on any screen. `top` counts downwards, as SVG
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thermoq.report.model import Report
from thermoq.report.scales import Axis, Tick, even_steps
from thermoq.report.thermodynamics_model import Boundary


@dataclass(frozen=True)
class Band:
    """A band of the smoothness score on its ruler."""

    name: str
    left: float
    width: float
    holds_score: bool


@dataclass(frozen=True)
class ScoreRuler:
    """Where the smoothness score lies among the bands and the targets of the later phases."""

    bands: list[Band]
    limits: list[Tick]
    targets: list[Tick]
    score_left: float


BAND_LIMITS = (("poor", 0.65), ("typical", 0.70), ("good", 0.78), ("excellent", 1.0))
PHASE_TARGETS = (("Phase 2", 0.82), ("Phase 3", 0.90))


def score_ruler(report: Report) -> ScoreRuler | None:
    """The ruler of the bands (DESIGN.md section 5); None without a score."""
    score = report.smoothness_score
    assessment = report.assessment
    if score is None or assessment is None or assessment.band is None:
        return None
    axis = Axis(0.5 if score >= 0.5 else 0.0, 1.0)
    edges = [0.0, *(axis.percent(limit) for _, limit in BAND_LIMITS)]
    return ScoreRuler(
        bands=[
            Band(
                name,
                edges[index],
                round(edges[index + 1] - edges[index], 3),
                name == assessment.band,
            )
            for index, (name, _) in enumerate(BAND_LIMITS)
        ],
        limits=[Tick(axis.percent(limit), f"{limit:.2f}") for _, limit in BAND_LIMITS[:-1]],
        targets=[Tick(axis.percent(target), name) for name, target in PHASE_TARGETS],
        score_left=axis.percent(score),
    )


@dataclass(frozen=True)
class BoundarySlot:
    """The place of one boundary, and the heights of its bars."""

    boundary: Boundary
    left: float
    width: float
    score_top: float
    scale_top: float
    zero_point_top: float
    ticked: bool
    minor: bool

    @property
    def middle(self) -> float:
        """Percent from the left."""
        return round(self.left + self.width / 2, 3)


@dataclass(frozen=True)
class BoundaryChart:
    """Scores above, jumps against the threshold below; one slot a boundary."""

    slots: list[BoundarySlot]
    score_ticks: list[Tick]
    jump_ticks: list[Tick]
    threshold_top: float
    mean_top: float | None
    labelled: bool
    zero_points: bool


def boundary_chart(report: Report) -> BoundaryChart | None:
    """The chart of the model's boundaries; None where there are none."""
    thermodynamics = report.thermodynamics
    if thermodynamics is None or not thermodynamics.boundaries:
        return None
    boundaries = thermodynamics.boundaries
    threshold = thermodynamics.smoothness_threshold
    largest = max(max(row.scale_jump, row.zero_point_jump) for row in boundaries)
    scores = Axis(1.0, 0.0)
    jumps = Axis(min(1.0, max(threshold * 1.4, largest * 1.15, 0.01)), 0.0)
    width = 100 / len(boundaries)
    # Every label is shown where there is room for it; on narrow screens the minor ones are not.
    stride = -(-len(boundaries) // 20)
    major_stride = stride * -(-len(boundaries) // (8 * stride))
    slots = [
        BoundarySlot(
            boundary=row,
            left=round(index * width, 3),
            width=round(width, 3),
            score_top=scores.percent(row.score),
            scale_top=jumps.percent(row.scale_jump),
            zero_point_top=jumps.percent(row.zero_point_jump),
            ticked=index % stride == 0,
            minor=index % major_stride != 0,
        )
        for index, row in enumerate(boundaries)
    ]
    mean = report.mean_boundary_score
    return BoundaryChart(
        slots=slots,
        score_ticks=[
            Tick(scores.percent(step), f"{step:g}") for step in (0.0, 0.25, 0.5, 0.75, 1.0)
        ],
        jump_ticks=[
            Tick(jumps.percent(step), f"{step:g}") for step in even_steps(0, jumps.first, 4)
        ],
        threshold_top=jumps.percent(threshold),
        mean_top=None if mean is None else scores.percent(mean),
        labelled=len(boundaries) <= 10,
        zero_points=any(row.zero_point_jump > 0 for row in boundaries),
    )


@dataclass(frozen=True)
class Segment:
    """A class's share of a stacked bar."""

    layer_class: str
    num_bytes: int
    left: float
    width: float


@dataclass(frozen=True)
class StackedBar:
    """Bytes by layer class, on the source's scale or enlarged to the full width."""

    label: str
    total: int
    segments: list[Segment]


def byte_bars(report: Report) -> list[StackedBar]:
    """The component's bytes by layer class: source and stored on one scale, and stored enlarged."""
    rows = [(row.layer_class, row.source_bytes, row.stored_bytes) for row in report.layer_classes]
    sizes = report.sizes
    source = [(name, source_bytes) for name, source_bytes, _ in rows]
    stored = [(name, stored_bytes) for name, _, stored_bytes in rows]
    source.append(("headers", sizes.source_bytes - sum(count for _, count in source)))
    stored.append(("headers", sizes.header_bytes))
    full = max(sizes.source_bytes, sizes.model_bytes, 1)
    return [
        _stacked("Source", source, full),
        _stacked("Stored", stored, full),
        _stacked("Stored, enlarged", stored, max(1, sum(count for _, count in stored))),
    ]


def _stacked(label: str, parts: Sequence[tuple[str, int]], full: int) -> StackedBar:
    segments = []
    left = 0.0
    for name, count in parts:
        if count > 0:
            width = 100 * count / full
            segments.append(Segment(name, count, round(left, 3), round(width, 3)))
            left += width
    return StackedBar(label, sum(segment.num_bytes for segment in segments), segments)
