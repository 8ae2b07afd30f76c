"""Evaluating denoisers: every figure once more by other means, on the same held-out noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import thermoq  # noqa: E402
from diffusers_models import dit_pipeline, flux, sd3, stable_diffusion, wan  # noqa: E402
from thermoq.calibration.run import calibrate  # noqa: E402
from thermoq.errors import InputError, UsageError  # noqa: E402
from thermoq.evaluation.run import evaluate  # noqa: E402
from thermoq.evaluation.settings import held_out_seed  # noqa: E402
from thermoq.report.evaluation_model import Evaluation  # noqa: E402
from thermoq.report.json import read_json  # noqa: E402
from thermoq.stored_report import stored_report  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
SMALL: dict[str, Any] = {"samples": 8, "steps": 10, "threads": 1}


def by_hand(root: Path, steps: int) -> dict[int, list[tuple[float, float, float, float]]]:
    """Error, energy, cosine and KL of each sample at each timestep, in a loop of its own."""
    full = diffusers.DiTTransformer2DModel.from_pretrained(root / "model" / "transformer").eval()
    quantized = thermoq.load(root / "quantized")
    scheduler = diffusers.DDIMScheduler.from_pretrained(root / "model" / "scheduler")
    seed = held_out_seed(0)
    state = torch.from_numpy(
        np.stack([np.random.default_rng([seed, 0, i]).standard_normal((1, 8, 8)) for i in range(8)])
    ).float()
    order = np.random.default_rng(seed).permutation(3)
    labels = torch.tensor([int(order[i % 3]) for i in range(8)])
    bars = scheduler.alphas_cumprod.double().numpy()
    scheduler.set_timesteps(steps)
    found = {}
    with torch.no_grad():
        for t in scheduler.timesteps:
            given = {"timestep": t.expand(8), "class_labels": labels}
            y, y_q = (model(state, **given).sample for model in (full, quantized))
            rows = []
            for one, other in zip(y.double().numpy(), y_q.double().numpy(), strict=True):
                error, energy = float(((other - one) ** 2).sum()), float((one**2).sum())
                cosine = float((one * other).sum() / np.sqrt(energy * (other**2).sum()))
                kl = np.nan
                if t > 0:
                    alpha = bars[t] / bars[t - 1]
                    variance = (1 - alpha) * (1 - bars[t - 1]) / (1 - bars[t])
                    kl = error * (1 - alpha) ** 2 / (2 * variance * alpha * (1 - bars[t]))
                rows.append((error, energy, cosine, float(kl)))
            found[int(t)] = rows
            state = scheduler.step(y, t, state).prev_sample
    return found


def test_figures_are_those_of_a_loop_of_ones_own(there: Path) -> None:
    found = evaluate("model", "quantized", **SMALL).denoiser
    assert found is not None
    expected = by_hand(there, 10)
    starts = [999, 749, 499, 249, -1]
    for part in range(4):
        chosen = [rows for t, rows in expected.items() if starts[part + 1] < t <= starts[part]]
        error, energy, cosine, kl = np.array(chosen).reshape(-1, 4).T
        for row in (found.time_groups[part], found.quarters[part]):
            assert row.passes == len(error)
            assert row.output_error is not None
            assert row.cosine_similarity is not None
            assert row.transition_kl is not None
            assert row.output_error.value == pytest.approx(error.sum() / energy.sum(), rel=1e-4)
            assert row.cosine_similarity.value == pytest.approx(cosine.mean(), rel=1e-5)
            assert row.transition_kl.value == pytest.approx(np.nanmean(kl), rel=1e-4)
            assert row.output_error.low < row.output_error.value < row.output_error.high
        by_sample = np.array(chosen)[:, :, 0].sum(axis=0)
        stored = np.array(found.time_group_sums.squared_error)[:, part]
        assert stored == pytest.approx(by_sample, rel=1e-4)
    whole = np.array([row for rows in expected.values() for row in rows])
    assert found.overall.output_error is not None
    ratio = whole[:, 0].sum() / whole[:, 1].sum()
    assert found.overall.output_error.value == pytest.approx(ratio, rel=1e-4)
    assert (found.overall.start_timestep, found.overall.end_timestep) == (999, 0)


def test_the_model_itself_has_no_error(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thermoq.evaluation.run as module

    full = diffusers.DiTTransformer2DModel.from_pretrained(there / "model" / "transformer").eval()
    monkeypatch.setattr(module, "load_quantized", lambda parts, precision: [full])
    found = evaluate("model", "quantized", **SMALL).denoiser
    assert found is not None
    assert found.overall.output_error is not None
    assert found.overall.cosine_similarity is not None
    assert found.overall.output_error.high == 0.0
    assert found.overall.cosine_similarity.low == pytest.approx(1.0)


def test_more_samples_narrow_the_intervals_and_seeds_draw_others(there: Path) -> None:
    def run(**given: Any) -> Evaluation:
        return evaluate("model", "quantized", **{**SMALL, "steps": 2, **given})

    few, many, again, other = run(), run(samples=64), run(), run(seed=1)
    widths = [
        one.denoiser.overall.output_error.high - one.denoiser.overall.output_error.low  # type: ignore[union-attr]
        for one in (few, many)
    ]
    assert widths[1] < 0.7 * widths[0]
    assert again.denoiser == few.denoiser
    assert again.inputs_key == few.inputs_key
    assert other.denoiser != few.denoiser
    assert len({one.inputs_key for one in (few, many, other)}) == 3
    assert few.inputs is not None
    assert few.inputs == many.inputs == other.inputs  # nothing else that decides differs


def test_calibrations_draw_nothing_of_it(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thermoq.calibration.plain_sampler as sampler

    drawn: list[Any] = []
    real = sampler.PlainSampler._noise

    def noise(self: Any, samples: range) -> Any:
        drawn.append(real(self, samples))
        return drawn[-1]

    monkeypatch.setattr(sampler.PlainSampler, "_noise", noise)
    evaluate("model", "quantized", **SMALL)
    calibrate("model", "c", samples=8, steps=2, bins=2, rows=2, threads=1)
    evaluated, calibrated = (one.flatten(1) for one in drawn)
    assert not (evaluated[:, None] == calibrated).any()


def test_the_result_goes_into_the_checkpoint_and_the_reports(there: Path) -> None:
    before = read_json(Path("report.json"))
    found = evaluate("model", "quantized", report="report.json", html_report="r.html", **SMALL)
    after = read_json(Path("report.json"))
    assert after.evaluation == found
    assert after.model_copy(update={"evaluation": None}) == before
    assert "[evaluation]" in Path("report.log").read_text()
    assert 'id="evaluation"' in Path("r.html").read_text()
    thermoq.verify("quantized")
    stored = stored_report("quantized")
    assert stored.evaluation == found
    assert stored.layers == before.layers
    assert stored.smoothness_score == before.smoothness_score
    # A second one takes the first one's place; without a report there one is begun.
    second = evaluate("model", "quantized", seed=1, report="new.json", **SMALL)
    assert second.denoiser != found.denoiser
    assert stored_report("quantized").evaluation == second
    begun = read_json(Path("new.json"))
    assert begun.evaluation == second
    assert begun.layers == before.layers
    assert begun.provenance.input_fingerprint == before.provenance.input_fingerprint


def test_nothing_but_the_report_changes_in_the_manifest(there: Path) -> None:
    path = Path("quantized/transformer/thermoq.json")
    before = json.loads(path.read_text())
    before["added_later"] = {"by": "another version"}
    path.write_text(json.dumps(before))
    evaluate("model", "quantized", **SMALL)
    after = json.loads(path.read_text())
    assert after["report"].pop("evaluation")["num_samples"] == 8
    assert after == before


class TestWhatIsRefused:
    """Whatever is refused leaves everything as it was."""

    @pytest.fixture(autouse=True)
    def _unchanged(self, there: Path) -> Any:
        path = there / "quantized" / "transformer" / "thermoq.json"
        before = path.read_bytes()
        yield
        assert path.read_bytes() == before

    def test_a_checkpoint_of_another_model(self, there: Path) -> None:
        from diffusers_models import dit

        dit(there / "other", num_layers=2)
        with pytest.raises(InputError) as caught:
            evaluate("other", "quantized", **SMALL)
        problem = str(caught.value)
        assert problem.startswith(
            "quantized/transformer: expected a checkpoint quantized from the weights in other (xxh3"
        )
        assert "got one from other weights (xxh3-128:" in problem

    def test_a_directory_that_is_not_quantized(self) -> None:
        with pytest.raises(InputError, match="expected a checkpoint quantized by thermoq"):
            evaluate("model", "model", **SMALL)

    def test_too_few_samples(self) -> None:
        with pytest.raises(UsageError, match=r"--samples: expected at least 8, .* got 3"):
            evaluate("model", "quantized", samples=3)

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from thermoq.calibration import packages

        monkeypatch.setattr(packages, "find_spec", lambda name: None)
        with pytest.raises(UsageError) as caught:
            evaluate("model", "quantized")
        assert str(caught.value) == (
            "evaluate: expected the torch package, got none; pip install 'thermoq[torch]'"
        )

    def test_a_setting_that_it_does_not_have(self) -> None:
        with pytest.raises(UsageError, match="evaluate: unknown setting bins"):
            evaluate("model", "quantized", bins=3)

    def test_samples_of_a_model_that_the_judge_does_not_know(self) -> None:
        from diffusers_models import dit

        dit(Path("four"), in_channels=4, out_channels=4)
        thermoq.quantize("four", "four-quantized", threads=1)
        with pytest.raises(UsageError) as caught:
            evaluate("four", "four-quantized", judged=8, **SMALL)
        assert str(caught.value) == (
            "--judged: expected a model that draws 8x8 digits by their label, got "
            "DiTTransformer2DModel of 4 channels and size 8"
        )

    def test_the_report_of_another_run(self) -> None:
        thermoq.quantize("model", "eight", bit_width=8, threads=1, report="eight.json")
        before = Path("eight.json").read_bytes()
        with pytest.raises(InputError, match=r"eight.json: expected the report of quantized, or"):
            evaluate("model", "quantized", report="eight.json", **SMALL)
        assert Path("eight.json").read_bytes() == before

    def test_predictions_that_are_not_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import thermoq.evaluation.run as module

        class Broken(torch.nn.Module):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return (args[0] * torch.nan,)

        monkeypatch.setattr(module, "load_quantized", lambda parts, precision: [Broken()])
        with pytest.raises(InputError, match="NaN or infinity from the quantized model at timest"):
            evaluate("model", "quantized", **SMALL)


@pytest.mark.parametrize("maker", [dit_pipeline, sd3, flux, wan, stable_diffusion])
def test_whatever_can_be_calibrated_can_be_evaluated(maker: Any, tmp_path: Path) -> None:
    maker(tmp_path / "model")
    thermoq.quantize(tmp_path / "model", tmp_path / "quantized", bit_width=4, threads=1)
    size = 16 if maker in (flux, wan) else None  # their own is a thousand times that
    found = evaluate(
        tmp_path / "model", tmp_path / "quantized", samples=8, steps=4, size=size, threads=1
    )
    assert found.denoiser is not None
    assert found.denoiser.overall.output_error is not None
    assert 0.0 < found.denoiser.overall.output_error.value < 2.0
    is_chain = maker in (dit_pipeline, stable_diffusion)
    assert (found.denoiser.overall.transition_kl is not None) == is_chain
    assert (found.denoiser.time_group_sums.transition_kl is not None) == is_chain
    passes = 2 if maker in (dit_pipeline, stable_diffusion) else 1
    assert found.denoiser.overall.passes >= 8 * 4 * passes


def test_images_of_the_user_are_noised(there: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32)
    np.save("images.npy", images)
    found = evaluate("model", "quantized", data="images.npy", **SMALL)
    assert found.data == "images.npy"
    assert found.denoiser is not None
    # One timestep in each of ten equal parts, for each sample by itself.
    passes = np.array(found.denoiser.quarter_sums.passes)
    assert (passes.sum(axis=1) == 10).all()
    assert ((passes == 2) | (passes == 3)).all()


def test_samples_are_judged_when_asked_for(there: Path) -> None:
    """The tiny model knows three labels; the judge's ten need ten."""
    from diffusers_models import dit

    dit(there / "ten", num_embeds_ada_norm=10)
    thermoq.quantize("ten", "ten-quantized", threads=1)
    found = evaluate("ten", "ten-quantized", judged=16, **{**SMALL, "steps": 2}).sample_quality
    assert found is not None
    assert (found.num_samples, len(found.correct), len(found.full_correct)) == (16, 16, 16)
    assert found.accuracy.value == found.correct.count("1") / 16
    assert found.frechet_distance.low < found.frechet_distance.value < found.frechet_distance.high
    assert found.frechet_distance.value > 5.0
    assert evaluate("ten", "ten-quantized", **SMALL).sample_quality is None
