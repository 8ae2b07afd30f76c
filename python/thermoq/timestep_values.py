"""What a denoiser is handed as its timestep, and which timestep that is.

Most schedulers hand over timesteps. Pipelines of flow matching may divide them (`t / 1000`) or turn
them round (`1 - t / 1000`), and EDM's schedulers hand over `log(sigma) / 4`. A calibration notes
which values it has seen at which timesteps; between them a table is linear.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from thermoq.errors import UsageError

Table = tuple[tuple[float, float], ...]
"""Pairs of a value and its timestep: values rise, timesteps all rise or all fall."""

MAX_PAIRS = 64
_NAMES = ("timestep", "timesteps", "t")
_SLACK = 1 / 256  # relative: a value in bfloat16 may be as far from what was meant
_BEYOND_TABLE = 0.05  # of T: how far past its ends a table is continued


class TimestepArgument:
    """Finds the timestep among the arguments of a denoiser's `forward`."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(forward).parameters)
        self.name = next((name for name in _NAMES if name in parameters), None)
        self._position = parameters.index(self.name) if self.name else -1

    def values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[float] | None:
        """Return one value, or one a sample; None if there is none.

        Of a value for each token of a sample (Wan 2.2, whose first frame may be given) the largest
        counts: that of what is being denoised.
        """
        if self.name is None:
            return None
        given = args[self._position] if self._position < len(args) else kwargs.get(self.name)
        if given is None:
            return None
        if hasattr(given, "detach"):  # a tensor, on whatever device
            given = given.detach().tolist()
        if not isinstance(given, (list, tuple)):
            return [float(given)]
        return [_largest(one) for one in given]


def _largest(value: Any) -> float:
    return max(map(_largest, value)) if isinstance(value, (list, tuple)) else float(value)


class TimestepValues:
    """Turns the values that a denoiser is handed into timesteps in [0, T - 1].

    Without a `table` a value is the timestep itself; for flow matching a value `s` of at most 1 is
    the level, `t = s * (T - 1)`, any other a level times T. Once a larger value than 1 has come,
    small ones are no levels any more.
    """

    def __init__(self, kind: str, num_timesteps: int, table: Table | None = None) -> None:
        self._is_flow = kind == "flow_matching"
        self._num_timesteps = num_timesteps
        self._table = np.array(table) if table and len(table) > 1 else None
        self._are_levels = True

    def timesteps(self, values: Sequence[float]) -> list[float]:
        """Return the timestep of each value. Raises UsageError for one outside [0, T)."""
        given = np.array(values, dtype=np.float64)
        last = self._num_timesteps - 1
        if self._table is not None:
            found = _interpolated(given, self._table)
            slack = _BEYOND_TABLE * self._num_timesteps
            self._check(given, (found >= -slack) & (found <= last + slack), _ends(self._table))
        elif self._is_flow:
            self._are_levels = self._are_levels and bool((given <= 1.0 + _SLACK).all())
            most = 1.0 if self._are_levels else float(self._num_timesteps)
            found = given / most * last
            self._check(given, (given >= 0) & (given <= most * (1 + _SLACK)), f"[0, {most:g}]")
        else:
            found, end = given, self._num_timesteps
            self._check(given, (given >= 0) & (given < end), f"[0, {end})")
        return [float(t) for t in np.clip(found, 0.0, float(last))]

    def _check(self, given: Any, fits: Any, expected: str) -> None:
        if not fits.all():
            got = float(given[~fits][0])
            raise UsageError(
                f"expected the model to be handed a timestep in {expected}, got {got:g}; "
                "`with thermoq.timestep(model, t)` says which one is meant"
            )


def _ends(table: Any) -> str:
    return f"[{table[0, 0]:g}, {table[-1, 0]:g}] or near, as while calibrating"


def _interpolated(values: Any, table: Any) -> Any:
    """Return the timesteps of `values`, the first and the last piece going on for ever."""
    last_piece = len(table) - 2
    piece = np.clip(np.searchsorted(table[:, 0], values, side="right") - 1, 0, last_piece)
    start, end = table[piece], table[piece + 1]
    along = (values - start[..., 0]) / (end[..., 0] - start[..., 0])
    return start[..., 1] + along * (end[..., 1] - start[..., 1])


def table_of(pairs: Iterable[tuple[float, float]], kind: str, num_timesteps: int) -> Table | None:
    """Return the table of pairs of a value and its timestep, of at most 64 of them.

    None where none is needed, because values are what `TimestepValues` takes them for without one,
    or where there can be none: with less than two pairs, or if timesteps neither rise nor fall.
    """
    timesteps: dict[float, float] = {}
    for value, timestep in pairs:
        timesteps.setdefault(float(value), float(timestep))
    found = sorted(timesteps.items())
    if len(found) < 2 or not _is_monotone([t for _, t in found]):
        return None
    if len(found) > MAX_PAIRS:
        places = np.rint(np.linspace(0, len(found) - 1, MAX_PAIRS)).astype(int)
        found = [found[place] for place in places]
    return None if _are_default(found, kind, num_timesteps) else tuple(found)


def _is_monotone(timesteps: Sequence[float]) -> bool:
    steps = np.diff(timesteps)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _are_default(found: Sequence[tuple[float, float]], kind: str, num_timesteps: int) -> bool:
    try:
        usual = TimestepValues(kind, num_timesteps).timesteps([value for value, _ in found])
    except UsageError:
        return False
    # Some schedulers hand over whole numbers for what lies between.
    return all(abs(a - b) <= 1.0 for a, (_, b) in zip(usual, found, strict=True))
