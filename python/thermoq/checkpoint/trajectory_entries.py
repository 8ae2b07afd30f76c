"""What a manifest says of the trajectory: time groups, noise schedule, smoothing, correction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from thermoq.checkpoint.untrusted import shown
from thermoq.terms import INTERPOLATIONS, CorrectionKind, Interpolation

SCHEDULE_KINDS = ("gaussian", "flow_matching", "masked")
CORRECTION_KINDS: tuple[CorrectionKind, ...] = get_args(CorrectionKind)

Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class ManifestPart(BaseModel):
    """Base of all parts of the manifest.

    Additions keep the version: a key that a later thermoq wrote does not matter here.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


def _known_schedule(kind: str) -> str:
    if kind not in SCHEDULE_KINDS:
        raise ValueError("expected a known schedule")
    return kind


def _known_interpolation(kind: object) -> object:
    if kind not in INTERPOLATIONS:
        raise ValueError(f"expected a known interpolation, got {shown(kind)}")
    return kind


def _known_correction(kind: object) -> object:
    if kind not in CORRECTION_KINDS:
        raise ValueError(f"expected a known kind of correction, got {shown(kind)}")
    return kind


def check_starts(key: str, starts: Sequence[float], num_timesteps: int) -> None:
    """Raise ValueError unless `starts` fall strictly from `num_timesteps` - 1, to 0 at most."""
    last = num_timesteps - 1
    if not starts or starts[0] != last:
        got = shown(starts[0]) if starts else "none"
        raise ValueError(f"expected {key} from {shown(last)}, got {got}")
    for before, after in pairwise(starts):
        if not before > after >= 0:
            raise ValueError(
                f"expected {key} that fall strictly, down to 0 at most, "
                f"got {after:g} after {before:g}"
            )


class TimeGroupTable(ManifestPart):
    """The time groups, noisiest first; group `g` starts at timestep `time_group_starts[g]`."""

    num_timesteps: Annotated[int, Field(ge=1)]
    time_group_starts: tuple[float, ...]

    @model_validator(mode="after")
    def _falls(self) -> TimeGroupTable:
        check_starts("time_group_starts", self.time_group_starts, self.num_timesteps)
        return self

    @property
    def window_limits(self) -> tuple[float, ...]:
        """The widest window of each boundary, as `interpolation.window_limits` has it."""
        edges = (*self.time_group_starts, -1.0)
        lengths = [before - after for before, after in pairwise(edges)]
        return tuple(min(pair) / 2 for pair in pairwise(lengths))


class ScheduleEntry(ManifestPart):
    """The noise schedule of the model; `description` is for people."""

    kind: Annotated[str, AfterValidator(_known_schedule)]
    num_timesteps: Annotated[int, Field(ge=1)]
    description: str


class SmoothingEntry(ManifestPart):
    """How parameters pass from a time group to the next: within `windows` timesteps on each side.

    One window a boundary; 0 is a jump.
    """

    interpolation: Annotated[Interpolation, BeforeValidator(_known_interpolation)]
    windows: tuple[Number, ...]

    def check(self, groups: TimeGroupTable) -> None:
        """Raise ValueError for windows that do not fit these time groups."""
        limits = groups.window_limits
        if len(self.windows) != len(limits):
            problem = f"expected a window for each of {len(limits)} boundaries"
            raise ValueError(f"smoothing: {problem}, got {len(self.windows)}")
        for boundary, (window, limit) in enumerate(zip(self.windows, limits, strict=True)):
            if not 0 <= window <= limit:
                problem = f"expected a window from 0 to {limit:g} at boundary {boundary}"
                raise ValueError(f"smoothing: {problem}, got {window:g}")
        if not any(self.windows):
            raise ValueError("smoothing: expected a window above 0 at some boundary, got none")


class OutputCorrectionEntry(ManifestPart):
    """What the stored gains and biases of the denoiser's prediction mean; bins noisiest first."""

    bin_starts: tuple[float, ...]
    kind: Annotated[CorrectionKind, BeforeValidator(_known_correction)]
    sha256: Checksum = Field(description="of the stored gains, then the biases if there are any")


def check_timestep_table(table: Sequence[tuple[float, float]], num_timesteps: int) -> None:
    """Raise ValueError unless values and timesteps rise and timesteps lie in [0, T)."""
    for value, timestep in table:
        if not 0 <= timestep < num_timesteps:
            raise ValueError(
                f"timestep_table: expected timesteps from 0 to below {num_timesteps}, "
                f"got {timestep:g} for {value:g}"
            )
    falls = len(table) > 1 and table[-1][1] < table[0][1]
    for before, after in pairwise(table):
        first, second = (after, before) if falls else (before, after)
        if not (before[0] < after[0] and first[1] <= second[1]):
            raise ValueError(
                "timestep_table: expected values that rise, and timesteps that all rise or all "
                f"fall, got {list(after)} after {list(before)}"
            )
