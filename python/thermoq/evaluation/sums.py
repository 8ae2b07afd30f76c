"""What two models' predictions differ by, added up for each sample and part of the trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq.evaluation.intervals import ratio, rounded
from thermoq.report.evaluation_model import TrajectoryRow, TrajectorySums
from thermoq.schedule import TimeGroups

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PassFigures:
    """Predictions y (full precision) and y_q of a forward pass, compared row by row, each [rows].

    `transition_kl` is None where the model has none, NaN at timesteps that have none.
    """

    squared_error: Floats
    energy: Floats
    cosine: Floats
    transition_kl: Floats | None


class SumsOverTrajectory:
    """Adds figures up by sample and part of the trajectory, each array [samples, parts]."""

    def __init__(self, num_samples: int, parts: TimeGroups, *, has_kl: bool) -> None:
        shape = num_samples, len(parts)
        self.parts = parts
        self.passes, self.transitions = (np.zeros(shape, np.int64) for _ in range(2))
        self.squared_error, self.energy, self.cosine, self.transition_kl = (
            np.zeros(shape) for _ in range(4)
        )
        self._has_kl = has_kl

    def add(
        self, samples: NDArray[np.int64], timesteps: NDArray[np.float64], figures: PassFigures
    ) -> None:
        """Add the rows of a forward pass: of `samples` [rows], at `timesteps` [rows]."""
        where = samples, np.array([self.parts.group_of(float(t)) for t in timesteps])
        np.add.at(self.passes, where, 1)
        np.add.at(self.squared_error, where, figures.squared_error)
        np.add.at(self.energy, where, figures.energy)
        np.add.at(self.cosine, where, figures.cosine)
        if figures.transition_kl is not None:
            defined = np.isfinite(figures.transition_kl)
            np.add.at(self.transitions, where, defined)
            np.add.at(self.transition_kl, where, np.where(defined, figures.transition_kl, 0.0))

    def rows(self, drawn: NDArray[np.int64]) -> list[TrajectoryRow]:
        """Return the figures of every part, `drawn` being the replicates of the bootstrap."""
        ends = zip(self.parts.starts, self.parts.ends, strict=True)
        return [self._row(slice(i, i + 1), *ends_of, drawn) for i, ends_of in enumerate(ends)]

    def overall(self, drawn: NDArray[np.int64]) -> TrajectoryRow:
        """Return the figures over all parts."""
        return self._row(slice(None), self.parts.starts[0], 0, drawn)

    def _row(self, parts: slice, start: float, end: int, drawn: NDArray[np.int64]) -> TrajectoryRow:
        passes, energy, transitions = (
            array[:, parts].sum(1) for array in (self.passes, self.energy, self.transitions)
        )
        error, cosine, kl = (
            array[:, parts].sum(1)
            for array in (self.squared_error, self.cosine, self.transition_kl)
        )
        return TrajectoryRow(
            start_timestep=start,
            end_timestep=end,
            passes=int(passes.sum()),
            output_error=ratio(error, energy, drawn) if energy.any() else None,
            cosine_similarity=ratio(cosine, passes, drawn) if passes.any() else None,
            transition_kl=ratio(kl, transitions, drawn) if transitions.any() else None,
        )

    def for_report(self) -> TrajectorySums:
        """Return all of it as lists, with 7 digits."""
        return TrajectorySums(
            passes=self.passes.tolist(),
            squared_error=rounded(self.squared_error),
            energy=rounded(self.energy),
            cosine=rounded(self.cosine),
            transition_kl=rounded(self.transition_kl) if self._has_kl else None,
            transitions=self.transitions.tolist() if self._has_kl else None,
        )
