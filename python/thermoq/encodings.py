"""Which encoding a matrix takes: what a run asks for, and the defaults of the rest.

Pure functions of the settings, the bit width and the number of columns. A setting that is given
holds for every tensor of 2 or 4 bits; what is not given is the default of the tensor's own bit
width, so that modulation layers at 4 bits in a run of 2 have the groups of 4 bits. Eight bits are
always q8, three always trellis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from thermoq.terms import Encoding, Method

if TYPE_CHECKING:  # it needs NumPy and the core, which settings do not
    from thermoq.weights import Scheme

MatrixEncoding = Literal["affine", "coded", "trellis"]
"""What can be asked for; q8 comes with 8 bits."""

MAX_GROUP_SIZE: Final = 2**40  # wider than any row; the core counts in 64 bits
MAX_LSQ_GROUP_SIZE: Final = 65536  # the core's limit
MAX_GROUPS_IN_SUPER_BLOCK: Final = 256
MAX_SUPER_BLOCK: Final = 65536  # weights
Q8_GROUP_SIZE: Final = 32  # the q8 encoding's own; no setting changes it
AFFINE_GROUP_SIZE: Final = 64
MANY_ROWS: Final = 1024
DEFAULT_EFFORT: Final = 5
"""Of trellis: the window's bits are 7 more."""
TRELLIS_BY_DEFAULT: Final = True
"""Whether trellis is what 2 bits get, by lsq and hessian, where no encoding is asked for."""

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
    effort: int | None = None

    def for_rule(self, encoding: MatrixEncoding | None, group_size: int | None) -> EncodingChoice:
        """Return what is asked for where a rule of `layers` asks for this."""
        return replace(
            self, encoding=encoding or self.encoding, group_size=group_size or self.group_size
        )

    def encoding_of(self, bit_width: int) -> Encoding:
        """Return the encoding of tensors of `bit_width` bits."""
        if bit_width == 8:
            return "q8"
        if self.encoding is None and bit_width == 2 and self._takes_trellis:
            return "trellis"
        return self.encoding or ("affine" if self.method == "minmax" else "coded")

    @property
    def _takes_trellis(self) -> bool:
        """Whether the default of 2 bits is trellis.

        It is not where something is asked for that only coded has, or groups: their scale and
        minimum are what codes without trellis have.
        """
        if not TRELLIS_BY_DEFAULT or self.method == "minmax":
            return False
        of_coded = self.super_block or self.scale_bits or self.minimum_bits
        return not of_coded and (self.group_size is None or self.effort is not None)

    def group_size_of(self, bit_width: int) -> int | None:
        """Return the group size of tensors of `bit_width` bits; None: by the length of the row."""
        encoding = self.encoding_of(bit_width)
        if encoding == "q8":
            return Q8_GROUP_SIZE
        if self.group_size is not None or encoding == "trellis":
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

    def window_bits_of(self, bit_width: int) -> int | None:
        """Return the bits of a trellis code's window; None where it has none."""
        if self.encoding_of(bit_width) != "trellis":
            return None
        from thermoq.trellis import WINDOW_BITS

        return WINDOW_BITS[self.effort or DEFAULT_EFFORT]


def scheme_for(bit_width: int, cols: int, choice: EncodingChoice, rows: int = MANY_ROWS) -> Scheme:
    """Return how a matrix [rows, cols] is stored at `bit_width` bits (2, 3, 4 or 8).

    `rows` make no difference but to trellis, whose streams run down them.
    """
    from thermoq.weights import Scheme

    encoding, group_size = choice.encoding_of(bit_width), choice.group_size_of(bit_width)
    if encoding == "trellis":
        return _trellis_scheme(bit_width, rows, cols, choice)
    assert group_size is not None
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


def _trellis_scheme(bit_width: int, rows: int, cols: int, choice: EncodingChoice) -> Scheme:
    from thermoq.trellis import TABLE_SEED, default_block_rows, default_group_size
    from thermoq.weights import Scheme

    return Scheme(
        "trellis",
        bit_width,
        choice.group_size_of(bit_width) or default_group_size(cols),
        window_bits=choice.window_bits_of(bit_width) or 0,
        block_rows=default_block_rows(rows),
        table_seed=TABLE_SEED,
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
