"""What a sequential Phase 3 was fitted on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequentialRun:
    """A run of both models, and how many layers were fitted to what they got in it.

    `num_passes` are the forward passes whose states were kept, of `num_samples` samples.
    """

    num_samples: int
    num_passes: int
    num_layers: int
