"""Which scheme each tensor gets so that all fit a number of bytes with the least error.

Pure: error curves in, choices out. The continuous form of the problem is solved exactly. On a
tensor's lower convex hull of (bytes, error), a multiplier lambda (error per byte) chooses the
candidate that minimizes `error + lambda * bytes`; as lambda falls, tensors step along their hulls
in the order of what each step gains per byte (Shoham and Gersho, "Efficient bit allocation for an
arbitrary set of quantizers", 1988). The sum over a tensor list is piecewise linear in the budget,
so that its critical lambdas are the hulls' slopes and bisection is over those, not over reals. What
is left of the budget then goes to the single upgrades and the exchanges that gain most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from thermoq.weights import Scheme

_MAX_ROUNDS = 10_000  # of filling; each lowers the error, and a few dozen are usual


@dataclass(frozen=True)
class Candidate:
    """A way to store a tensor: its bytes, and its error ||W^ - W||^2."""

    scheme: Scheme
    stored_bytes: int
    squared_error: float


@dataclass(frozen=True)
class ErrorCurve:
    """The candidates of one stored tensor, at least one, in any order.

    `weight` says how much the error counts: the number of tensors that share the bytes (stored, and
    so paid for, once), or an importance.
    """

    candidates: tuple[Candidate, ...]
    weight: float = 1.0

    def cost(self, choice: int) -> float:
        """Return what the candidate `choice` adds to the sum."""
        return self.weight * self.candidates[choice].squared_error


@dataclass(frozen=True)
class Allocation:
    """An index into the candidates of each curve, and what they add up to.

    `lower_bound` is the error of the continuous problem, below which no choice within the budget
    can get.
    """

    choices: tuple[int, ...]
    stored_bytes: int
    squared_error: float
    lower_bound: float


@dataclass(frozen=True)
class _Step:
    """From a hull's candidate to its next: `gain` is the error that `nbytes` more save."""

    curve: int
    choice: int
    nbytes: int
    gain: float

    @property
    def slope(self) -> float:
        return self.gain / self.nbytes


def smallest_bytes(curves: Sequence[ErrorCurve]) -> int:
    """Return the least that the tensors can be stored in."""
    return sum(min(one.stored_bytes for one in curve.candidates) for curve in curves)


def allocate(
    curves: Sequence[ErrorCurve], budget_bytes: int, starts: Sequence[Sequence[int]] = ()
) -> Allocation:
    """Choose a candidate per curve, together at most `budget_bytes`, with a small summed error.

    The error is at most one hull step above the best possible, and at most that of any of `starts`,
    choices to compare with that may or may not fit. Ties go to what comes first, so that the same
    curves give the same choices.

    Raises ValueError if not even the smallest candidates fit.
    """
    if smallest_bytes(curves) > budget_bytes:
        raise ValueError(f"expected at least {smallest_bytes(curves)} bytes, got {budget_bytes}")
    first, lower_bound = _along_hulls(curves, budget_bytes)
    fill = _Fill(curves, budget_bytes)
    filled = [fill.improved(list(first))]
    for start in starts:
        if _bytes(curves, start) <= budget_bytes and _error(curves, start) < _error(
            curves, filled[0]
        ):
            filled.append(fill.improved(list(start)))
    choices = min(filled, key=lambda one: _error(curves, one))
    error = _error(curves, choices)
    return Allocation(
        tuple(choices), _bytes(curves, choices), error, min(error, max(0.0, lower_bound))
    )


def _bytes(curves: Sequence[ErrorCurve], choices: Sequence[int]) -> int:
    return sum(
        curve.candidates[choice].stored_bytes for curve, choice in zip(curves, choices, strict=True)
    )


def _error(curves: Sequence[ErrorCurve], choices: Sequence[int]) -> float:
    return sum(curve.cost(choice) for curve, choice in zip(curves, choices, strict=True))


def _hull(curve: ErrorCurve) -> list[int]:
    """Return the candidates on the lower convex hull of (bytes, error), smallest first."""
    order = sorted(
        range(len(curve.candidates)),
        key=lambda i: (curve.candidates[i].stored_bytes, curve.candidates[i].squared_error, i),
    )
    hull: list[int] = []
    for i in order:
        if hull and curve.cost(i) >= curve.cost(hull[-1]):
            continue  # as large, and no better
        while len(hull) > 1 and _is_above(curve, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _is_above(curve: ErrorCurve, left: int, middle: int, right: int) -> bool:
    """Whether `middle` lies on or above the line from `left` to `right`."""
    a, b, c = (curve.candidates[i].stored_bytes for i in (left, middle, right))
    x, y, z = (curve.cost(i) for i in (left, middle, right))
    return (x - y) * (c - a) <= (x - z) * (b - a)


def _along_hulls(curves: Sequence[ErrorCurve], budget_bytes: int) -> tuple[list[int], float]:
    """Return the choices at the smallest lambda that fits, and the continuous problem's error."""
    hulls = [_hull(curve) for curve in curves]
    choices = [hull[0] for hull in hulls]
    steps = [
        _Step(
            number,
            hull[i],
            curve.candidates[hull[i]].stored_bytes - curve.candidates[hull[i - 1]].stored_bytes,
            curve.cost(hull[i - 1]) - curve.cost(hull[i]),
        )
        for number, (curve, hull) in enumerate(zip(curves, hulls, strict=True))
        for i in range(1, len(hull))
    ]
    # Along a hull slopes fall, so that no step of a tensor comes before its earlier ones; where
    # rounding makes two equal, the sort keeps their order.
    steps.sort(key=lambda step: -step.slope)
    left = budget_bytes - _bytes(curves, choices)
    ends = list(accumulate(step.nbytes for step in steps))
    fitting = int(np.searchsorted(np.array(ends, dtype=np.int64), left, side="right"))
    for step in steps[:fitting]:
        choices[step.curve] = step.choice
    error = _error(curves, choices)
    if fitting == len(steps):
        return choices, error
    left -= ends[fitting - 1] if fitting else 0
    return choices, error - steps[fitting].slope * left


class _Fill:
    """Spends what is left of a budget, first on single changes, then on exchanges of two."""

    def __init__(self, curves: Sequence[ErrorCurve], budget_bytes: int) -> None:
        self._curves = curves
        self._budget_bytes = budget_bytes
        pairs = [(c, i) for c, curve in enumerate(curves) for i in range(len(curve.candidates))]
        self._curve = np.array([c for c, _ in pairs], dtype=np.int64)
        self._choice = np.array([i for _, i in pairs], dtype=np.int64)
        self._bytes = np.array(
            [curves[c].candidates[i].stored_bytes for c, i in pairs], dtype=np.int64
        )
        self._costs = np.array([curves[c].cost(i) for c, i in pairs], dtype=np.float64)
        self._first = np.cumsum([0, *(len(curve.candidates) for curve in curves)])[:-1]

    def improved(self, choices: list[int]) -> list[int]:
        """Change `choices` while that lowers the error within the budget."""
        if not choices:
            return choices
        for _ in range(_MAX_ROUNDS):
            taken = self._first + np.array(choices)
            left = self._budget_bytes - int(self._bytes[taken].sum())
            # Of every candidate: what choosing it instead would cost and gain.
            more = self._bytes - self._bytes[taken][self._curve]
            gain = self._costs[taken][self._curve] - self._costs
            moves = _best_single(more, gain, left) or self._best_exchange(more, gain, left)
            if not moves:
                break
            after = list(choices)
            for move in moves:
                after[int(self._curve[move])] = int(self._choice[move])
            if _error(self._curves, after) >= _error(self._curves, choices):
                break  # a gain that is all rounding
            choices = after
        return choices

    def _best_exchange(
        self, more: NDArray[np.int64], gain: NDArray[np.float64], left: int
    ) -> tuple[int, ...]:
        """Return the downgrade and the upgrade, of two tensors, that gain most together; or ()."""
        downs = np.flatnonzero(more < 0)
        ups = np.flatnonzero((more > 0) & (gain > 0.0))
        if not len(downs) or not len(ups):
            return ()
        ups = ups[np.argsort(more[ups], kind="stable")]
        best, second = _best_two_so_far(gain[ups], self._curve[ups])
        # The dearest upgrade that each downgrade pays for, then the best among the cheaper ones.
        last = np.searchsorted(more[ups], left - more[downs], side="right") - 1
        downs, last = downs[last >= 0], last[last >= 0]
        if not len(downs):
            return ()
        partner = best[last]
        same = self._curve[ups[partner]] == self._curve[downs]
        partner = np.where(same, second[last], partner)
        together = np.where(partner >= 0, gain[downs] + gain[ups[partner]], -np.inf)
        chosen = int(np.argmax(together))
        if together[chosen] <= 0.0:
            return ()
        return int(downs[chosen]), int(ups[partner[chosen]])


def _best_single(more: NDArray[np.int64], gain: NDArray[np.float64], left: int) -> tuple[int, ...]:
    """Return the change that fits and gains most, the first of equals; or ()."""
    gains = np.where(more <= left, gain, 0.0)
    chosen = int(np.argmax(gains))
    return (chosen,) if gains[chosen] > 0.0 else ()


def _best_two_so_far(
    gains: NDArray[np.float64], curves: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, up to each place, that of the largest gain and of the largest of another curve (-1:
    none).
    """
    best = np.empty(len(gains), dtype=np.int64)
    second = np.empty(len(gains), dtype=np.int64)
    top, other = 0, -1
    for i in range(len(gains)):
        if gains[i] > gains[top]:
            if curves[i] != curves[top]:
                other = top
            top = i
        elif curves[i] != curves[top] and (other < 0 or gains[i] > gains[other]):
            other = i
        best[i], second[i] = top, other
    return best, second
