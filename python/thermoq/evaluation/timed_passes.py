"""The forward passes that are timed: some of those that an evaluation makes, in larger batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermoq.calibration.language_models import LanguageModel
from thermoq.calibration.plain_sampler import is_plain
from thermoq.evaluation.inference_time import MAX_TIMESTEPS, TimedPass
from thermoq.evaluation.pairs import Arguments, PairedPass
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime
from thermoq.schedule import TimeGroups, uniform_time_groups

BATCH_SIZE = 64
_BATCH_VALUES = 1 << 18  # of a denoiser's samples: a batch of large images would not fit
_BATCH_LOGITS = 1 << 26


class KeptPasses:
    """Told of an evaluation's passes, keeps one in each of equal parts of the trajectory."""

    def __init__(self, quantized: Sequence[nn.Module], num_timesteps: int) -> None:
        self._quantized = quantized
        self._parts: TimeGroups = uniform_time_groups(
            num_timesteps, min(MAX_TIMESTEPS, num_timesteps)
        )
        self._kept: dict[int, tuple[int, int, Arguments]] = {}

    def see(self, one: PairedPass) -> None:
        """Keep a pass if it is the first in its part."""
        part = self._parts.group_of(float(one.timesteps[0]))
        self._kept.setdefault(part, (one.number, len(one.full), one.arguments))

    def passes(self) -> list[TimedPass]:
        """Return what is to be timed, from noise to clean; nothing of a model of another kind."""
        found = []
        for _, (number, rows, arguments) in sorted(self._kept.items()):
            module = self._quantized[number]
            current = _time_of(module)
            if current is not None:
                if is_plain(module):
                    rows, arguments = in_large_batch(rows, arguments)
                args, kwargs = arguments
                found.append(TimedPass(current, partial(module, *args, **kwargs), rows))
        return found


def in_large_batch(rows: int, arguments: Arguments) -> tuple[int, Arguments]:
    """Repeat the `rows` rows of a pass up to 64, or as many as have 2^18 values.

    All are then at the timestep of the first, as in a sampling loop. Arguments stay as they are if
    some tensor among them does not hold samples.
    """
    args, kwargs = arguments
    tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.dim()]
    if not tensors or any(len(one) != rows for one in tensors):
        return rows, arguments
    values = max(one[0].numel() for one in tensors)
    wanted = max(rows, min(BATCH_SIZE, _BATCH_VALUES // values))

    def repeated(given: Any, *, is_time: bool = False) -> Any:
        if not isinstance(given, Tensor) or not given.dim():
            return given
        return given[[0] * wanted if is_time else [i % rows for i in range(wanted)]]

    named = {key: repeated(one, is_time=key == "timestep") for key, one in kwargs.items()}
    return wanted, (tuple(repeated(one) for one in args), named)


def language_passes(quantized: LanguageModel, tokens: Tensor, seed: int) -> list[TimedPass]:
    """Return passes of a language model on `tokens` [samples, length], one for each mask ratio.

    Sequences are repeated up to 64, or as many as have 2^26 logits. Nothing is a prompt, and all
    have as many masks, as in a sampling loop; the model finds out how many by itself.
    """
    current = _time_of(quantized.module)
    if current is None:
        return []
    length = tokens.shape[1]
    size = int(np.clip(_BATCH_LOGITS // (length * quantized.vocab_size), 1, BATCH_SIZE))
    batch = tokens[[i % len(tokens) for i in range(size)]]
    counts = np.linspace(length, 1, min(MAX_TIMESTEPS, length)).round().astype(int)
    found = []
    for number, count in enumerate(counts):
        hidden = torch.from_numpy(_masks(size, length, int(count), [seed, number]))
        noised = batch.masked_fill(hidden, quantized.mask_token_id)
        run: Callable[[], object] = partial(quantized.logits, noised)
        found.append(TimedPass(current, run, size))
    return found


def _masks(rows: int, length: int, count: int, seed: Sequence[int]) -> Any:
    """Return which of [rows, length] to mask: `count` of each, the first among them."""
    drawn = np.random.default_rng(seed).random((rows, length))
    drawn[:, 0] = -1.0  # what stands in front of the first mask is taken for a prompt
    return drawn.argsort(axis=1).argsort(axis=1) < count


def _time_of(module: nn.Module) -> CurrentTime | None:
    found = getattr(module, ATTRIBUTE, None)
    return found if isinstance(found, CurrentTime) else None
