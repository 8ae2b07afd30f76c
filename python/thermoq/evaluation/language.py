"""A quantized masked-diffusion language model beside the full-precision one, on masked text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from thermoq.calibration import masked
from thermoq.calibration.language_models import LanguageModel
from thermoq.calibration.windows import different_windows
from thermoq.checkpoint.untrusted import bad_file, shown_path
from thermoq.evaluation.held_out import check_enough
from thermoq.evaluation.intervals import draws, ratio, rounded
from thermoq.evaluation.pairs import as_told
from thermoq.evaluation.settings import MASK_RATIOS
from thermoq.progress import StepProgress
from thermoq.report.evaluation_model import LanguageEvaluation, MaskedRow, MaskedSums
from thermoq.schedule import TimeGroups

_MASK_STREAM = 2  # behind a sampler's seed: calibration's are 0 and 1
_BATCH_LOGITS = 1 << 26

Array = NDArray[Any]


@dataclass(frozen=True)
class HeldOutText:
    """Token ids [samples, length] that neither model was fitted to, and where they come from."""

    tokens: Tensor
    source: Literal["own", "given"]

    @property
    def checksum(self) -> str:
        """Of the tokens."""
        return xxhash.xxh3_128_hexdigest(self.tokens.numpy().tobytes())


def given_text(
    model: LanguageModel, path: Path, lines: Sequence[str], sampling: masked.MaskedSampling
) -> HeldOutText:
    """Return different windows of the user's text in `path`, which do not overlap.

    They are fewer than `sampling.samples` where the text has no more. Raises UsageError if they are
    too few for an interval, InputError if there is less than one, or no tokenizer.
    """
    name = f"{shown_path(path)}: --data"
    windows = different_windows(model, lines, sampling.samples, sampling.length, name)
    hint = "; a smaller --length gives more"
    check_enough(len(windows), f"windows of {sampling.length} tokens", path, hint)
    return HeldOutText(torch.tensor(windows), "given")


def own_text(
    model: LanguageModel,
    sampling: masked.MaskedSampling,
    prompts: Sequence[str],
    progress: StepProgress,
) -> HeldOutText:
    """Return sequences that the full-precision model writes, prompts in front of them included."""
    planned = masked.batches(sampling, with_text=False)
    progress.start("writing text", len(planned) * sampling.steps, 0)
    starts = [model.encode(prompt)[: sampling.length // 2] for prompt in prompts]
    written = []
    for batch in planned:
        state = torch.tensor(
            [masked.masked_start(model, starts, sample, sampling) for sample in batch.samples]
        )
        states = masked.unmask(model, state, sampling, batch.samples, _unheard)
        of_all = f"sample {batch.samples[-1] + 1} of {sampling.samples}"
        for step, following in enumerate(states, 1):
            state = following
            progress.advance(f"step {step} of {sampling.steps}, {of_all}")
        written.append(state)
    return HeldOutText(torch.cat(written), "own")


def _unheard(timesteps: Sequence[float]) -> AbstractContextManager[None]:
    """What a sampler is given where nobody listens to its timesteps."""
    return nullcontext()


def evaluate_language(
    full: LanguageModel,
    quantized: LanguageModel,
    text: HeldOutText,
    sampling: masked.MaskedSampling,
    time_groups: TimeGroups,
    seed: int,
    progress: StepProgress,
) -> LanguageEvaluation:
    """Mask `text` at each of `MASK_RATIOS` and compare both models' predictions there.

    The masked positions of a sample follow from `sampling.seed`; those of a lower ratio are among
    those of a higher one. Raises InputError for logits that are not finite.
    """
    places = [_timestep(sampling, mask_ratio) for mask_ratio in MASK_RATIOS]
    counted = _Counts(len(text.tokens), len(MASK_RATIOS))
    size = max(1, min(sampling.batch_size, _BATCH_LOGITS // (sampling.length * full.vocab_size)))
    progress.start("evaluating", len(text.tokens) * len(MASK_RATIOS), 0)
    for number, mask_ratio in enumerate(MASK_RATIOS):
        for first in range(0, len(text.tokens), size):
            tokens = text.tokens[first : first + size]
            hidden = torch.stack(
                [
                    masked_positions(sampling, first + i, mask_ratio, skips_first=full.logits_shift)
                    for i in range(len(tokens))
                ]
            )
            noised = tokens.masked_fill(hidden, full.mask_token_id)
            with as_told(quantized.module, [places[number]]):
                logits = quantized.logits(noised), full.logits(noised)
            for i, each in enumerate(hidden):
                rows = [one[i, each.to(one.device)] for one in logits]
                _check(quantized.directory, full.directory, rows, mask_ratio)
                counted.add(first + i, number, rows[0], rows[1], tokens[i][each])
                done = f"mask ratio {mask_ratio:g}, sample {first + i + 1} of {len(text.tokens)}"
                progress.advance(done)
    return counted.evaluation(text.source, sampling.length, places, time_groups, seed)


def masked_positions(
    sampling: masked.MaskedSampling, sample: int, mask_ratio: float, *, skips_first: bool
) -> Tensor:
    """Return which tokens [length] of a sample to mask; `skips_first` where nothing predicts it."""
    order = np.random.default_rng([sampling.seed, _MASK_STREAM, sample]).permutation(
        np.arange(int(skips_first), sampling.length)
    )
    chosen = np.zeros(sampling.length, bool)
    chosen[order[: _num_masked(sampling, mask_ratio)]] = True
    return torch.from_numpy(chosen)


def _num_masked(sampling: masked.MaskedSampling, mask_ratio: float) -> int:
    return min(max(1, round(mask_ratio * sampling.length)), sampling.length - 1)


def _timestep(sampling: masked.MaskedSampling, mask_ratio: float) -> float:
    total = np.array([sampling.length])
    hidden = np.array([_num_masked(sampling, mask_ratio)])
    return masked.timesteps_of(hidden, total, sampling.num_timesteps)[0]


def _check(quantized: Path, full: Path, rows: Sequence[Tensor], mask_ratio: float) -> None:
    for directory, one in zip((quantized, full), rows, strict=True):
        if not bool(torch.isfinite(one).all()):
            problem = f"expected finite logits, got NaN or infinity at mask ratio {mask_ratio:g}"
            raise bad_file(directory, problem)


class _Counts:
    """Sums over masked tokens, each array [samples, mask ratios]."""

    def __init__(self, num_samples: int, num_ratios: int) -> None:
        shape = num_samples, num_ratios
        self.tokens, self.correct, self.full_correct = (np.zeros(shape, np.int64) for _ in range(3))
        self.divergence, self.cross_entropy, self.full_cross_entropy = (
            np.zeros(shape) for _ in range(3)
        )

    def add(self, sample: int, number: int, quantized: Tensor, full: Tensor, true: Tensor) -> None:
        """Add the logits [masked, vocabulary] of both models at the `true` tokens [masked]."""
        true = true.to(full.device)[:, None]
        ours, theirs = quantized.double().log_softmax(-1), full.double().log_softmax(-1)
        at = sample, number
        self.tokens[at] = len(true)
        self.divergence[at] = float((theirs.exp() * (theirs - ours)).sum())
        self.cross_entropy[at] = -float(ours.gather(1, true).sum())
        self.full_cross_entropy[at] = -float(theirs.gather(1, true).sum())
        self.correct[at] = int((ours.argmax(-1) == true[:, 0]).sum())
        self.full_correct[at] = int((theirs.argmax(-1) == true[:, 0]).sum())

    def evaluation(
        self,
        source: Literal["own", "given"],
        length: int,
        timesteps: Sequence[float],
        time_groups: TimeGroups,
        seed: int,
    ) -> LanguageEvaluation:
        """Return the figures of each mask ratio, of the time groups they are in, and of all."""
        drawn = draws(len(self.tokens), seed)
        groups = [time_groups.group_of(t) for t in timesteps]

        def row(columns: list[int], ratio_of: float | None, group: int | None) -> MaskedRow:
            t = timesteps[columns[0]] if len(columns) == 1 else None
            return MaskedRow(
                mask_ratio=ratio_of,
                timestep=t,
                time_group=group,
                tokens=int(self.tokens[:, columns].sum()),
                **dict(self._figures(columns, drawn)),
            )

        everything = list(range(len(timesteps)))
        return LanguageEvaluation(
            text=source,
            length=length,
            overall=row(everything, None, None),
            mask_ratios=[row([i], MASK_RATIOS[i], groups[i]) for i in everything],
            time_groups=[
                row([i for i in everything if groups[i] == group], None, group)
                for group in sorted(set(groups))
            ],
            sums=self._for_report(),
        )

    def _figures(self, columns: list[int], drawn: Array) -> Iterator[tuple[str, Any]]:
        tokens = self.tokens[:, columns].sum(1)
        for name, sums in (
            ("divergence", self.divergence),
            ("cross_entropy", self.cross_entropy),
            ("full_cross_entropy", self.full_cross_entropy),
            ("accuracy", self.correct),
            ("full_accuracy", self.full_correct),
        ):
            yield name, ratio(sums[:, columns].sum(1), tokens, drawn)

    def _for_report(self) -> MaskedSums:
        return MaskedSums(
            tokens=self.tokens.tolist(),
            divergence=rounded(self.divergence),
            cross_entropy=rounded(self.cross_entropy),
            full_cross_entropy=rounded(self.full_cross_entropy),
            correct=self.correct.tolist(),
            full_correct=self.full_correct.tolist(),
        )
