"""What an evaluation runs, as its flags say, and seeds that no calibration draws from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thermoq.calibration.settings import CalibrationSettings
from thermoq.errors import UsageError
from thermoq.evaluation.intervals import MIN_SAMPLES

DEFAULT_JUDGED = 500
MASK_RATIOS = (0.15, 0.5, 0.85)

_SPAWN_KEY = (0x6576616C,)  # "eval"
_HELD_OUT = 1 << 127


@dataclass(frozen=True)
class EvaluationSettings:
    """The flags of `thermoq evaluate` that decide what the models are given.

    As for a calibration: `steps` None: 50, but no more than a sequence has tokens or the schedule
    has timesteps; `guidance` None: the pipeline's own; `prompts`, `data`, `length`, `size`
    likewise, but that `data` takes the place of all samples. `judged` is how many samples a judge
    sees; None: 500 of a model that it knows, else none.
    """

    samples: int = 64
    steps: int | None = None
    seed: int = 0
    guidance: float | None = None
    prompts: Path | None = None
    data: Path | None = None
    length: int | None = None
    size: int | None = None
    judged: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.seed < 0:
            raise UsageError(f"--seed: expected at least 0, got {self.seed}")
        self._check_enough("samples", self.samples)
        if self.judged:
            self._check_enough("judged", self.judged)

    @staticmethod
    def _check_enough(name: str, value: int) -> None:
        if value < MIN_SAMPLES:
            expected = f"expected at least {MIN_SAMPLES}, with fewer there is no interval"
            raise UsageError(f"--{name}: {expected}; got {value}")

    @property
    def for_sampling(self) -> CalibrationSettings:
        """The same as a calibration's, whose samplers run here too, with held-out seeds."""
        return CalibrationSettings(
            samples=self.samples,
            steps=self.steps,
            seed=held_out_seed(self.seed),
            guidance=self.guidance,
            prompts=self.prompts,
            data=self.data,
            mix=None if self.data is None else 1.0,
            length=self.length,
            size=self.size,
        )


def held_out_seed(seed: int) -> int:
    """Return a seed of at least 2^127 that follows from `seed`.

    A sampler's random numbers follow from the 32-bit words of its seed and what it appends to them;
    no seed below 2^127 has as many words with the same last one, so a calibration can only draw
    the same numbers if it is given this very seed.
    """
    words = np.random.SeedSequence(seed, spawn_key=_SPAWN_KEY).generate_state(4, np.uint32)
    return _HELD_OUT | sum(int(word) << 32 * i for i, word in enumerate(words))
