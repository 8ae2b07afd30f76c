"""The rules of `layers`, and what refuses one that does not fit the rest of the settings."""

from __future__ import annotations

from typing import Final

from pydantic import Field, model_validator

from thermoq.encodings import (
    MAX_GROUPS_IN_SUPER_BLOCK,
    MAX_LSQ_GROUP_SIZE,
    Q8_GROUP_SIZE,
    EncodingChoice,
    MatrixEncoding,
)
from thermoq.settings_base import BitWidth, GroupSize, InputBits, Settings, expected

ONLY_TRELLIS: Final = "2, 4 or 8 (3 bits are of the encoding trellis alone)"


class LayerRule(Settings):
    """What the user wants for the tensors that a glob matches."""

    match: str = Field(min_length=1, description="a glob on the tensor name")
    bit_width: BitWidth | None = Field(default=None, description="2, 3, 4 or 8")
    skip: bool = Field(default=False, description="true or false")
    group_size: GroupSize | None = Field(default=None, description="a multiple of 8")
    encoding: MatrixEncoding | None = Field(default=None, description="affine, coded or trellis")
    activation_bits: InputBits | None = Field(default=None, description="4, 8 or none")

    @model_validator(mode="after")
    def _says_one_thing(self) -> LayerRule:
        given = self.model_fields_set - {"match"}
        if not given or (self.skip and given != {"skip"}):
            raise expected("bit_width, group_size, encoding and/or activation_bits, or skip alone")
        if self.bit_width == 8 and self.group_size not in (None, Q8_GROUP_SIZE):
            raise expected(f"group_size {Q8_GROUP_SIZE} or none with bit_width 8")
        if self.bit_width == 8 and self.encoding is not None:
            raise expected("no encoding with bit_width 8, which is stored as q8")
        return self


def check_rule(index: int, rule: LayerRule, bits: int, run: EncodingChoice) -> None:
    """Refuse a rule of `layers` that goes well by itself, but not with the run's settings."""
    if rule.encoding in ("coded", "trellis") and run.method == "minmax":
        what = f"affine ({rule.encoding} needs method lsq)"
        raise expected(what, at=(index, "encoding"), got=rule.encoding)
    if (rule.group_size or 0) > MAX_LSQ_GROUP_SIZE and run.method != "minmax":
        what = f"at most {MAX_LSQ_GROUP_SIZE} (method lsq)"
        raise expected(what, at=(index, "group_size"), got=rule.group_size)
    choice = run.for_rule(rule.encoding, rule.group_size)
    for width in (rule.bit_width,) if rule.bit_width else (bits,):
        if width == 3 and choice.encoding != "trellis":
            what = f"{ONLY_TRELLIS}, or encoding trellis beside it"
            raise expected(what, at=(index, "bit_width"), got=3)
    for width in (rule.bit_width,) if rule.bit_width else sorted({bits, 4}):
        size = choice.group_size_of(width)
        if (
            run.super_block
            and choice.encoding_of(width) == "coded"
            and size is not None
            and not is_super_block(run.super_block, size)
        ):
            key = "group_size" if rule.group_size else "bit_width"
            what = f"groups that super_block {run.super_block} holds 1 to "
            what += f"{MAX_GROUPS_IN_SUPER_BLOCK} of"
            raise expected(what, at=(index, key), got=size)


def is_super_block(super_block: int, group_size: int) -> bool:
    """Tell whether `super_block` weights are whole groups, and not more than the format has."""
    return super_block % group_size == 0 and super_block <= MAX_GROUPS_IN_SUPER_BLOCK * group_size
