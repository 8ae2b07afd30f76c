"""Phase 3's activation ranges: the clip search, then the coupling, as far as it is free of charge.

Pooling ranges that truly differ cuts off what only one group has, and the sampling variance of
extremes is an unsure guide to that. So what the output loses has a say: the pull between time
groups is weakened until no group's loss, that of the codes included, is over 1 % larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from thermoq.optimization.clip_search import Ranges, SearchSample, search_ranges
from thermoq.optimization.coupling import CoupledRanges, couple_ranges
from thermoq.optimization.inputs import Floats, Rows
from thermoq.optimization.losses import Losses, Pair, loss_of_codes, sketch_of, some_outputs
from thermoq.optimization.samples import RangeRows

NEGLIGIBLE: Final = 0.05
"""A loss by rounded inputs, beside that of the codes, that no better range is looked for."""
TOLERANCE: Final = 0.01

_WEAKEST: Final = 1.0 / 16.0
_VALUES: Final = 1 << 14  # of a group's rows
_ROWS: Final = (16, 32)
_SEARCHED_ROWS: Final = (16, 64)  # where ranges are fitted to them


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
    rows = _evenly(rows, weights.shape[1], choices)
    searches = choices.clip_search
    sketch = sketch_of(weights, choices.seed) if searches else some_outputs(weights)
    sample = SearchSample(sketch, rows.fitted, rows.held_out, rows.seen)
    able = sample.able & (given[0] > 0)
    groups = np.flatnonzero(able).tolist()
    if not groups:
        return OptimizedRanges(*given, 0, choices.coupling, None, None)
    losses = Losses(sample.sketch, [sample.fitted[g] for g in groups], bits)
    by_codes = loss_of_codes(weights, decoded, losses)
    wanted = np.zeros(len(able), np.bool_)
    if choices.clip_search:
        wanted[groups] = losses.of((given[0][groups], given[1][groups])) > NEGLIGIBLE * by_codes
    found = search_ranges(
        sample, given, bits, choices.seed, wanted, rows.variances_of_extremes(bits, choices.seed)
    )
    allowed = losses.of((found.scale[groups], found.zero_point[groups]))
    allowed += TOLERANCE * (allowed + by_codes)
    for coupling in _weaker_and_weaker(choices.coupling):
        coupled = _coupled(found, coupling, bits)
        lost = losses.of((coupled.scale[groups], coupled.zero_point[groups]))
        if (lost <= allowed).all():
            break
    return OptimizedRanges(
        coupled.scale,
        coupled.zero_point,
        int(found.searched.sum()),
        coupling,
        coupled.log_scale_tau_squared,
        coupled.zero_point_tau_squared,
    )


def _weaker_and_weaker(coupling: float) -> Iterator[float]:
    """Yield `coupling`, the powers of 4 below it, and at last 0.

    They are the same whatever is asked for, so that much more of it does not end with none.
    """
    yield coupling
    weaker = 4.0 ** np.floor(np.log(coupling) / np.log(4.0)) if coupling > 0.0 else 0.0
    while weaker >= _WEAKEST:
        if weaker < coupling:
            yield float(weaker)
        weaker /= 4.0
    if coupling > 0.0:
        yield 0.0


def _evenly(rows: RangeRows, num_columns: int, choices: RangeChoices) -> RangeRows:
    fewest, most = _SEARCHED_ROWS if choices.clip_search else _ROWS
    return rows.evenly(min(max(_VALUES // num_columns, fewest), most))


def _coupled(found: Ranges, coupling: float, bits: int) -> CoupledRanges:
    return couple_ranges(
        found.scale,
        found.zero_point,
        found.log_scale_variance,
        found.zero_point_variance,
        coupling,
        bits,
    )
