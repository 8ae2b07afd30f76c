"""The settings of a run as checked, typed values.

Keys of features that are not built yet are known, and refused when they are switched on. Reading
them from a file and from flags is config.py's.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

PHASE_1_ONLY = "this version of thermoq has Phase 1 only"
_NOT_YET = "not in this version of thermoq"
# What there is of a setting, and values of later versions.
_LATER = {
    "encoding": ("affine", ("coded", "trellis")),
    "method": ("minmax", ("lsq", "hessian")),
    "rotation": ("none", ("hadamard",)),
}
Q8_GROUP_SIZE = 32  # the q8 encoding's own; no setting changes it
DEFAULT_GROUP_SIZE = 64
MAX_GROUP_SIZE = 2**40  # wider than any row; the core counts in 64 bits
DEFAULT_SAMPLING_STEPS = 50

_SHARD_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}

BitWidth = Literal[2, 4, 8]
GroupSize = Annotated[int, Field(ge=8, le=MAX_GROUP_SIZE, multiple_of=8)]
ComponentName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


def _expected(what: str) -> PydanticCustomError:
    """Return an error whose message is the phrase after "expected"."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def _section(value: object) -> object:
    return {} if value is None else value  # `validation:` with nothing after it


def _sequence(value: object) -> object:
    return () if value is None else tuple(value) if isinstance(value, list) else value


class Settings(BaseModel):
    """Base of all settings. A field's description is the phrase after "expected" in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ValidationSettings(Settings):
    """Phase 1: jumps, scores and violations in the report."""

    enabled: bool = Field(default=True, description="true or false")
    smoothness_threshold: float = Field(
        default=0.3, gt=0, le=1, allow_inf_nan=False, description="a number above 0, at most 1"
    )


class SmoothingSettings(Settings):
    """Phase 2, not built yet."""

    enabled: Literal[False] = Field(default=False, description=f"false ({PHASE_1_ONLY})")
    interpolation: Literal["linear", "cubic", "sigmoid"] = Field(
        default="linear", description="linear, cubic or sigmoid"
    )
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="a number of timesteps above 0, or null"
    )


class OptimizationSettings(Settings):
    """Phase 3, not built yet."""

    enabled: Literal[False] = Field(default=False, description=f"false ({PHASE_1_ONLY})")
    coupling: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="a number of at least 0"
    )


class ThermodynamicSettings(Settings):
    """What concerns the trajectory rather than the weights."""

    validation: Annotated[ValidationSettings, BeforeValidator(_section)] = ValidationSettings()
    smoothing: Annotated[SmoothingSettings, BeforeValidator(_section)] = SmoothingSettings()
    optimization: Annotated[OptimizationSettings, BeforeValidator(_section)] = (
        OptimizationSettings()
    )


class LayerRule(Settings):
    """What the user wants for the tensors that a glob matches."""

    match: str = Field(min_length=1, description="a glob on the tensor name")
    bit_width: BitWidth | None = Field(default=None, description="2, 4 or 8")
    skip: bool = Field(default=False, description="true or false")
    group_size: GroupSize | None = Field(default=None, description="a multiple of 8")

    @model_validator(mode="after")
    def _says_one_thing(self) -> LayerRule:
        given = self.model_fields_set - {"match"}
        if not given or (self.skip and given != {"skip"}):
            raise _expected("bit_width and/or group_size, or skip alone")
        if self.bit_width == 8 and self.group_size not in (None, Q8_GROUP_SIZE):
            raise _expected(f"group_size {Q8_GROUP_SIZE} or none with bit_width 8")
        return self


class QuantizationConfig(Settings):
    """Everything that decides what a run writes; defaults are those of an empty file."""

    bit_width: BitWidth = Field(default=2, description="2, 4 or 8")
    group_size: GroupSize | None = Field(default=None, description="a multiple of 8, or null")
    encoding: Literal["affine"] | None = Field(default=None, description="affine or null")
    super_block: None = Field(default=None, description=f"null ({_NOT_YET})")
    scale_bits: None = Field(default=None, description=f"null ({_NOT_YET})")
    minimum_bits: None = Field(default=None, description=f"null ({_NOT_YET})")
    method: Literal["minmax"] | None = Field(default=None, description="minmax or null")
    rotation: Literal["none"] | None = Field(default=None, description="none or null")
    num_time_groups: int = Field(default=4, ge=1, description="an integer of at least 1")
    activation_bits: Literal[4, 8] = Field(default=8, description="4 or 8")
    calibration: None = Field(default=None, description=f"null ({_NOT_YET})")
    sampling_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="an integer of at least 1, or null"
    )
    seed: int = Field(default=0, ge=0, lt=2**64, description="an integer from 0 to 2^64 - 1")
    threads: int = Field(
        default=0, ge=0, le=1024, description="an integer from 0 (all cores) to 1024"
    )
    max_shard_size: str | int = Field(
        default="5GB", description="a size of at least one byte such as 5GB, 500MB or 2GiB"
    )
    components: Annotated[tuple[ComponentName, ...], BeforeValidator(_sequence)] = Field(
        default=(), description="a list of component folder names"
    )
    thermodynamic: Annotated[ThermodynamicSettings, BeforeValidator(_section)] = (
        ThermodynamicSettings()
    )
    layers: Annotated[tuple[LayerRule, ...], BeforeValidator(_sequence)] = Field(
        default=(), description="a list of {match: GLOB, ...} rules"
    )

    @field_validator(*_LATER, mode="before")
    @classmethod
    def _is_built(cls, value: object, info: ValidationInfo) -> object:
        now, later = _LATER[info.field_name or ""]
        if isinstance(value, str) and value in later:
            raise _expected(f"{now} (others are not in this version)")
        return value

    @field_validator("group_size")
    @classmethod
    def _fits_q8(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("bit_width") == 8 and value not in (None, Q8_GROUP_SIZE):
            raise _expected(f"{Q8_GROUP_SIZE} or null (bit_width 8 has groups of {Q8_GROUP_SIZE})")
        return value

    @field_validator("encoding")
    @classmethod
    def _fits_bit_width(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("bit_width") == 8 and value is not None:
            raise _expected("null (bit_width 8 is stored as q8)")
        return value

    @field_validator("max_shard_size")
    @classmethod
    def _is_a_size(cls, value: str | int) -> str | int:
        if _shard_bytes(value) < 1:
            raise _expected(cls.model_fields["max_shard_size"].description or "")
        return value

    @property
    def weight_encoding(self) -> Literal["affine", "q8"]:
        """The encoding of body matrices."""
        return "q8" if self.bit_width == 8 else "affine"

    @property
    def affine_group_size(self) -> int:
        """The group size of matrices with 2 or 4 bits, whatever `bit_width` is."""
        return DEFAULT_GROUP_SIZE if self.group_size is None else self.group_size

    @property
    def resolved_group_size(self) -> int:
        """The group size of body matrices."""
        return Q8_GROUP_SIZE if self.bit_width == 8 else self.affine_group_size

    @property
    def resolved_method(self) -> Literal["minmax"]:
        """The weight method."""
        return "minmax"

    @property
    def resolved_sampling_steps(self) -> int:
        """The sampler steps that a jump is measured over."""
        return DEFAULT_SAMPLING_STEPS if self.sampling_steps is None else self.sampling_steps

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes; KB, MB, GB, TB are powers of 1000, KiB ... TiB of 1024."""
        return _shard_bytes(self.max_shard_size)


def _shard_bytes(size: str | int) -> int:
    """Return the bytes of a size such as "5GB"; 0 if it is none."""
    if isinstance(size, int):
        return size
    parts = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]*)\s*", size)
    unit = _SHARD_UNITS.get(parts[2].upper()) if parts else None
    return int(float(parts[1]) * unit) if parts and unit else 0
