"""Between which schemes a size budget chooses for a matrix.

What a run asks for of the encodings holds for every candidate; the budget chooses the rest. But
trellis joins the others, as q8 does: it has one scheme for each of 2, 3 and 4 bits and is the best
up to 4 bits, while between 4 and 8 small groups are better. The lists hold what lies on the lower
convex hull of bits per weight and error on real weights (a sentence encoder's and a diffusion
transformer's), and the defaults.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from thermoq.checkpoint.header import DTYPE_BITS
from thermoq.encodings import (
    AFFINE_GROUP_SIZE,
    CODED_DEFAULTS,
    MANY_ROWS,
    MAX_GROUPS_IN_SUPER_BLOCK,
    CodedDefaults,
    EncodingChoice,
    scheme_for,
)
from thermoq.layers import bits_for
from thermoq.terms import LayerClass
from thermoq.weights import Scheme

_CODED: Final = (
    (2, CodedDefaults(64, 4, 3)),
    (2, CodedDefaults(32, 3, 3)),
    (2, CodedDefaults(16, 3, 3)),
    (2, CodedDefaults(8, 3, 3)),
    (2, CodedDefaults(8, 4, 4)),
    (2, CODED_DEFAULTS[2]),
    (4, CodedDefaults(64, 4, 4)),
    (4, CodedDefaults(32, 4, 4)),
    (4, CodedDefaults(16, 4, 4)),
    (4, CodedDefaults(16, 6, 6)),
    (4, CodedDefaults(8, 5, 5)),
    (4, CODED_DEFAULTS[4]),
)
_AFFINE: Final = ((2, 128), (2, AFFINE_GROUP_SIZE), (4, 128), (4, AFFINE_GROUP_SIZE))


def candidates_for(
    layer_class: LayerClass, cols: int, choice: EncodingChoice, rows: int = MANY_ROWS
) -> tuple[Scheme, ...]:
    """Return the schemes for a matrix [rows, cols], from few bits to many.

    The last of each bit width is its default. A class keeps at least the bits that it has in a run
    of 2 bits: modulation 4, sensitive layers and tables 8, so that these have one candidate.
    """
    found: list[Scheme] = []
    for bit_width in (2, 3, 4):
        if bit_width >= bits_for(layer_class, 2):
            found += _with_trellis(bit_width, rows, cols, choice)
    return tuple(dict.fromkeys([*found, scheme_for(8, cols, choice)]))


def _with_trellis(bit_width: int, rows: int, cols: int, choice: EncodingChoice) -> list[Scheme]:
    """Return the schemes of 2, 3 or 4 bits; `trellis`, where it may be, has one of each.

    More effort takes no bits worth mentioning, so that it is none of the budget's choices.
    """
    if choice.encoding_of(2) != "trellis":
        return [] if bit_width == 3 else _of_bit_width(bit_width, cols, choice)
    trellis = scheme_for(bit_width, cols, replace(choice, encoding="trellis"), rows)
    is_default = choice.encoding_of(bit_width) == "trellis"
    # The groups that are asked for beside trellis are its own.
    group_size = None if choice.encoding == "trellis" else choice.group_size
    open_choice = replace(choice, encoding=None, group_size=group_size)
    others = [] if bit_width == 3 else _of_bit_width(bit_width, cols, open_choice)
    return [*others, trellis] if is_default else [trellis, *others]


def _of_bit_width(bit_width: int, cols: int, choice: EncodingChoice) -> list[Scheme]:
    """Return the schemes of 2 or 4 bits.

    Where the encoding is left open, `affine` is among them if it takes fewer bytes than any `coded`
    (with large groups, or in short rows, where the pair of a super-block weighs much), and with its
    default group: far from 0 it is better, as f16 minima are finer than codes.
    """
    affine = replace(
        choice, encoding="affine", super_block=None, scale_bits=None, minimum_bits=None
    )
    in_affine = _schemes(
        bit_width,
        cols,
        [
            replace(affine, group_size=choice.group_size or group_size)
            for width, group_size in _AFFINE
            if width == bit_width
        ],
    )
    if choice.encoding_of(bit_width) == "affine":
        return in_affine
    in_coded = _schemes(
        bit_width,
        cols,
        [
            replace(
                choice,
                encoding="coded",
                group_size=choice.group_size or coded.group_size,
                scale_bits=choice.scale_bits or coded.scale_bits,
                minimum_bits=choice.minimum_bits or coded.minimum_bits,
            )
            for width, coded in _CODED
            if width == bit_width
        ],
    )
    if choice.encoding == "coded" or choice.super_block or choice.scale_bits or choice.minimum_bits:
        return in_coded
    smallest = min((_row_bytes(scheme, cols) for scheme in in_coded), default=math.inf)
    default = in_affine[-1:]
    return [
        one for one in in_affine if one in default or _row_bytes(one, cols) < smallest
    ] + in_coded


def _schemes(bit_width: int, cols: int, variants: list[EncodingChoice]) -> list[Scheme]:
    return [scheme_for(bit_width, cols, one) for one in variants if _fits(one, bit_width)]


def _row_bytes(scheme: Scheme, cols: int) -> int:
    parts = scheme.stored_parts(1, cols).values()
    return sum(DTYPE_BITS[dtype] * math.prod(shape) // 8 for dtype, shape in parts)


def kind_of(scheme: Scheme) -> Scheme:
    """Return the scheme without what follows from the shape of a matrix."""
    if scheme.encoding == "trellis":
        return replace(scheme, group_size=0, block_rows=0)
    return replace(scheme, super_block=0)


def _fits(variant: EncodingChoice, bit_width: int) -> bool:
    """Whether the super-block that the run asks for, if any, is made of these groups."""
    if variant.super_block is None or variant.encoding_of(bit_width) != "coded":
        return True
    group_size = variant.group_size_of(bit_width)
    assert group_size is not None  # coded has one
    whole = variant.super_block % group_size == 0
    return whole and variant.super_block <= MAX_GROUPS_IN_SUPER_BLOCK * group_size
