"""The order in which layers are shown: as their names suggest that the network runs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from thermoq.report.model import CopiedRow, LayerRow

# Stages of a denoiser, told by the part of the name before its first number (the whole name where
# there is none). The first pattern that matches wins.
_EMBEDDERS, _INPUT_BLOCKS, _MAIN_BLOCKS, _LATER_BLOCKS, _LAST_BLOCKS, _OUTPUT = range(6)
_STAGES = (
    (
        _OUTPUT,
        re.compile(r"(^|[._])(proj_out|norm_out|conv_norm_out|conv_out|ff_out|lm_head|final)"),
    ),
    (_EMBEDDERS, re.compile(r"embed|conv_in|\bw[tp]e\b")),
    (_INPUT_BLOCKS, re.compile(r"refiner|down")),
    (_LATER_BLOCKS, re.compile(r"(^|[._])(single|mid)")),
    (_LAST_BLOCKS, re.compile(r"(^|[._])up")),
)
# Within a block: what comes before attention, attention itself, the feed-forward part.
_PLACES = (
    (0, re.compile(r"norm1|adaln|modulation|(^|[._])mod[._]", re.IGNORECASE)),
    (1, re.compile(r"attn|attention|att_proj|([._])[qkv]_proj")),
    (2, re.compile(r"ff|mlp|feed_forward|net[._]")),
)
_QUERY_KEY_VALUE = re.compile(r"[._](to_|add_)?(q|k|v)(_proj|[._]|$)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def network_order(layers: Iterable[LayerRow]) -> list[LayerRow]:
    """`layers` by component (in the order of first appearance), stage of the network and number.

    Safetensors files are sorted by name, where block 10 precedes block 2. The stage is a guess
    from the usual names; an unknown one goes between the embedders and the output.
    """
    rows = list(layers)
    components = list(dict.fromkeys(row.component for row in rows))
    return sorted(
        rows,
        key=lambda row: (components.index(row.component), *_place(row.name)),
    )


def full_name(row: LayerRow | CopiedRow) -> str:
    """`component/name`, or the name alone at the root; the report's `worst_layers` hold these."""
    return f"{row.component}/{row.name}" if row.component else row.name


def labels_of(layers: Iterable[LayerRow]) -> dict[int, str]:
    """Each layer's label by its id(): the name, after the component's if there are several."""
    rows = list(layers)
    several = len({row.component for row in rows}) > 1
    return {id(row): f"{row.component}/{row.name}" if several else row.name for row in rows}


def block_of(name: str) -> str:
    """The block that a tensor belongs to, e.g. `transformer_blocks.3`; its module if in none."""
    number = _NUMBER.search(name)
    return name[: number.end()] if number else name.split(".")[0]


def _stage(name: str) -> int:
    number = _NUMBER.search(name)
    prefix = name[: number.start()] if number else name
    for stage, pattern in _STAGES:
        if pattern.search(prefix):
            return stage
    return _MAIN_BLOCKS if number else _EMBEDDERS


def _place(name: str) -> tuple[object, ...]:
    """Stage, block, part of the block, then the name, queries before keys before values."""
    number = _NUMBER.search(name)
    block, rest = (name[: number.end()], name[number.end() :]) if number else ("", name)
    part = next((place for place, pattern in _PLACES if pattern.search(rest)), 3)
    head = _QUERY_KEY_VALUE.search(rest)
    letter = "qkv".index(head.group(2)) if head else 3
    return _stage(name), _natural(block), part, letter, _natural(rest)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key in which numbers count as numbers; never compares a number with a text."""
    return [
        (int(part), "") if part.isdecimal() and part.isascii() else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]
