"""What the benchmarks of calibrated methods are told, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measuring import Result, print_columns, print_table


@dataclass(frozen=True)
class Options:
    """The command line of output_error.py, by its names."""

    samples: int
    steps: int
    guidance: float
    images: int
    rounds: int
    whole_model: bool
    only: Sequence[str]
    also: Sequence[str]
    threads: int
    workdir: Path
    calibration: Path | None


@dataclass(frozen=True)
class Report:
    """What was measured; a table with its head; what could not be measured; figures and targets.

    `value` and `spread` head the columns of the figures.
    """

    what: str
    rows: Sequence[Sequence[str]] = ()
    missing: Sequence[str] = ()
    results: Sequence[Result] = field(default_factory=list)
    value: str = "median"
    spread: str = "quartiles"

    def print(self) -> None:
        """Print the tables."""
        print(f"\n{self.what}\n")
        if self.rows:
            print_columns(self.rows)
        for line in self.missing:
            print(line)
        if self.results:
            print(end="\n" if self.rows else "")
            print_table(self.results, self.value, self.spread)

    def content(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)
