"""Fitting the output correction to running models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import thermoq  # noqa: E402
from calibrations import describe  # noqa: E402
from thermoq.calibration.file import fine_bins  # noqa: E402
from thermoq.evaluation.output_correction import fit_output_correction  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
BINS = fine_bins(1000, 5)


def description(**given: Any) -> Any:
    usual: dict[str, Any] = {
        "steps": 10,
        "num_samples": 16,
        "bin_starts": BINS.starts,
        "num_timesteps": 1000,
    }
    return describe({}, **{**usual, **given})


class Distorted(torch.nn.Module):
    """A model whose prediction is off by a gain and a bias that a correction can undo."""

    def __init__(self, model: Any, gain: float, bias: Any) -> None:
        super().__init__()
        self.model, self.gain, self.bias = model, gain, bias

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.model(*args, **kwargs)
        return ((output.sample - self.bias) / self.gain,)


@pytest.mark.parametrize("kind", ["channel", "position"])
def test_a_gain_and_a_bias_are_found_again(there: Path, kind: str) -> None:
    full = diffusers.DiTTransformer2DModel.from_pretrained(there / "model" / "transformer").eval()
    shape = (1, 1, 1) if kind == "channel" else (1, 8, 8)
    bias = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = fit_output_correction("model", [Distorted(full, 1.25, bias)], description(), threads=1)[
        "transformer"
    ]
    assert found.correction is not None
    assert found.held_out_errors[kind] < 1e-4
    assert found.correction.bins == BINS
    assert found.correction.gain == pytest.approx(np.full(5, 1.25), rel=1e-3)
    if kind == "position":
        assert found.correction.kind == "position"
        assert found.held_out_errors["position"] < 1e-2 * found.held_out_errors["channel"]
    assert found.correction.bias is not None
    if found.correction.kind == "position":
        for values in found.correction.bias:
            assert values == pytest.approx(np.broadcast_to(bias.numpy(), (1, 8, 8)), abs=5e-3)
    else:
        assert found.correction.bias == pytest.approx(np.full((5, 1), float(bias)), abs=5e-3)
    assert found.num_samples == 16


def test_the_quantized_model_is_corrected_on_samples_that_were_not_fitted(there: Path) -> None:
    found = fit_output_correction("model", "quantized", description(num_samples=32), threads=1)
    one = found["transformer"]
    assert one.held_out_errors["none"] == 1.0
    best = min(one.held_out_errors, key=lambda kind: one.held_out_errors[kind])
    assert best == (one.correction.kind if one.correction else "none")
    again = fit_output_correction("model", "quantized", description(num_samples=32), threads=1)
    assert again["transformer"].held_out_errors == one.held_out_errors


def test_nothing_is_corrected_where_nothing_is_gained(there: Path) -> None:
    full = diffusers.DiTTransformer2DModel.from_pretrained(there / "model" / "transformer").eval()
    found = fit_output_correction("model", [full], description(), threads=1)["transformer"]
    assert found.correction is None


def test_no_sample_of_an_evaluation_is_used(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thermoq.evaluation.own_sampling as module

    seeds = []
    real = module.job_for

    def job_for(checkpoint: Any, schedule: Any, settings: Any) -> Any:
        seeds.append(settings.seed)
        return real(checkpoint, schedule, settings)

    monkeypatch.setattr(module, "job_for", job_for)
    fit_output_correction("model", "quantized", description(seed=3), threads=1)
    assert seeds == [3]


def test_a_temperature_is_found_again(language_model: Callable[[str], Path]) -> None:
    from thermoq.calibration.language_models import load_language_model

    root = language_model("dream")
    full = load_language_model(root / "model")

    class Cooler(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = full.module(*args, **kwargs)
            return (output.logits / 1.3,)

    about = description(schedule_kind="masked", num_samples=16, details={"length": 16})
    one = fit_output_correction(root / "model", [Cooler()], about, threads=1)[""]
    assert one.correction is not None
    assert (one.correction.kind, one.correction.bias) == ("logits", None)
    assert one.correction.gain == pytest.approx(np.full(5, 1.3), rel=5e-3)
    assert one.held_out_errors["logits"] < 0.01
    quantized = fit_output_correction(root / "model", root / "quantized", about, threads=1)[""]
    assert quantized.held_out_errors["logits"] < 1.05
    thermoq.verify(root / "quantized")
