"""What `thermoq compare` found, as typed values: the table, its charts, what was equal.

Every figure here was computed elsewhere (`thermoq.comparison`); this module names and shapes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from thermoq.report.evaluation_model import Figure
from thermoq.terms import Encoding, Method, Phase

Verdict = Literal["better", "no measurable difference", "worse", "not comparable", "not measured"]
Unit = Literal["score", "count", "cosine", "share", "figure", "ratio", "seconds", "bytes"]
ChangeKind = Literal["paired", "unpaired", "timed", "exact", "single"]
"""`timed`: medians of turns, those of each model taken by themselves; `exact`: nothing is random in
it; `single`: one measurement each, no interval."""


class ComparisonPart(BaseModel):
    """What all parts share: they do not change, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Change(ComparisonPart):
    """A figure against the reference's; `low` and `high` are null where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    relative: bool = Field(description="a share of the reference's figure, else a difference")
    kind: ChangeKind


class Target(ComparisonPart):
    """What the specification expects of a phase, and whether it came so."""

    text: str
    met: bool | None = Field(
        description="null: it is relative to Phase 1, from which no difference can be measured"
    )


class Cell(ComparisonPart):
    """One variant's figure of a metric; `value` is null where it was not measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    beside: str | None = Field(default=None, description="a related figure, in words")
    change: Change | None = Field(default=None, description="null for the reference")
    verdict: Verdict | None = Field(default=None, description="null for the reference")
    target: Target | None = Field(default=None, description="null where there is none")
    note: str | None = Field(
        default=None, description="what keeps it from being measured, or compared"
    )
    command: str | None = Field(default=None, description="that would measure it")
    shipped: bool = Field(default=False, description="not measured in this run: shipped figures")


class MetricRow(ComparisonPart):
    """A metric over all variants."""

    key: str
    title: str
    short: str = Field(description="its name within a sentence")
    meaning: str
    unit: Unit
    better: Literal["higher", "lower"]
    cells: list[Cell]


class Equality(ComparisonPart):
    """Whether something was the same for all variants; null: it cannot be told."""

    name: str
    equal: bool | None
    values: list[str] = Field(description="one a variant; one for all where equal")


class TrajectoryPart(ComparisonPart):
    """An output error with its interval, of a stretch of the trajectory or a mask ratio."""

    label: str
    error: Figure | None


class VariantSizes(ComparisonPart):
    """Bytes of the quantized components' safetensors files: the parts add up to `model_bytes`."""

    weight_bytes: int
    time_parameter_bytes: int
    copied_bytes: int
    header_bytes: int
    model_bytes: int


class Variant(ComparisonPart):
    """One of the reports that are compared."""

    label: str
    source: str
    model_name: str
    phase: Phase
    method: Method
    encoding: Encoding
    bit_width: int
    num_time_groups: int
    num_timesteps: int | None = Field(description="of the schedule; null without validation")
    parameter_source: str
    evaluation: str = Field(description="where the evaluation's figures are from, in words")
    boundary_timesteps: list[float]
    boundary_scores: list[float]
    parts: list[TrajectoryPart] = Field(
        description="empty without an evaluation that may be compared with the first one"
    )
    sizes: VariantSizes


class Comparison(ComparisonPart):
    """Reports side by side; the first is what the others are held against."""

    format_version: Literal[1] = 1
    thermoq_version: str
    variants: list[Variant]
    rows: list[MetricRow]
    equalities: list[Equality]
    parts_title: str = Field(description="what the variants' `parts` are of")
    summary: list[str] = Field(description="the comparison in sentences")
    notes: list[str] = Field(description="what limits it")
    confidence: float | None = Field(description="of the intervals; null: there are none")
