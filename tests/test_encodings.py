"""Which encoding a matrix takes: defaults by bit width and row, and what settings change."""

from __future__ import annotations

from typing import Any

import pytest
from thermoq.encodings import (
    MANY_ROWS,
    MAX_GROUPS_IN_SUPER_BLOCK,
    EncodingChoice,
    default_super_block,
    scheme_for,
)
from thermoq.trellis import TABLE_SEED
from thermoq.weights import Scheme


def coded(bits: int, group: int, block: int, scale_bits: int, minimum_bits: int) -> Scheme:
    return Scheme(
        "coded",
        bits,
        group,
        super_block=block,
        scale_bits=scale_bits,
        minimum_bits=minimum_bits,
    )


def trellis(group: int, window_bits: int) -> Scheme:
    return Scheme(
        "trellis", 2, group, window_bits=window_bits, block_rows=MANY_ROWS, table_seed=TABLE_SEED
    )


LSQ, MINMAX = EncodingChoice("lsq"), EncodingChoice("minmax")
CODED = EncodingChoice("lsq", "coded")


@pytest.mark.parametrize(
    ("bit_width", "cols", "choice", "expected"),
    [
        (2, 4096, MINMAX, Scheme("affine", 2, 64)),
        (4, 100, MINMAX, Scheme("affine", 4, 64)),
        (8, 4096, MINMAX, Scheme("q8", 8, 32)),
        # With super-blocks of 256 the value sets of Q2_K, Q4_K and Q8_0.
        (2, 4096, CODED, coded(2, 16, 256, 4, 4)),
        (4, 4096, LSQ, coded(4, 32, 256, 6, 6)),
        (8, 4096, LSQ, Scheme("q8", 8, 32)),
        (2, 384, CODED, coded(2, 16, 384, 4, 4)),
        (4, 1152, LSQ, coded(4, 32, 384, 6, 6)),
        # At 2 bits nothing comes near it.
        (2, 4096, LSQ, trellis(4096, 12)),
        (2, 384, EncodingChoice("hessian"), trellis(384, 12)),
        (2, 384, EncodingChoice("lsq", effort=1), trellis(384, 8)),
        (2, 384, EncodingChoice("lsq", group_size=64, effort=1), trellis(64, 8)),
    ],
)
def test_defaults(bit_width: int, cols: int, choice: EncodingChoice, expected: Scheme) -> None:
    assert scheme_for(bit_width, cols, choice) == expected


@pytest.mark.parametrize(
    ("given", "two_bits", "four_bits"),
    [
        ({"encoding": "affine"}, Scheme("affine", 2, 64), Scheme("affine", 4, 64)),
        ({"encoding": "affine", "group_size": 40}, Scheme("affine", 2, 40),
         Scheme("affine", 4, 40)),
        ({"method": "minmax", "group_size": 128}, Scheme("affine", 2, 128),
         Scheme("affine", 4, 128)),
        ({"group_size": 64}, coded(2, 64, 256, 4, 4), coded(4, 64, 256, 6, 6)),
        ({"super_block": 96}, coded(2, 16, 96, 4, 4), coded(4, 32, 96, 6, 6)),
        ({"scale_bits": 3}, coded(2, 16, 256, 3, 4), coded(4, 32, 256, 3, 6)),
        ({"minimum_bits": 8}, coded(2, 16, 256, 4, 8), coded(4, 32, 256, 6, 8)),
    ],
)  # fmt: skip
def test_what_is_given_holds_at_two_and_four_bits(
    given: dict[str, Any], two_bits: Scheme, four_bits: Scheme
) -> None:
    choice = EncodingChoice(**given)
    assert scheme_for(2, 1024, choice) == two_bits
    assert scheme_for(4, 1024, choice) == four_bits
    assert scheme_for(8, 1024, choice) == Scheme("q8", 8, 32)


def test_a_rule_changes_what_it_names() -> None:
    run = EncodingChoice("lsq", "coded", 64, scale_bits=5)
    assert run.for_rule(None, None) == run
    assert scheme_for(2, 512, run.for_rule("affine", None)) == Scheme("affine", 2, 64)
    assert scheme_for(2, 512, run.for_rule(None, 32)) == coded(2, 32, 256, 5, 4)
    assert scheme_for(8, 512, run.for_rule("coded", 40)) == Scheme("q8", 8, 32)


@pytest.mark.parametrize(
    ("cols", "group_size", "expected"),
    [
        (256, 16, 256), (1536, 16, 256), (256, 128, 256), (256, 256, 256), (0, 16, 256),
        # 256 does not divide the row: equal pieces of at most 512, in whole groups.
        (384, 16, 384), (384, 32, 384), (1152, 16, 384), (640, 16, 320), (576, 16, 288),
        (1, 16, 16), (17, 16, 32), (500, 16, 512), (513, 16, 272),
        # Groups that 256 is no multiple of, or that are wider than the row.
        (512, 40, 520), (1024, 40, 520), (1024, 512, 512), (1024, 1024, 1024), (100, 4096, 4096),
    ],
)  # fmt: skip
def test_default_super_blocks(cols: int, group_size: int, expected: int) -> None:
    assert default_super_block(cols, group_size) == expected


@pytest.mark.parametrize("group_size", [8, 16, 24, 32, 40, 64, 256, 1000])
def test_default_super_blocks_can_be_stored(group_size: int) -> None:
    for cols in range(1, 3000, 7):
        block = default_super_block(cols, group_size)
        assert block % group_size == 0
        assert 1 <= block // group_size <= MAX_GROUPS_IN_SUPER_BLOCK
        pieces = -(-cols // block)
        # As few as hold 512 each, give or take the rounding up to whole groups.
        assert pieces <= max(1, -(-cols // 512)) or cols % 256 == 0
