"""How long a forward pass takes beside one of the same weights with static parameters.

Both are made by one model in turns, one pass each, and each of them first in every other turn: what
slows the machine down for a while slows both. A turn's ratio is therefore worth more than either of
its times, and the median of the ratios is the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thermoq.evaluation.intervals import median, rounded
from thermoq.progress import StepProgress
from thermoq.provenance import cpu_name
from thermoq.report.evaluation_model import Figure, InferenceTime
from thermoq.runtime.timing import CurrentTime

Clock = Callable[[], float]

MAX_TIMESTEPS = 10
MAX_ROUNDS = 10
LIMIT_S = 6.0
"""What all turns may take, unless that is less than the fewest that tell anything."""
MIN_TIMESTEPS, MIN_ROUNDS, MIN_TURNS = 2, 3, 6
_DIGITS = 5


@dataclass(frozen=True)
class TimedPass:
    """A forward pass at one place of the trajectory: `run` makes it, on `rows` rows."""

    time: CurrentTime
    run: Callable[[], object]
    rows: int


@dataclass(frozen=True)
class Turn:
    """Seconds of a pass as the model is, and of the same pass with static parameters."""

    own_s: float
    static_s: float

    @property
    def ratio(self) -> float:
        """Of the former to the latter."""
        return self.own_s / self.static_s


def inference_time(
    passes: Sequence[TimedPass],
    seed: int,
    progress: StepProgress,
    clock: Clock = time.perf_counter,
) -> InferenceTime | None:
    """Time `passes`, one for each timestep; None if there are none. `seed`: of the interval."""
    if not passes:
        return None
    turns, num_timesteps = take_turns(passes, progress, clock)
    ratios = rounded([turn.ratio for turn in turns], _DIGITS)
    static_s = float(np.median([turn.static_s for turn in turns]))
    of_ratios = median(ratios, seed)
    value, low, high = rounded([of_ratios.value, of_ratios.low, of_ratios.high], _DIGITS)
    return InferenceTime(
        over_static=Figure(value=value, low=low, high=high),
        ratios=ratios,
        static_s=rounded([static_s], _DIGITS)[0],
        batch_size=passes[0].rows,
        num_timesteps=num_timesteps,
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
    )


def take_turns(
    passes: Sequence[TimedPass], progress: StepProgress, clock: Clock
) -> tuple[list[Turn], int]:
    """Return the turns that were taken after a warm-up, and at how many timesteps."""
    pair_s = _warm_up(passes[0], clock)
    timesteps, rounds = planned(pair_s, len(passes))
    chosen = np.unique(np.linspace(0, len(passes) - 1, timesteps).round().astype(int))
    progress.start("timing", rounds * len(chosen), 0)
    turns = []
    for i in range(rounds):
        for number, place in enumerate(chosen):
            turns.append(_turn(passes[place], clock, static_first=(i + number) % 2 == 1))
            progress.advance(f"round {i + 1} of {rounds}")
    return turns, len(chosen)


def planned(pair_s: float, num_passes: int) -> tuple[int, int]:
    """Return at how many timesteps, and how often, to take turns that need `pair_s` each."""
    affordable = LIMIT_S / max(pair_s, 1e-9)
    most = min(MAX_TIMESTEPS, num_passes)
    timesteps = int(np.clip(affordable / MIN_ROUNDS, min(MIN_TIMESTEPS, most), most))
    fewest = max(MIN_ROUNDS, -(-MIN_TURNS // timesteps))
    return timesteps, int(np.clip(affordable / timesteps, fewest, max(MAX_ROUNDS, fewest)))


def _warm_up(one: TimedPass, clock: Clock) -> float:
    """Return how long a turn takes, once what is done only the first time is done."""
    first = _turn(one, clock, static_first=False)
    if first.own_s + first.static_s > LIMIT_S / MIN_TURNS:
        return first.own_s + first.static_s  # slow enough to tell without another
    second = _turn(one, clock, static_first=True)
    return second.own_s + second.static_s


def _turn(one: TimedPass, clock: Clock, *, static_first: bool) -> Turn:
    if static_first:
        static_s = _static_seconds(one, clock)
        return Turn(_own_seconds(one, clock), static_s)
    own_s = _own_seconds(one, clock)
    return Turn(own_s, _static_seconds(one, clock))


def _own_seconds(one: TimedPass, clock: Clock) -> float:
    one.time.forget()  # a sampler comes to each timestep once
    return _seconds(one, clock)


def _static_seconds(one: TimedPass, clock: Clock) -> float:
    with one.time.static():
        return _seconds(one, clock)


def _seconds(one: TimedPass, clock: Clock) -> float:
    started = clock()
    with torch.no_grad():
        one.run()
    return clock() - started
