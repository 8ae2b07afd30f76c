"""Which encoding a matrix takes: what a run asks for, and the defaults of the rest.

Pure functions of the settings, the bit width and the number of columns. A setting that is given
holds for every tensor of 2 or 4 bits; what is not given is the default of the tensor's own bit
width, so that modulation layers at 4 bits in a run of 2 have the groups of 4 bits. Eight bits are
always q8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from thermoq.terms import Encoding, Method

if TYPE_CHECKING:  # it needs NumPy and the core, which settings do not
    from thermoq.weights import Scheme

MatrixEncoding = Literal["affine", "coded"]
"""What can be asked for; q8 comes with 8 bits."""

MAX_GROUP_SIZE: Final = 2**40  # wider than any row; the core counts in 64 bits
MAX_LSQ_GROUP_SIZE: Final = 65536  # the core's limit
MAX_GROUPS_IN_SUPER_BLOCK: Final = 256
MAX_SUPER_BLOCK: Final = 65536  # weights
Q8_GROUP_SIZE: Final = 32  # the q8 encoding's own; no setting changes it
AFFINE_GROUP_SIZE: Final = 64

_SUPER_BLOCK: Final = 256  # K-quants', where it divides the row
_MAX_DEFAULT_SUPER_BLOCK: Final = 512


@dataclass(frozen=True)
class CodedDefaults:
    """Group size and bits of the group parameters of `coded`."""

    group_size: int
    scale_bits: int
    minimum_bits: int


CODED_DEFAULTS: Final = {2: CodedDefaults(16, 4, 4), 4: CodedDefaults(32, 6, 6)}
"""By bit width: with super-blocks of 256 the value sets of llama.cpp's Q2_K and Q4_K."""


@dataclass(frozen=True)
class EncodingChoice:
    """What a run asks for; None: the default, of the method (`encoding`) or of the bit width."""

    method: Method = "lsq"
    encoding: MatrixEncoding | None = None
    group_size: int | None = None
    super_block: int | None = None
    scale_bits: int | None = None
    minimum_bits: int | None = None

    def for_rule(self, encoding: MatrixEncoding | None, group_size: int | None) -> EncodingChoice:
        """Return what is asked for where a rule of `layers` asks for this."""
        return replace(
            self, encoding=encoding or self.encoding, group_size=group_size or self.group_size
        )

    def encoding_of(self, bit_width: int) -> Encoding:
        """Return the encoding of tensors of `bit_width` bits."""
        if bit_width == 8:
            return "q8"
        return self.encoding or ("affine" if self.method == "minmax" else "coded")

    def group_size_of(self, bit_width: int) -> int:
        """Return the group size of tensors of `bit_width` bits."""
        encoding = self.encoding_of(bit_width)
        if encoding == "q8":
            return Q8_GROUP_SIZE
        if self.group_size is not None:
            return self.group_size
        return CODED_DEFAULTS[bit_width].group_size if encoding == "coded" else AFFINE_GROUP_SIZE

    def scale_bits_of(self, bit_width: int) -> int | None:
        """Return the bits of a group's scale code; None where it has none."""
        if self.encoding_of(bit_width) != "coded":
            return None
        return self.scale_bits or CODED_DEFAULTS[bit_width].scale_bits

    def minimum_bits_of(self, bit_width: int) -> int | None:
        """Return the bits of a group's minimum code; None where it has none."""
        if self.encoding_of(bit_width) != "coded":
            return None
        return self.minimum_bits or CODED_DEFAULTS[bit_width].minimum_bits


def scheme_for(bit_width: int, cols: int, choice: EncodingChoice) -> Scheme:
    """Return how a matrix of `cols` columns is stored at `bit_width` bits (2, 4 or 8)."""
    from thermoq.weights import Scheme

    encoding, group_size = choice.encoding_of(bit_width), choice.group_size_of(bit_width)
    if encoding != "coded":
        return Scheme(encoding, bit_width, group_size)
    return Scheme(
        encoding,
        bit_width,
        group_size,
        super_block=choice.super_block or default_super_block(cols, group_size),
        scale_bits=choice.scale_bits_of(bit_width) or 0,
        minimum_bits=choice.minimum_bits_of(bit_width) or 0,
    )


def default_super_block(cols: int, group_size: int) -> int:
    """Return the weights of a super-block in rows of `cols` weights.

    256 where it divides the row; else the row is cut into equal super-blocks, as few as have at
    most 512 weights (before they are rounded up to whole groups).
    """
    if cols % _SUPER_BLOCK == 0 and _SUPER_BLOCK % group_size == 0:
        return _SUPER_BLOCK
    pieces = max(1, -(-cols // _MAX_DEFAULT_SUPER_BLOCK))
    groups = max(1, -(-cols // group_size))
    return group_size * -(-groups // pieces)
