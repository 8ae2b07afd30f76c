"""Trajectories of masked-diffusion language models: what is unmasked when, at which timestep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import language_checkpoints
import numpy as np
import pytest
from thermoq.errors import InputError, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from thermoq.calibration import masked  # noqa: E402
from thermoq.calibration.language_models import LanguageModel, load_language_model  # noqa: E402
from thermoq.calibration.masked import MaskedSampling, Pass  # noqa: E402

# Of torch's, when transformers' modules are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

MASK = language_checkpoints.MASK
T = 1000


class Log:
    """An `At` that notes the timesteps of each pass."""

    def __init__(self) -> None:
        self.passes: list[list[float]] = []
        self.is_inside = False

    @contextmanager
    def __call__(self, timesteps: Sequence[float]) -> Iterator[None]:
        self.passes.append(list(timesteps))
        self.is_inside = True
        yield
        self.is_inside = False


class Table:
    """A model that gives each position the logits [length, vocab] of a table, whatever it sees."""

    mask_token_id = 0

    def __init__(self, logits: Any, log: Log | None = None) -> None:
        self.table, self.log = torch.tensor(logits, dtype=torch.float32), log
        self.seen: list[Any] = []

    def logits(self, token_ids: Any) -> Any:
        assert self.log is None or self.log.is_inside
        self.seen.append(token_ids.clone())
        return self.table.expand(len(token_ids), -1, -1).clone()

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 if letter != "\n" else 27 for letter in text]


def settings(**changes: Any) -> MaskedSampling:
    given = {"samples": 4, "steps": 5, "length": 12, "seed": 3, "batch_size": 3, **changes}
    return MaskedSampling(**given)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(
        language_checkpoints.write(tmp_path_factory.mktemp("model"), "dream")
    )


def all_masked(n: int, length: int = 12, mask: int = MASK) -> Any:
    return torch.full((n, length), mask)


# Timesteps.


def test_the_timestep_of_a_mask_ratio() -> None:
    for count, total in [(1, 1), (1, 3), (2, 3), (7, 100), (29, 100), (1, 128), (127, 128)]:
        exact = max(0, min(T - 1, math.ceil(count * T / total - 1e-9) - 1))
        assert masked.timesteps_of(np.array([count]), np.array([total]), T) == [exact]
    # .07 * 1000 is above 70 in floating point.
    assert masked.timesteps_of(np.array([7, 100, 0]), np.array([100] * 3), T) == [69, 999, 0]


def test_timesteps_are_those_of_the_masks(model: LanguageModel) -> None:
    log = Log()
    states = [all_masked(3), *masked.unmask(model, all_masked(3), settings(), range(3), log)]
    assert len(log.passes) == len(states) - 1 == 5
    for state, timesteps in zip(states, log.passes, strict=False):
        ratios = (state == MASK).double().mean(dim=1)
        assert timesteps == [math.ceil(round(float(r) * 12) * T / 12) - 1 for r in ratios]
    assert log.passes[0] == [T - 1] * 3
    assert all(a > b for a, b in itertools.pairwise(log.passes))


# Unmasking.


@pytest.mark.parametrize("family", ["dream", "llada"])
@pytest.mark.parametrize(("steps", "length"), [(1, 9), (5, 12), (12, 12)])
def test_nothing_stays_masked(tmp_path: Path, family: str, steps: int, length: int) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, family))
    sampling = settings(steps=steps, length=length)
    *_, last = masked.unmask(model, all_masked(2, length), sampling, range(2), Log())
    assert last.shape == (2, length)
    assert not (last == MASK).any()
    assert ((last >= 0) & (last < language_checkpoints.VOCABULARY)).all()


def test_prompts_stay_and_do_not_count(model: LanguageModel) -> None:
    start = all_masked(2)
    start[0, :6] = torch.arange(6)
    log = Log()
    *_, last = masked.unmask(model, start, settings(steps=6), range(2), log)
    assert last[0, :6].tolist() == [0, 1, 2, 3, 4, 5]
    assert [timesteps[0] for timesteps in log.passes] == [999, 833, 666, 499, 333, 166]
    assert [timesteps[1] for timesteps in log.passes] == [999, 833, 666, 499, 333, 166]


def test_the_surest_positions_come_first() -> None:
    table = np.full((4, 6), -20.0)
    for position, (token, sureness) in enumerate([(1, 1.0), (2, 4.0), (3, 2.0), (4, 3.0)]):
        table[position, token], table[position, 5] = sureness, 0.0
    model: Any = Table(table)
    sampling = settings(steps=4, length=4, temperature=0.0, position_temperature=0.0)
    states = masked.unmask(model, all_masked(1, 4, 0), sampling, [0], Log())
    assert [state[0].tolist() for state in states] == [
        [0, 2, 0, 0],
        [0, 2, 0, 4],
        [0, 2, 3, 4],
        [1, 2, 3, 4],
    ]


def test_surer_positions_mostly_come_first() -> None:
    """At temperature t a position is first with probability softmax(confidence / t)."""
    table = np.full((3, 4), -20.0)
    confidences = np.array([0.5, 0.6, 0.9])
    for position, confidence in enumerate(confidences):
        table[position, 1:3] = np.log([confidence, 1 - confidence])
    model: Any = Table(table)
    sampling = settings(steps=3, length=3, temperature=0.0, position_temperature=0.2)
    first = next(masked.unmask(model, all_masked(2000, 3, 0), sampling, range(2000), Log()))
    assert ((first != 0).sum(dim=1) == 1).all()
    expected = np.exp(confidences / 0.2) / np.exp(confidences / 0.2).sum()
    np.testing.assert_allclose((first != 0).double().mean(dim=0).numpy(), expected, atol=0.04)


def test_each_pass_sees_what_was_unmasked_before() -> None:
    log = Log()
    model: Any = Table(np.zeros((8, 5)), log)
    states = list(masked.unmask(model, all_masked(2, 8, 0), settings(length=8), range(2), log))
    for before, seen in zip(states, model.seen[1:], strict=False):
        assert torch.equal(before, seen)
    for before, after in itertools.pairwise(states):
        assert torch.equal(after[before != 0], before[before != 0])


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_from_the_models_distribution(temperature: float) -> None:
    logits = np.array([9.0, 0.0, 1.0, 2.0, -1.0])  # the mask token would win
    model: Any = Table(np.tile(logits, (4000, 1)))
    sampling = settings(steps=1, length=4000, temperature=temperature)
    *_, last = masked.unmask(model, all_masked(1, 4000, 0), sampling, [0], Log())
    expected = np.exp(logits[1:] / temperature)
    expected /= expected.sum()
    shares = np.bincount(last[0].numpy(), minlength=5)[1:] / 4000
    np.testing.assert_allclose(shares, expected, atol=0.03)


def test_the_mask_token_is_never_drawn() -> None:
    model: Any = Table(np.tile([50.0, 0.0], (6, 1)))
    *_, last = masked.unmask(model, all_masked(1, 6, 0), settings(length=6), [0], Log())
    assert last.tolist() == [[1] * 6]


def test_a_seed_decides_the_samples() -> None:
    def sampled(seed: int, samples: Sequence[int]) -> list[list[int]]:
        model: Any = Table(np.zeros((12, 30)))
        start = all_masked(len(samples), 12, 0)
        *_, last = masked.unmask(model, start, settings(seed=seed), samples, Log())
        result: list[list[int]] = last.tolist()
        return result

    assert sampled(1, [0, 1]) == sampled(1, [0, 1])
    assert sampled(1, [0, 1]) != sampled(2, [0, 1])
    first, second = sampled(1, [0, 1])
    assert first != second
    assert sampled(1, [1]) == [second]  # whatever else is in the batch


# Text.


def test_text_is_masked_at_all_ratios(model: LanguageModel) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    log = Log()
    states = list(masked.mask_text(model, tokens, settings(steps=6), range(2), log))
    assert len(states) == len(log.passes) == 6
    for step, (state, timesteps) in enumerate(zip(states, log.passes, strict=True)):
        counts = (state == MASK).sum(dim=1).tolist()
        assert torch.equal(state[state != MASK], tokens[state != MASK])
        assert timesteps == [math.ceil(count * T / 12) - 1 for count in counts]
        for count in counts:
            assert 12 - 2 * step - 2 < count <= 12 - 2 * step
    assert not torch.equal(states[3][0] == MASK, states[3][1] == MASK)


# Whole runs.


@pytest.mark.parametrize(
    ("mix", "with_text", "trajectories", "texts"),
    [(0.5, True, 5, 5), (0.5, False, 10, 0), (0.0, True, 10, 0), (1.0, True, 0, 10)],
)
def test_text_gets_its_share(mix: float, with_text: bool, trajectories: int, texts: int) -> None:
    planned = masked.batches(settings(samples=10, mix=mix), with_text=with_text)
    assert [sample for batch in planned for sample in batch.samples] == list(range(10))
    assert max(len(batch.samples) for batch in planned) == 3
    assert sum(len(batch.samples) for batch in planned if batch.is_text) == texts
    assert sum(len(batch.samples) for batch in planned if not batch.is_text) == trajectories


def passes_of(done: int = 0, **changes: Any) -> tuple[list[Pass], list[list[float]], list[Any]]:
    log = Log()
    model: Any = Table(np.random.default_rng(0).normal(size=(12, 30)), log)
    sampling = settings(samples=8, **changes)
    text = ["the quick brown fox", "jumps over", "the lazy dog"]
    made = masked.run(
        model, sampling, log, prompts=["abcdefghij", "xy"], text=[w.replace(" ", "") for w in text],
        done=done,
    )  # fmt: skip
    return list(made), log.passes, [seen.tolist() for seen in model.seen]


def test_a_run_makes_all_passes() -> None:
    made, timesteps, seen = passes_of()
    assert made == [Pass(batch, 4, step, 5) for batch in (1, 2, 3, 4) for step in (1, 2, 3, 4, 5)]
    assert [len(each) for each in timesteps] == [3] * 5 + [1] * 5 + [3] * 5 + [1] * 5
    # Prompts in turn, the first cut to half of the length.
    assert [sample[:6] for sample in seen[0]] == [
        [1, 2, 3, 4, 5, 6],
        [24, 25, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 6],
    ]
    # Text from line 0, 0, 1 and 2.
    unmasked = np.array(seen[10:15]).max(axis=0)  # each token was left in some pass
    assert unmasked[0].tolist()[:3] == [20, 8, 5]


def test_a_run_can_be_repeated_and_continued() -> None:
    whole = passes_of()
    assert passes_of() == whole
    assert passes_of(seed=4)[2] != whole[2]
    rest = passes_of(done=2)
    assert rest == tuple(part[10:] for part in whole)


def test_a_run_without_a_tokenizer(model: LanguageModel) -> None:
    assert len(list(masked.run(model, settings(), Log()))) == 10
    for given in ({"prompts": ["a"]}, {"text": ["a"]}):
        with pytest.raises(InputError, match="expected a tokenizer"):
            list(masked.run(model, settings(), Log(), **given))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"length": 1}, "--length: expected at least 2 tokens, got 1"),
        ({"steps": 0}, r"--steps: expected between 1 and 12 \(--length\), got 0"),
        ({"steps": 13}, r"--steps: expected between 1 and 12 \(--length\), got 13"),
        ({"mix": 1.5}, "--mix: expected a share between 0 and 1, got 1.5"),
        ({"mix": math.nan}, "--mix: expected a share between 0 and 1, got nan"),
        ({"samples": 0}, "--samples: expected at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_run(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        settings(**changes)
