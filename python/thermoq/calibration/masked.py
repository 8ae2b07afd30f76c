"""Run a masked-diffusion language model along its own trajectory, and over a user's text.

A trajectory starts from nothing but mask tokens, beside a prompt if there is one, and is unmasked
by confidence as Dream and LLaDA do it (`generate.py` of ML-GSAI/LLaDA, `low_confidence`; Nie et al.
2025): at each step every masked position draws a token, and those that the model is surest of stay.
The choice is a little random (Dream's `alg_temp`, `generation_utils.py` of Dream-v0-Base-7B):
always the surest leads a weak model into repeating itself, and its layers then see little of what
they see in text.

Text is masked at random instead. Either way a forward pass belongs to the timestep of its mask
ratio r, the share of masked positions outside the prompt: `t = clip(ceil(r*T) - 1, 0, T - 1)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.job import At
from thermoq.calibration.language_models import LanguageModel
from thermoq.calibration.windows import text_windows
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MaskedSampling:
    """What to run: `samples` sequences of `length` tokens, each in `steps` forward passes.

    `mix` is the share of the samples that are text, where there is any. `temperature` is that of
    the drawn tokens, 0 takes the likeliest; `position_temperature` that of the choice of positions
    by confidence, 0 takes the surest. With both 0, all samples without a prompt are the same.
    """

    samples: int
    steps: int
    length: int
    seed: int
    mix: float = 0.5
    num_timesteps: int = 1000
    temperature: float = 1.0
    position_temperature: float = 0.1
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.length < 2:
            raise UsageError(f"--length: expected at least 2 tokens, got {self.length}")
        if not 1 <= self.steps <= self.length:
            expected = f"between 1 and {self.length} (--length), got {self.steps}"
            raise UsageError(f"--steps: expected {expected}")
        if not 0.0 <= self.mix <= 1.0:
            raise UsageError(f"--mix: expected a share between 0 and 1, got {self.mix}")
        if self.samples < 1:
            raise UsageError(f"--samples: expected at least 1, got {self.samples}")


@dataclass(frozen=True)
class Batch:
    """Samples, by their number, that go through the model together."""

    samples: range
    is_text: bool


@dataclass(frozen=True)
class Pass:
    """A forward pass that was made: which batch and which of its steps, both counted from 1."""

    batch: int
    batches: int
    step: int
    steps: int


def timesteps_of(
    masked: NDArray[np.int64], total: NDArray[np.int64], num_timesteps: int
) -> list[float]:
    """Return the timestep of each sample with `masked` of `total` positions outside the prompt.

    `t = clip(ceil(r*T) - 1, 0, T - 1)` with `r = masked / total`, in whole numbers: rounding must
    not lift .07 * 1000 above 70.
    """
    ceiling = -(-masked * num_timesteps // total)
    return [float(t) for t in np.clip(ceiling - 1, 0, num_timesteps - 1)]


def batches(sampling: MaskedSampling, *, with_text: bool) -> tuple[Batch, ...]:
    """Return all batches in the order that they run in: trajectories, then text."""
    texts = round(sampling.samples * sampling.mix) if with_text else 0
    parts = (range(sampling.samples - texts), range(sampling.samples - texts, sampling.samples))
    return tuple(
        Batch(part[start : start + sampling.batch_size], is_text)
        for is_text, part in zip((False, True), parts, strict=True)
        for start in range(0, len(part), sampling.batch_size)
    )


def run(
    model: LanguageModel,
    sampling: MaskedSampling,
    at: At,
    *,
    prompts: Sequence[str] = (),
    text: Sequence[str] = (),
    text_name: str = "text",
    done: int = 0,
) -> Iterator[Pass]:
    """Make all forward passes, each in a block of `at`, and yield after each of them.

    `prompts` stay unmasked in front of the samples, in turn; of a prompt the first `length // 2`
    tokens count. `text` are lines, which messages call `text_name`; a sample is what follows the
    beginning of a line. `done` batches of an interrupted run are left out: a batch depends on the
    settings and its place alone.

    Raises InputError if there is no tokenizer for the text, or too little text.
    """
    planned = batches(sampling, with_text=bool(text))
    num_texts = sum(len(batch.samples) for batch in planned if batch.is_text)
    windows = (
        text_windows(model, text, num_texts, sampling.length, text_name) if num_texts else None
    )
    starts = [model.encode(prompt)[: sampling.length // 2] for prompt in prompts]
    for number, batch in itertools.islice(enumerate(planned, 1), done, None):
        if batch.is_text:
            assert windows is not None
            first = sampling.samples - num_texts
            chosen = [windows[sample - first] for sample in batch.samples]
            states = mask_text(model, _tensor(chosen), sampling, batch.samples, at)
        else:
            begun = [masked_start(model, starts, sample, sampling) for sample in batch.samples]
            states = unmask(model, _tensor(begun), sampling, batch.samples, at)
        for step, _ in enumerate(states, 1):
            yield Pass(number, len(planned), step, sampling.steps)


def unmask(
    model: LanguageModel,
    token_ids: Tensor,
    sampling: MaskedSampling,
    samples: Sequence[int],
    at: At,
) -> Iterator[Tensor]:
    """Replace the mask tokens of `token_ids` [n, length], yielding the sequences after each step.

    What is no mask token at first is a prompt. `samples` are the numbers of the sequences, which
    seed their draws. The last of the yielded tensors holds no mask token.
    """
    import torch

    state = token_ids.clone()
    total = (state == model.mask_token_id).sum(dim=1).numpy()
    draws = [np.random.default_rng([sampling.seed, sample]) for sample in samples]
    for step in range(sampling.steps):
        masked = state == model.mask_token_id
        with at(timesteps_of(masked.sum(dim=1).numpy(), total, sampling.num_timesteps)):
            logits = model.logits(state).cpu()
        # Rounded up, so that something is left to predict in every pass.
        left = -(-total * (sampling.steps - step - 1) // sampling.steps)
        for i, random in enumerate(draws):
            uniform = torch.from_numpy(random.random(state.shape[1]))[masked[i]]
            scores = logits[i][masked[i]].double()
            scores[:, model.mask_token_id] = -torch.inf
            tokens, confidence = _drawn(scores, uniform, sampling.temperature)
            if sampling.position_temperature > 0.0:
                # The largest sums are a draw without replacement by softmax(confidence / t).
                gumbel = torch.from_numpy(random.gumbel(size=state.shape[1]))[masked[i]]
                confidence = confidence / sampling.position_temperature + gumbel
            surest = torch.argsort(confidence, descending=True, stable=True)
            chosen = surest[: len(surest) - int(left[i])]
            positions = masked[i].nonzero()[:, 0]
            state[i, positions[chosen]] = tokens[chosen]
        yield state.clone()


def mask_text(
    model: LanguageModel,
    token_ids: Tensor,
    sampling: MaskedSampling,
    samples: Sequence[int],
    at: At,
) -> Iterator[Tensor]:
    """Mask `token_ids` [n, length] anew for each step, yielding the masked sequences.

    The ratios are uniform in (0, 1], one in each of as many equal parts as there are steps, the
    highest first: as many passes as a trajectory has, spread over its timesteps alike.
    """
    import torch

    length, steps = token_ids.shape[1], sampling.steps
    total = np.full(len(token_ids), length)
    draws = [np.random.default_rng([sampling.seed, sample]) for sample in samples]
    for step in range(steps):
        state = token_ids.clone()
        ratios = [(steps - 1 - step + random.random()) / steps for random in draws]
        counts = np.clip(np.ceil(np.array(ratios) * length).astype(np.int64), 1, length)
        for i, random in enumerate(draws):
            state[i, torch.from_numpy(random.permutation(length)[: counts[i]])] = (
                model.mask_token_id
            )
        with at(timesteps_of(counts, total, sampling.num_timesteps)):
            model.logits(state)
        yield state


def masked_start(
    model: LanguageModel, prompts: Sequence[list[int]], sample: int, sampling: MaskedSampling
) -> list[int]:
    """Return the tokens that a trajectory starts from: a prompt, if there are any, and masks."""
    prompt = prompts[sample % len(prompts)] if prompts else []
    return prompt + [model.mask_token_id] * (sampling.length - len(prompt))


def _drawn(scores: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each row of `scores` [n, vocab], and how probable the model finds it.

    By inversion of the distribution function at `uniform` [n]: one number decides a position, and
    which others are drawn with it does not matter.
    """
    import torch

    probabilities = scores.softmax(-1)
    if temperature > 0.0:
        sums = (scores / temperature).softmax(-1).cumsum(-1)
        # Searched to the right of equal sums, where the probability is not 0.
        tokens = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)
        tokens = tokens.clamp(max=scores.shape[1] - 1)
    else:
        tokens = scores.argmax(-1, keepdim=True)
    return tokens[:, 0], probabilities.gather(1, tokens)[:, 0]


def _tensor(rows: Sequence[Sequence[int]]) -> Tensor:
    import torch

    return torch.tensor(rows, dtype=torch.int64)
