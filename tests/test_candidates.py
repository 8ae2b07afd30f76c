"""What a size budget chooses between."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
from thermoq.candidates import candidates_for, kind_of
from thermoq.encodings import MANY_ROWS, EncodingChoice, scheme_for
from thermoq.terms import LayerClass
from thermoq.weights import Scheme

LSQ = EncodingChoice("lsq")
CODED = EncodingChoice("lsq", "coded")


def kinds(layer_class: LayerClass, cols: int, choice: EncodingChoice) -> list[tuple[object, ...]]:
    return [astuple(kind_of(scheme))[:6] for scheme in candidates_for(layer_class, cols, choice)]


def bits(scheme: Scheme, cols: int) -> float:
    sizes = {"F16": 2, "U8": 1, "I8": 1}
    parts = scheme.stored_parts(MANY_ROWS, cols).values()
    nbytes = sum(sizes[dtype] * math.prod(shape) for dtype, shape in parts)
    return 8 * nbytes / (MANY_ROWS * cols)


@pytest.mark.parametrize("cols", [384, 1536, 4096])
def test_from_few_bits_to_many(cols: int) -> None:
    found = candidates_for("body", cols, LSQ)
    assert [scheme.bit_width for scheme in found] == sorted(s.bit_width for s in found)
    assert min(bits(scheme, cols) for scheme in found) < 2.1
    assert 2.2 < min(bits(scheme, cols) for scheme in found if scheme.encoding == "coded") < 2.45
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("cols", [8, 40, 384, 4096])
@pytest.mark.parametrize("choice", [LSQ, EncodingChoice("minmax"), EncodingChoice("lsq", "affine")])
def test_the_default_of_a_bit_width_is_the_last_of_it(cols: int, choice: EncodingChoice) -> None:
    for bit_width in (2, 4, 8):
        of_it = [s for s in candidates_for("body", cols, choice) if s.bit_width == bit_width]
        assert of_it[-1] == scheme_for(bit_width, cols, choice)


def test_each_class_keeps_the_bits_that_it_has_in_a_run_of_two() -> None:
    assert {s.bit_width for s in candidates_for("body", 384, LSQ)} == {2, 3, 4, 8}
    assert {s.bit_width for s in candidates_for("modulation", 384, LSQ)} == {4, 8}
    for layer_class in ("sensitive", "table"):
        assert candidates_for(layer_class, 384, LSQ) == (scheme_for(8, 384, LSQ),)


def test_what_the_run_asks_for_holds_for_all() -> None:
    every = candidates_for("body", 384, EncodingChoice("lsq", "coded", 32, 384))
    assert {(s.encoding, s.group_size, s.super_block) for s in every if s.bit_width < 8} == {
        ("coded", 32, 384)
    }
    affine = candidates_for("body", 384, EncodingChoice("lsq", "affine", 16))
    assert [astuple(s)[:3] for s in affine] == [
        ("affine", 2, 16),
        ("affine", 4, 16),
        ("q8", 8, 32),
    ]


@pytest.mark.parametrize("key", ["super_block", "scale_bits", "minimum_bits"])
def test_what_only_coded_has_asks_for_coded(key: str) -> None:
    value = {"super_block": 40 * 16}.get(key, 5)
    every = candidates_for("body", 40, EncodingChoice("lsq", **{key: value}))
    assert {s.encoding for s in every} == {"coded", "q8"}
    assert {getattr(s, key) for s in every if s.encoding == "coded"} == {value}


def test_minmax_has_affine_alone() -> None:
    assert {s.encoding for s in candidates_for("body", 384, EncodingChoice("minmax"))} == {
        "affine",
        "q8",
    }


def test_groups_that_do_not_fill_the_super_block_are_left_out() -> None:
    found = candidates_for("body", 384, EncodingChoice("lsq", "coded", super_block=32))
    assert {s.group_size for s in found if s.bit_width == 2} == {8, 16, 32}
    assert {s.group_size for s in found if s.bit_width == 4} == {8, 16, 32}


def test_affine_is_there_by_default_and_where_it_is_smaller() -> None:
    short = candidates_for("body", 40, LSQ)
    for scheme in short:
        if scheme.encoding == "affine" and scheme.group_size != 64:
            of_it = [s for s in short if s.bit_width == scheme.bit_width]
            assert bits(scheme, 40) < min(bits(s, 40) for s in of_it if s.encoding == "coded")
    assert ("affine", 2, 128, 0, 0, 0) in kinds("body", 40, LSQ)
    assert ("affine", 2, 128, 0, 0, 0) not in kinds("body", 4096, LSQ)
    for cols, bit_width in ((40, 2), (4096, 2), (4096, 4)):
        assert ("affine", bit_width, 64, 0, 0, 0) in kinds("body", cols, LSQ)


def test_trellis_joins_the_others() -> None:
    asked = EncodingChoice("lsq", "trellis", group_size=64, effort=2)
    found = candidates_for("body", 384, asked)
    in_trellis = [scheme for scheme in found if scheme.encoding == "trellis"]
    assert [(s.bit_width, s.group_size, s.window_bits) for s in in_trellis] == [
        (bits, 64, 9) for bits in (2, 3, 4)
    ]
    by_default = {s for s in candidates_for("body", 384, LSQ) if s.encoding != "trellis"}
    assert by_default == {*found} - {*in_trellis}
    without = candidates_for("body", 384, CODED)
    assert {s.encoding for s in without} == {"coded", "q8"}
    for bit_width in (2, 3, 4, 8):
        of_it = [scheme for scheme in found if scheme.bit_width == bit_width]
        assert of_it[-1] == scheme_for(bit_width, 384, asked)
    assert {s.bit_width for s in candidates_for("modulation", 384, asked)} == {4, 8}
