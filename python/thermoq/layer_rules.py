"""The rules of `layers`, and what refuses one that does not fit the rest of the settings."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from thermoq.encodings import (
    MAX_GROUPS_IN_SUPER_BLOCK,
    MAX_LSQ_GROUP_SIZE,
    Q8_GROUP_SIZE,
    EncodingChoice,
    MatrixEncoding,
)
from thermoq.settings_base import BitWidth, GroupSize, Settings, built, expected


class LayerRule(Settings):
    """What the user wants for the tensors that a glob matches."""

    match: str = Field(min_length=1, description="a glob on the tensor name")
    bit_width: BitWidth | None = Field(default=None, description="2, 4 or 8")
    skip: bool = Field(default=False, description="true or false")
    group_size: GroupSize | None = Field(default=None, description="a multiple of 8")
    encoding: MatrixEncoding | None = Field(default=None, description="affine or coded")

    @field_validator("encoding", mode="before")
    @classmethod
    def _is_built(cls, value: object) -> object:
        return built("encoding", value)

    @model_validator(mode="after")
    def _says_one_thing(self) -> LayerRule:
        given = self.model_fields_set - {"match"}
        if not given or (self.skip and given != {"skip"}):
            raise expected("bit_width, group_size and/or encoding, or skip alone")
        if self.bit_width == 8 and self.group_size not in (None, Q8_GROUP_SIZE):
            raise expected(f"group_size {Q8_GROUP_SIZE} or none with bit_width 8")
        if self.bit_width == 8 and self.encoding is not None:
            raise expected("no encoding with bit_width 8, which is stored as q8")
        return self


def check_rule(index: int, rule: LayerRule, bits: int, run: EncodingChoice) -> None:
    """Refuse a rule of `layers` that goes well by itself, but not with the run's settings."""
    if rule.encoding == "coded" and run.method == "minmax":
        raise expected("affine (coded needs method lsq)", at=(index, "encoding"), got="coded")
    if (rule.group_size or 0) > MAX_LSQ_GROUP_SIZE and run.method != "minmax":
        what = f"at most {MAX_LSQ_GROUP_SIZE} (method lsq)"
        raise expected(what, at=(index, "group_size"), got=rule.group_size)
    choice = run.for_rule(rule.encoding, rule.group_size)
    for width in (rule.bit_width,) if rule.bit_width else sorted({bits, 4}):
        size = choice.group_size_of(width)
        if (
            run.super_block
            and choice.encoding_of(width) == "coded"
            and not is_super_block(run.super_block, size)
        ):
            key = "group_size" if rule.group_size else "bit_width"
            what = f"groups that super_block {run.super_block} holds 1 to "
            what += f"{MAX_GROUPS_IN_SUPER_BLOCK} of"
            raise expected(what, at=(index, key), got=size)


def is_super_block(super_block: int, group_size: int) -> bool:
    """Tell whether `super_block` weights are whole groups, and not more than the format has."""
    return super_block % group_size == 0 and super_block <= MAX_GROUPS_IN_SUPER_BLOCK * group_size
