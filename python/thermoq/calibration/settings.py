"""What a calibration runs, as its flags say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thermoq.errors import UsageError

DEFAULT_STEPS = 50
DEFAULT_LENGTH = 128
DEFAULT_MIX = 0.5


@dataclass(frozen=True)
class CalibrationSettings:
    """The flags of `thermoq calibrate` that decide what is in the file.

    `steps` None: 50, but no more than a sequence has tokens or the schedule has timesteps.
    `guidance` None: the pipeline's own default. `prompts` is a text file with a prompt a line;
    `data` a folder of images or an .npy, or a text file; `mix` its share of the samples, by default
    half. `length` (tokens) is for language models, `size` (pixels) for pipelines. With
    `different_data` an image that is there twice counts once.
    """

    samples: int = 64
    steps: int | None = None
    bins: int = 20
    rows: int = 100
    seed: int = 0
    guidance: float | None = None
    prompts: Path | None = None
    data: Path | None = None
    mix: float | None = None
    length: int | None = None
    size: int | None = None
    different_data: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, low in (("samples", 1), ("bins", 1), ("rows", 0), ("seed", 0)):
            _at_least(name, getattr(self, name), low)
        for name in ("steps", "length", "size"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        if not 0.0 <= self.share_of_data <= 1.0:
            raise UsageError(f"--mix: expected a share between 0 and 1, got {self.share_of_data:g}")
        if self.mix is not None and self.data is None:
            raise UsageError("--mix: expected --data, whose share it is, got none")
        if self.guidance is not None and not 0.0 <= self.guidance <= 1000.0:
            raise UsageError(f"--guidance: expected at least 0, got {self.guidance:g}")

    @property
    def share_of_data(self) -> float:
        """Share of the samples that is `data`, where there is any."""
        return DEFAULT_MIX if self.mix is None else self.mix

    def steps_of(self, most: int) -> int:
        """Return the steps of a sampler that can take `most`."""
        return self.steps if self.steps is not None else min(DEFAULT_STEPS, most)


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise UsageError(f"--{name}: expected at least {low}, got {value}")
