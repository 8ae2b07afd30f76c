"""Timing a model beside itself with static parameters, on a clock that tests turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from thermoq.evaluation import inference_time as module  # noqa: E402
from thermoq.evaluation.inference_time import (  # noqa: E402
    LIMIT_S,
    MAX_ROUNDS,
    MIN_ROUNDS,
    TimedPass,
    inference_time,
    planned,
    take_turns,
)
from thermoq.evaluation.intervals import median  # noqa: E402
from thermoq.evaluation.run import evaluate  # noqa: E402
from thermoq.evaluation.timed_passes import in_large_batch, language_passes  # noqa: E402
from thermoq.progress import NoSteps  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
SMALL: dict[str, Any] = {"samples": 8, "steps": 10, "threads": 1}


class Machine:
    """A clock, and a model whose passes take as long as `seconds` says."""

    def __init__(self, seconds: Callable[[int, bool, int], float]) -> None:
        self.now = 0.0
        self.passes: list[tuple[int, bool]] = []
        self.forgotten: list[int] = []
        self._seconds = seconds
        self._static = False

    def clock(self) -> float:
        return self.now

    def forget(self) -> None:
        self.forgotten.append(len(self.passes))

    @contextmanager
    def static(self) -> Iterator[None]:
        self._static = True
        yield
        self._static = False

    def at(self, place: int) -> TimedPass:
        def run() -> None:
            self.now += self._seconds(place, self._static, len(self.passes))
            self.passes.append((place, self._static))

        return TimedPass(self, run, 64)  # type: ignore[arg-type]


def test_the_figure_is_the_median_of_the_turns_ratios() -> None:
    """A machine that is slower for a while changes no ratio, and the warm-up does not count."""

    def seconds(place: int, static: bool, done: int) -> float:
        busy = 3.0 if 40 <= done < 60 else 100.0 if done < 2 else 1.0
        return busy * (0.002 if static else 0.003 + 0.0001 * place)

    machine = Machine(seconds)
    found = inference_time([machine.at(i) for i in range(5)], 0, NoSteps(), machine.clock)
    assert found is not None
    assert found.over_static.value == pytest.approx(1.6)
    assert sorted(set(found.ratios)) == pytest.approx([1.5, 1.55, 1.6, 1.65, 1.7])
    assert found.static_s == pytest.approx(0.002)
    assert (found.batch_size, found.num_timesteps, len(found.ratios)) == (64, 5, 50)
    assert 1.5 <= found.over_static.low <= found.over_static.high <= 1.7
    assert inference_time([], 0, NoSteps(), machine.clock) is None


def test_both_are_first_as_often_at_every_timestep() -> None:
    machine = Machine(lambda place, static, done: 0.001)
    turns, timesteps = take_turns([machine.at(i) for i in range(4)], NoSteps(), machine.clock)
    assert (len(turns), timesteps) == (4 * MAX_ROUNDS, 4)
    counted = machine.passes[4:]  # after two turns of warm-up
    pairs = list(zip(counted[::2], counted[1::2], strict=True))
    assert all(a[0] == b[0] and a[1] != b[1] for a, b in pairs)
    assert Counter(first for first, _ in pairs) == {
        (place, static): MAX_ROUNDS // 2 for place in range(4) for static in (False, True)
    }
    # Before each pass of its own the model forgets what it evaluated, before no static one.
    own = [i for i, (_, static) in enumerate(machine.passes) if not static]
    assert machine.forgotten == own


@pytest.mark.parametrize("pair_s", [1e-4, 0.01, 0.1, 0.5, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("passes", [1, 2, 5, 10, 40])
def test_slow_models_take_fewer_turns(pair_s: float, passes: int) -> None:
    timesteps, rounds = planned(pair_s, passes)
    assert 1 <= timesteps <= min(10, passes)
    assert rounds >= MIN_ROUNDS
    assert rounds * timesteps >= 6
    assert pair_s * (rounds * timesteps) <= max(LIMIT_S, 6 * pair_s)
    if pair_s <= 0.01:
        assert (timesteps, rounds) == (min(10, passes), MAX_ROUNDS)
    if pair_s >= 10.0:
        assert rounds * timesteps == 6


def test_slow_models_are_warmed_up_once() -> None:
    machine = Machine(lambda place, static, done: 5.0)
    turns, timesteps = take_turns([machine.at(i) for i in range(10)], NoSteps(), machine.clock)
    assert (len(turns), timesteps, len(machine.passes)) == (6, 2, 2 + 12)
    assert {place for place, _ in machine.passes} == {0, 9}


def test_a_medians_interval_is_of_medians() -> None:
    values = np.random.default_rng(0).normal(1.1, 0.01, 100)
    values[:5] = 30.0  # outliers move neither
    found = median(values, 0)
    assert found.value == np.median(values)
    assert 1.09 < found.low < found.value < found.high < 1.11
    assert median(values, 0) == found
    assert median(values, 1) != found
    assert median([1.5] * 9, 0).low == 1.5


def test_passes_are_made_in_batches_of_64_at_one_timestep() -> None:
    x, t = torch.arange(12.0).reshape(3, 4), torch.tensor([5, 6, 7])
    rows, (args, kwargs) = in_large_batch(3, ((x,), {"timestep": t, "flag": False, "none": None}))
    assert rows == 64
    assert torch.equal(args[0][:6], torch.cat([x, x]))
    assert kwargs["timestep"].tolist() == [5] * 64
    assert (kwargs["flag"], kwargs["none"]) == (False, None)
    # Images so large that fewer fit; what holds no samples cannot be repeated.
    large = (torch.zeros(3, 1 << 14),), {"timestep": torch.tensor(5)}
    assert in_large_batch(3, large)[0] == 16
    ids = (x,), {"ids": torch.zeros(7, 3)}
    assert in_large_batch(3, ids) == (3, ids)


class TestEvaluations:
    """What `evaluate` times, and where it goes."""

    def test_the_quantized_model_is_timed(self, there: Path, monkeypatch: Any) -> None:
        seen: list[TimedPass] = []
        real = module.inference_time

        def spy(passes: Any, *rest: Any) -> Any:
            seen.extend(passes)
            return real(passes, *rest)

        monkeypatch.setattr(module, "inference_time", spy)
        found = evaluate("model", "quantized", report="report.json", **SMALL)
        assert found.inference is not None
        assert (found.inference.batch_size, found.inference.num_timesteps) == (64, 10)
        assert found.inference.threads == 1
        assert [len(one.run.args[0]) for one in seen] == [64] * 10  # type: ignore[attr-defined]
        timesteps = [float(one.run.keywords["timestep"][0]) for one in seen]  # type: ignore[attr-defined]
        assert timesteps == sorted(timesteps, reverse=True)
        assert len(set(timesteps)) == 10
        assert "inference: batch 64, turns " in Path("report.log").read_text()

    def test_timing_changes_nothing_else_and_can_be_left_out(self, there: Path) -> None:
        timed, bare = (evaluate("model", "quantized", timing=on, **SMALL) for on in (True, False))
        assert bare.inference is None
        own = {"inference": None, "elapsed_s": 0.0}
        assert timed.model_copy(update=own) == bare.model_copy(update=own)

    def test_models_of_another_kind_are_not_timed(
        self, there: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import diffusers
        import thermoq.evaluation.run as run

        folder = there / "model" / "transformer"
        full = diffusers.DiTTransformer2DModel.from_pretrained(folder).eval()
        monkeypatch.setattr(run, "load_quantized", lambda parts, precision: [full])
        assert evaluate("model", "quantized", **SMALL).inference is None


def test_language_models_are_timed_at_mask_ratios(
    language_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from thermoq.calibration.language_models import LanguageModel
    from thermoq.checkpoint.quantized import open_quantized
    from thermoq.runtime.loading import load_quantized_language_model
    from thermoq.runtime.timing import ATTRIBUTE

    root = language_model("dream")
    quantized = load_quantized_language_model(open_quantized(root / "quantized")[1][0])
    given: list[Any] = []
    real = LanguageModel.logits

    def logits(self: Any, ids: Any) -> Any:
        given.append(ids)
        return real(self, ids)

    monkeypatch.setattr(LanguageModel, "logits", logits)
    current = getattr(quantized.module, ATTRIBUTE)
    current.always = True  # so that mask ratios are read, whatever the checkpoint has
    timesteps: list[Any] = []
    quantized.module.register_forward_pre_hook(lambda *_: timesteps.append(current.timesteps))
    text = torch.arange(1, 49).reshape(2, 24)
    passes = language_passes(quantized, text, 0)
    for one in passes:
        one.run()
        assert one.rows == len(given[-1])
    counts = [(ids == quantized.mask_token_id).sum(1) for ids in given]
    assert [len(set(each.tolist())) for each in counts] == [1] * 10
    shares = [int(each[0]) for each in counts]
    assert shares == [24, 21, 19, 16, 14, 11, 9, 6, 4, 1]
    # All sequences are at one timestep, that of their masks: none is taken for a prompt.
    assert [len(each) for each in timesteps] == [1] * 10
    assert [each[0] for each in timesteps] == [-(-1000 * n // 24) - 1 for n in shares]
    found = evaluate(
        root / "model", root / "quantized", samples=8, steps=6, length=24, threads=1
    ).inference
    assert found is not None
    assert (found.batch_size, found.num_timesteps) == (64, 10)
