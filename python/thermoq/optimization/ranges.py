"""Phase 3's activation ranges: the clip search, then the coupling, as far as it is free of charge.

Pooling ranges that truly differ cuts off what only one group has, and the sampling variance of
extremes is an unsure guide to that. So what the output loses has a say: the pull between time
groups is weakened until no group's loss, that of the codes included, is over 1 % larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thermoq.optimization.clip_search import Ranges, SearchSample, search_ranges
from thermoq.optimization.coupling import CoupledRanges, couple_ranges
from thermoq.optimization.inputs import Floats, Rows, evenly
from thermoq.optimization.losses import Losses, Pair, loss_of_codes, sketch_of

NEGLIGIBLE: Final = 0.05
"""A loss by rounded inputs, beside that of the codes, that no better range is looked for."""
TOLERANCE: Final = 0.01

_WEAKER: Final = (1.0, 0.25, 0.0625, 0.0)
_VALUES: Final = 1 << 14  # of a group's rows
_ROWS: Final = (16, 64)


@dataclass(frozen=True)
class RangeRows:
    """Rows [n, in] of each time group's inputs; `seen` as in `LayerSample`."""

    fitted: Sequence[Rows]
    held_out: Sequence[Rows]
    seen: Sequence[int]


@dataclass(frozen=True)
class RangeChoices:
    """As in `OptimizationChoices`."""

    coupling: float
    clip_search: bool
    seed: int


@dataclass(frozen=True)
class OptimizedRanges:
    """Activation parameters f64 [G] and how they came about.

    `coupling` is what was left of the one asked for.
    """

    scale: Floats
    zero_point: Floats
    searched_groups: int
    coupling: float
    log_scale_tau_squared: float | None
    zero_point_tau_squared: float | None


def optimize_ranges(
    weights: Rows, decoded: Rows, given: Pair, bits: int, rows: RangeRows, choices: RangeChoices
) -> OptimizedRanges:
    """Search and couple the ranges of a layer with `weights` and codes that decode to `decoded`.

    A group is searched where the given range loses over 5 % of what the codes lose: with less, 8
    bits beside codes of 2 as a rule, a better one is not noticed in this layer, while what it cuts
    off is by those that follow.
    """
    sample = _sample(weights, rows, choices.seed)
    able = sample.able & (given[0] > 0)
    groups = np.flatnonzero(able).tolist()
    if not groups:
        return OptimizedRanges(*given, 0, choices.coupling, None, None)
    losses = Losses(sample.sketch, [sample.fitted[g] for g in groups], bits)
    by_codes = loss_of_codes(weights, decoded, losses)
    wanted = np.zeros(len(able), np.bool_)
    if choices.clip_search:
        wanted[groups] = losses.of((given[0][groups], given[1][groups])) > NEGLIGIBLE * by_codes
    found = search_ranges(sample, given, bits, choices.seed, wanted)
    allowed = losses.of((found.scale[groups], found.zero_point[groups]))
    allowed += TOLERANCE * (allowed + by_codes)
    for share in _WEAKER:
        coupled = _coupled(found, share * choices.coupling, bits)
        lost = losses.of((coupled.scale[groups], coupled.zero_point[groups]))
        if (lost <= allowed).all():
            break
    return OptimizedRanges(
        coupled.scale,
        coupled.zero_point,
        int(found.searched.sum()),
        share * choices.coupling,
        coupled.log_scale_tau_squared,
        coupled.zero_point_tau_squared,
    )


def _sample(weights: Rows, rows: RangeRows, seed: int) -> SearchSample:
    fewest, most = _ROWS
    count = min(max(_VALUES // weights.shape[1], fewest), most)
    return SearchSample(
        sketch_of(weights, seed),
        [evenly(part, count) for part in rows.fitted],
        [evenly(part, count) for part in rows.held_out],
        rows.seen,
    )


def _coupled(found: Ranges, coupling: float, bits: int) -> CoupledRanges:
    return couple_ranges(
        found.scale,
        found.zero_point,
        found.log_scale_variance,
        found.zero_point_variance,
        coupling,
        bits,
    )
