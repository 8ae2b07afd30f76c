"""The settings of a run as checked, typed values.

Reading them from a file and from flags is config.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from thermoq.encodings import (
    MAX_GROUPS_IN_SUPER_BLOCK,
    MAX_LSQ_GROUP_SIZE,
    MAX_SUPER_BLOCK,
    Q8_GROUP_SIZE,
    EncodingChoice,
    MatrixEncoding,
)
from thermoq.layer_rules import ONLY_TRELLIS, LayerRule, check_rule, is_super_block
from thermoq.settings_base import (
    ActivationBits,
    BitWidth,
    Effort,
    GroupSize,
    InputBits,
    Settings,
    expected,
    number,
    section,
    sequence,
)
from thermoq.terms import Encoding, Grouping, LayerClass, Method
from thermoq.thermodynamic_settings import ThermodynamicSettings

DEFAULT_SAMPLING_STEPS = 50

_CHOICE = tuple(field.name for field in fields(EncodingChoice))

_SHARD_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}

SuperBlock = Annotated[int, Field(ge=8, le=MAX_SUPER_BLOCK, multiple_of=8)]
ParameterBits = Annotated[int, Field(ge=1, le=8)]
ComponentName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


@dataclass(frozen=True)
class _Places:
    """Where settings were given; configurations that differ in nothing else are equal."""

    by_key: Mapping[str, str] = field(default_factory=dict, compare=False)


class QuantizationConfig(Settings):
    """Everything that decides what a run writes; defaults are those of an empty file."""

    _places: _Places = PrivateAttr(default_factory=_Places)
    bit_width: BitWidth = Field(default=2, description="2, 3, 4 or 8")
    # Each of these is checked against those above it.
    method: Method | None = Field(default=None, description="minmax, lsq, hessian or null")
    encoding: MatrixEncoding | None = Field(
        default=None, description="affine, coded, trellis or null"
    )
    group_size: GroupSize | None = Field(default=None, description="a multiple of 8, or null")
    super_block: SuperBlock | None = Field(
        default=None, description="a multiple of group_size, or null"
    )
    scale_bits: ParameterBits | None = Field(default=None, description="1 to 8, or null")
    minimum_bits: ParameterBits | None = Field(default=None, description="1 to 8, or null")
    effort: Effort | None = Field(default=None, description="an integer from 1 to 5, or null")
    rotation: Literal["none", "hadamard"] | None = Field(
        default=None, description="none, hadamard or null"
    )
    num_time_groups: int = Field(default=4, ge=1, description="an integer of at least 1")
    activation_bits: ActivationBits = Field(default=8, description="4 or 8")
    sensitive_activation_bits: Annotated[InputBits, BeforeValidator(number)] | None = Field(
        default=None, description="4, 8, none or null"
    )
    calibration: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="the path of a calibration file, or null"
    )
    grouping: Grouping = Field(default="uniform", description="uniform or adaptive")
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
    components: Annotated[tuple[ComponentName, ...], BeforeValidator(sequence)] = Field(
        default=(), description="a list of component folder names"
    )
    thermodynamic: Annotated[ThermodynamicSettings, BeforeValidator(section)] = (
        ThermodynamicSettings()
    )
    target_bits: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="bits per weight above 0, or null"
    )
    max_size: str | int | None = Field(
        default=None, description="a size of at least one byte such as 3GB or 500MB, or null"
    )
    layers: Annotated[tuple[LayerRule, ...], BeforeValidator(sequence)] = Field(
        default=(), description="a list of {match: GLOB, ...} rules"
    )

    @field_validator("encoding")
    @classmethod
    def _fits_method(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("bit_width") == 8:
            raise expected("null (bit_width 8 is stored as q8)")
        if value in ("coded", "trellis") and info.data.get("method") == "minmax":
            raise expected(f"affine or null ({value} needs method lsq)")
        return value

    @field_validator("group_size")
    @classmethod
    def _fits_q8_and_lsq(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("bit_width") == 8 and value not in (None, Q8_GROUP_SIZE):
            raise expected(f"{Q8_GROUP_SIZE} or null (bit_width 8 has groups of {Q8_GROUP_SIZE})")
        if (value or 0) > MAX_LSQ_GROUP_SIZE and info.data.get("method") != "minmax":
            raise expected(f"at most {MAX_LSQ_GROUP_SIZE} (method lsq), or null")
        return value

    @field_validator("super_block", "scale_bits", "minimum_bits")
    @classmethod
    def _is_of_coded(cls, value: int | None, info: ValidationInfo) -> int | None:
        choice, bits = _choice_so_far(info)
        if value is None or choice is None:
            return value
        if bits == 8:
            raise expected("null (bit_width 8 is stored as q8)")
        given: dict[str, Any] = {str(info.field_name): value}
        choice = replace(choice, **given)
        if choice.encoding_of(bits) != "coded":
            encoding = choice.encoding_of(bits)
            why = f"encoding {encoding}" if choice.encoding else "method minmax, encoding affine"
            raise expected(f"null ({why})")
        if info.field_name == "super_block":
            _check_super_block(value, bits, choice)
        return value

    @field_validator("layers")
    @classmethod
    def _fit_the_run(
        cls, rules: tuple[LayerRule, ...], info: ValidationInfo
    ) -> tuple[LayerRule, ...]:
        choice, bits = _choice_so_far(info)
        if choice is not None:
            for index, rule in enumerate(rules):
                check_rule(index, rule, bits, choice)
        return rules

    @field_validator("grouping")
    @classmethod
    def _is_measured(cls, value: Grouping, info: ValidationInfo) -> Grouping:
        if value == "adaptive" and info.data.get("calibration", "") is None:
            raise expected("uniform (adaptive needs a calibration)")
        return value

    @field_validator("max_shard_size", "max_size")
    @classmethod
    def _is_a_size(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        if value is not None and _size_bytes(value) < 1:
            raise expected(cls.model_fields[info.field_name or ""].description or "")
        return value

    @model_validator(mode="after")
    def _has_trellis_for_what_is_its_own(self) -> QuantizationConfig:
        if self.bit_width == 3 and self.encoding != "trellis":
            raise expected(ONLY_TRELLIS, at=("bit_width",), got=3)
        if self.effort is not None and not self._may_have_trellis:
            raise expected("null (the encoding is not trellis)", at=("effort",), got=self.effort)
        return self

    @property
    def _may_have_trellis(self) -> bool:
        choice = self.encoding_choice
        by_rules = (
            choice.for_rule(rule.encoding, rule.group_size).encoding_of(
                rule.bit_width or self.bit_width
            )
            for rule in self.layers
            if not rule.skip
        )
        return "trellis" in (choice.encoding_of(self.bit_width), *by_rules)

    @model_validator(mode="after")
    def _has_one_budget(self) -> QuantizationConfig:
        if self.target_bits is not None and self.max_size is not None:
            raise expected("null beside target_bits", at=("max_size",), got=self.max_size)
        if self.has_budget and "bit_width" in self.model_fields_set:
            raise expected(
                "none beside a size budget, which chooses it", at=("bit_width",), got=self.bit_width
            )
        return self

    @model_validator(mode="after")
    def _has_what_the_method_needs(self) -> QuantizationConfig:
        if self.method == "hessian" and self.calibration is None:
            what = "minmax, lsq or null (hessian needs a calibration)"
            raise expected(what, at=("method",), got=self.method)
        if self.rotation == "hadamard" and self.resolved_method == "minmax":
            what = "none or null (hadamard needs method lsq or hessian)"
            raise expected(what, at=("rotation",), got=self.rotation)
        has_fewer_bits = any(rule.bit_width in (2, 3, 4) for rule in self.layers)
        if self.rotation == "hadamard" and self.bit_width == 8 and not has_fewer_bits:
            what = "none or null (bit_width 8 is stored as q8, which is not rotated)"
            raise expected(what, at=("rotation",), got=self.rotation)
        return self

    @model_validator(mode="after")
    def _has_what_the_phase_needs(self) -> QuantizationConfig:
        at = ("thermodynamic", "optimization", "enabled")
        if self.thermodynamic.optimization.enabled and self.calibration is None:
            what = (
                "a --calibration beside the phase optimize, which `thermoq calibrate --model DIR "
                "--output CALIBRATION.safetensors` makes"
            )
            raise expected(what, at=at, got=None)
        return self

    def with_places(self, places: Mapping[str, str]) -> QuantizationConfig:
        """Return the same settings, knowing where keys were given (a flag; file, line and key)."""
        copy = self.model_copy()
        copy._places = _Places(places)
        return copy

    def place_of(self, key: str) -> str:
        """Return where `key` was given, for an error that only the checkpoint brings out."""
        return self._places.by_key.get(key, f"configuration: {key}")

    @property
    def resolved_method(self) -> Method:
        """The weight method."""
        return self.method or ("lsq" if self.calibration is None else "hessian")

    @property
    def resolved_rotation(self) -> Literal["none", "hadamard"]:
        """The rotation of inputs: by default where it measured better (docs/weight-methods.md)."""
        rotates = self.rotates(self.encoding_choice.encoding_of(self.bit_width))
        return "hadamard" if rotates else "none"

    def rotates(self, encoding: Encoding) -> bool:
        """Tell whether the inputs of layers of an encoding are rotated, if they can be."""
        if self.rotation is not None:
            return self.rotation == "hadamard"
        with_affine = self.resolved_method == "hessian" and self.encoding == "affine"
        return encoding == "trellis" or with_affine

    def activation_bits_of(self, layer_class: LayerClass | None) -> int | None:
        """Return the bits of the inputs of a class's layers, where no rule says otherwise.

        None: they stay as they are. With 4 bits for the body, those of sensitive layers do, as a
        model's own input in 8 bits costs as much again (`python bench/phases.py activations`).
        Modulation sees one row a sample: 8 bits cost nothing there, 4 as much as the body's.
        """
        if layer_class == "sensitive":
            bits = self.sensitive_activation_bits or (8 if self.activation_bits == 8 else "none")
            return None if bits == "none" else bits
        return 8 if layer_class == "modulation" else self.activation_bits

    @property
    def fits_lsq(self) -> bool:
        """True if nothing else is set that the method lsq refuses."""
        sizes = [self.group_size, *(rule.group_size for rule in self.layers)]
        return max(size or 0 for size in sizes) <= MAX_LSQ_GROUP_SIZE

    @property
    def encoding_choice(self) -> EncodingChoice:
        """What this asks for of the encodings, for all tensors that no rule of `layers` is for."""
        return EncodingChoice(
            self.resolved_method,
            self.encoding,
            self.group_size,
            self.super_block,
            self.scale_bits,
            self.minimum_bits,
            self.effort,
        )

    @property
    def resolved_sampling_steps(self) -> int:
        """The sampler steps that a jump is measured over."""
        return DEFAULT_SAMPLING_STEPS if self.sampling_steps is None else self.sampling_steps

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes; KB, MB, GB, TB are powers of 1000, KiB ... TiB of 1024."""
        return _size_bytes(self.max_shard_size)

    @property
    def has_budget(self) -> bool:
        """Whether bit widths and encodings are chosen to fit a size."""
        return self.target_bits is not None or self.max_size is not None

    @property
    def max_size_bytes(self) -> int | None:
        """`max_size` in bytes, in the units of `max_shard_size`."""
        return None if self.max_size is None else _size_bytes(self.max_size)


def _choice_so_far(info: ValidationInfo) -> tuple[EncodingChoice | None, int]:
    """Return what the keys above ask for and the bit width; None if one of them is wrong."""
    above = {key: info.data[key] for key in _CHOICE if key in info.data}
    if not above.keys() >= {"method", "encoding", "group_size"} or "bit_width" not in info.data:
        return None, 0
    if info.data["bit_width"] == 3 and above["encoding"] != "trellis":
        return None, 0
    return EncodingChoice(**{**above, "method": above["method"] or "lsq"}), info.data["bit_width"]


def _check_super_block(super_block: int, bits: int, choice: EncodingChoice) -> None:
    """Refuse super-blocks that do not hold whole groups, or more than the format can have."""
    for width in sorted({bits, 4}):  # modulation layers have 4 bits where the body has 2
        size = choice.group_size_of(width)
        assert size is not None  # coded has one
        if not is_super_block(super_block, size):
            limit = min(MAX_GROUPS_IN_SUPER_BLOCK * size, MAX_SUPER_BLOCK)
            raise expected(
                f"a multiple of {size} (the group size at {width} bits) up to {limit}, or null"
            )


def _size_bytes(size: str | int) -> int:
    """Return the bytes of a size such as "5GB"; 0 if it is none."""
    if isinstance(size, int):
        return size
    parts = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]*)\s*", size)
    unit = _SHARD_UNITS.get(parts[2].upper()) if parts else None
    return int(Decimal(parts[1]) * unit) if parts and unit else 0
