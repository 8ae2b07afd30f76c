"""How the library says how far it is; the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told once how much there is, then of every tensor that is done."""

    def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
        """Begin `task`, which goes over so many tensors and source bytes."""

    def advance(self, tensor: str, nbytes: int) -> None:
        """Count one tensor of `nbytes` source bytes as done."""


class NoProgress:
    """Says nothing."""

    def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
        """Do nothing."""

    def advance(self, tensor: str, nbytes: int) -> None:
        """Do nothing."""


class StepProgress(Protocol):
    """Told once how many steps a sampler makes, then of every step that is done."""

    def start(self, task: str, total_steps: int, done: int) -> None:
        """Begin `task` of so many steps, of which `done` were made before."""

    def advance(self, where: str) -> None:
        """Count a step as done; `where` says which one it was."""


class NoSteps:
    """Says nothing."""

    def start(self, task: str, total_steps: int, done: int) -> None:
        """Do nothing."""

    def advance(self, where: str) -> None:
        """Do nothing."""
