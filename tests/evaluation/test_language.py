"""Evaluating language models: every figure once more, from the logits of single sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import thermoq  # noqa: E402
from thermoq.calibration.language_models import load_language_model  # noqa: E402
from thermoq.calibration.masked import MaskedSampling, timesteps_of  # noqa: E402
from thermoq.errors import InputError, UsageError  # noqa: E402
from thermoq.evaluation.language import masked_positions, own_text  # noqa: E402
from thermoq.evaluation.run import evaluate  # noqa: E402
from thermoq.evaluation.settings import MASK_RATIOS, held_out_seed  # noqa: E402
from thermoq.progress import NoSteps  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 24
Folder = Callable[[str], Path]


def sampling(seed: int = 0) -> MaskedSampling:
    return MaskedSampling(samples=8, steps=6, length=LENGTH, seed=held_out_seed(seed))


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_figures_are_those_of_the_logits(family: str, language_model: Folder) -> None:
    root = language_model(family)
    found = evaluate(
        root / "model", root / "quantized", samples=8, steps=6, length=LENGTH, threads=1
    ).language
    assert found is not None
    assert (found.text, found.length) == ("own", LENGTH)
    full = load_language_model(root / "model")
    quantized = thermoq.load(root / "quantized")
    text = own_text(full, sampling(), (), NoSteps()).tokens
    assert not (text == full.mask_token_id).any()
    for number, mask_ratio in enumerate(MASK_RATIOS):
        row = found.mask_ratios[number]
        sums = np.zeros(5)
        count = round(mask_ratio * LENGTH)
        t = timesteps_of(np.array([count]), np.array([LENGTH]), 1000)[0]
        for sample in range(8):
            hidden = masked_positions(sampling(), sample, mask_ratio, skips_first=full.logits_shift)
            assert int(hidden.sum()) == count
            noised = text[sample].masked_fill(hidden, full.mask_token_id)[None]
            with torch.no_grad(), thermoq.timestep(quantized, t):
                q = quantized(noised).logits[0, hidden].double().log_softmax(-1).numpy()
            p = full.logits(noised)[0, hidden].double().log_softmax(-1).numpy()
            true = text[sample][hidden].numpy()
            at_true = np.arange(count), true
            sums += [
                (np.exp(p) * (p - q)).sum(),
                -q[at_true].sum(),
                -p[at_true].sum(),
                (q.argmax(1) == true).sum(),
                (p.argmax(1) == true).sum(),
            ]
        figures = [
            *(row.divergence, row.cross_entropy, row.full_cross_entropy),
            *(row.accuracy, row.full_accuracy),
        ]
        assert [one.value for one in figures] == pytest.approx(sums / (8 * count), rel=1e-4)
        assert row.tokens == 8 * count
        assert row.timestep == t
        assert row.time_group == [3, 2, 0][number]
        assert np.array(found.sums.tokens)[:, number].tolist() == [count] * 8
    assert found.overall.tokens == sum(row.tokens for row in found.mask_ratios)
    assert [row.time_group for row in found.time_groups] == [0, 2, 3]
    assert found.time_groups[0].divergence == found.mask_ratios[2].divergence


def test_masks_of_a_lower_ratio_are_among_those_of_a_higher_one() -> None:
    few, many = (masked_positions(sampling(), 3, r, skips_first=True) for r in (0.15, 0.85))
    assert bool((many | ~few).all())
    assert not many[0]
    assert not torch.equal(few, masked_positions(sampling(), 4, 0.15, skips_first=True))
    every = [masked_positions(sampling(1), i, 0.85, skips_first=False)[0] for i in range(20)]
    assert any(every)


def test_text_needs_a_tokenizer(language_model: Folder, tmp_path: Path) -> None:
    root = language_model("dream")
    (tmp_path / "text.txt").write_text("some text\n")
    with pytest.raises(InputError, match="expected a tokenizer"):
        evaluate(root / "model", root / "quantized", samples=8, data=tmp_path / "text.txt")


def test_what_only_image_models_have_is_refused(language_model: Folder) -> None:
    root = language_model("llada")
    for given, flag in (({"guidance": 2.0}, "guidance"), ({"size": 8}, "size")):
        with pytest.raises(UsageError, match=f"--{flag}: expected an image model"):
            evaluate(root / "model", root / "quantized", **given)
    with pytest.raises(UsageError, match="--judged: expected an image model"):
        evaluate(root / "model", root / "quantized", judged=8)


def test_held_out_text_of_the_trained_model(tmp_path: Path) -> None:
    """On real text the trained model knows something, and two bits cost little of it."""
    model = Path(__file__).parents[1] / "data" / "masked-lm"
    import pydoc_data.topics

    (tmp_path / "text.txt").write_text("\n".join(pydoc_data.topics.topics.values()))
    thermoq.quantize(model, tmp_path / "quantized", threads=1)
    found = evaluate(
        model, tmp_path / "quantized", samples=8, length=64, data=tmp_path / "text.txt", threads=1
    )
    assert (found.data, found.sampler) == ("text.txt", "masking given text")
    assert found.language is not None
    assert found.language.text == "given"
    overall = found.language.overall
    assert overall.full_accuracy.value > 0.05
    assert 0.0 < overall.divergence.value < 0.5
    assert abs(overall.cross_entropy.value - overall.full_cross_entropy.value) < 0.3
