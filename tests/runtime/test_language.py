"""Quantized masked-diffusion language models: aligned, bidirectional, timed by their masks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import language_checkpoints
import numpy as np
import pytest
import thermoq
from thermoq.errors import InputError, UsageError
from time_parameter_files import add_time_parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from thermoq.calibration.language_models import load_language_model  # noqa: E402
from thermoq.runtime.masks import MaskRatios  # noqa: E402
from thermoq.runtime.timing import ATTRIBUTE  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

TRAINED = Path(__file__).parents[1] / "data" / "masked-lm"
TOKENS = np.array([[7, 49, 3, 3, 12, 49, 0, 30, 49], [1, 2, 3, 4, 49, 49, 49, 8, 9]])
MASK = language_checkpoints.MASK


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model at 4 bits with all that the phases add."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "c.safetensors"
    thermoq.calibrate(TRAINED, path, samples=4, steps=8, length=32, rows=8, threads=1)
    settings: dict[str, Any] = {"bit_width": 4, "rotation": "hadamard", "validation": False}
    thermoq.quantize(
        TRAINED, folder / "out", calibration=str(path), method="lsq", threads=1, **settings
    )
    return folder / "out"


def test_a_quantized_model_fills_masks_with_its_tokenizer(trained: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    model = thermoq.load(trained)
    text = "The return statement leaves the current<|mask|><|mask|> with the expression list"
    found = filled(model, tokenizer(text, return_tensors="pt").input_ids)
    assert model.config.mask_token_id == tokenizer.mask_token_id not in found[0]
    full = load_language_model(TRAINED)
    ids = tokenizer(text, return_tensors="pt").input_ids
    best = full.logits(ids)[ids == model.config.mask_token_id].topk(5).indices
    chosen = found[ids == model.config.mask_token_id]
    assert all(token in likely for token, likely in zip(chosen, best, strict=True))


def filled(model: Any, ids: Any) -> Any:
    ids, mask = ids.clone(), model.config.mask_token_id
    while (ids == mask).any():  # the surest token first
        with torch.no_grad():
            sure, token = model(ids).logits.softmax(-1).max(-1)
        at = torch.where(ids == mask, sure, -1.0).argmax()
        ids.view(-1)[at] = token.view(-1)[at]
    return ids


@pytest.mark.parametrize("family", ["dream", "llada"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_decoded_weights(
    tmp_path: Path, family: str, packed: bool, tied: bool
) -> None:
    key = {"dream": "tie_word_embeddings", "llada": "weight_tying"}[family]
    model = language_checkpoints.write(tmp_path / "model", family, **{key: tied})
    thermoq.quantize(model, tmp_path / "out", bit_width=8, threads=1)
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    expected = load_language_model(tmp_path / "dense").logits(torch.tensor(TOKENS))
    loaded = thermoq.load(tmp_path / "out", packed=packed)
    assert torch.equal(loaded(torch.tensor(TOKENS)).logits, expected)
    assert torch.equal(loaded(input_ids=torch.tensor(TOKENS), return_dict=False)[0], expected)
    assert loaded.config.mask_token_id == MASK


def test_padding_changes_nothing(tmp_path: Path) -> None:
    model = language_checkpoints.write(tmp_path / "model", "llada")
    thermoq.quantize(model, tmp_path / "out", bit_width=8, threads=1)
    loaded = thermoq.load(tmp_path / "out")
    ids = torch.tensor(TOKENS[:1])
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    shown = torch.tensor([[1] * 9 + [0] * 3])
    found = loaded(padded, attention_mask=shown).logits[:, :9]
    torch.testing.assert_close(found, loaded(ids).logits, rtol=1e-4, atol=1e-5)
    assert (loaded(padded).logits[:, :9] - found).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["labels", "logits_to_keep", "past_key_values"])
def test_arguments_of_causal_models_are_refused(trained: Path, key: str) -> None:
    with pytest.raises(UsageError, match=f"Qwen2ForCausalLM: expected no {key}, got one"):
        thermoq.load(trained)(torch.zeros(1, 3, dtype=torch.int64), **{key: torch.ones(1, 3)})


def test_without_input_ids_nothing_tells_the_timestep(trained: Path) -> None:
    model = thermoq.load(trained)
    ids = torch.tensor([[5, 6, model.config.mask_token_id]])
    embedded = model.get_input_embeddings()(ids)
    problem = "expected input_ids, whose mask tokens tell the timestep, got inputs_embeds; `with"
    with pytest.raises(UsageError, match=problem):
        model(inputs_embeds=embedded)
    with pytest.raises(UsageError, match=r"expected input_ids, whose .*, got none; `with"):
        model()
    with thermoq.timestep(model, 333):
        assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
        with pytest.raises(UsageError, match="Qwen2ForCausalLM: expected input_ids, got none"):
            model()


@pytest.mark.parametrize("shape", [(1, 0), (0, 4), (3,), (1, 2, 3)])
def test_ids_that_are_no_sequences(trained: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = language_checkpoints.write(tmp_path / "model", "llada")
    thermoq.quantize(source, tmp_path / "untimed", bit_width=8, threads=1)
    problem = r"expected input_ids \[sequences, tokens\] with a token or more, got \["
    for folder in (trained, tmp_path / "untimed"):
        with pytest.raises(UsageError, match=problem):
            thermoq.load(folder)(torch.zeros(shape, dtype=torch.int64))


def test_a_loaded_model_is_no_checkpoint(trained: Path, tmp_path: Path) -> None:
    for packed in (False, True):
        model = thermoq.load(trained, packed=packed)
        with pytest.raises(UsageError, match="the quantized directory is the checkpoint"):
            model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_each_sequence_has_the_timestep_of_its_mask_ratio(trained: Path) -> None:
    model = thermoq.load(trained)
    mask = model.config.mask_token_id
    current, seen = getattr(model, ATTRIBUTE), []
    model.register_forward_pre_hook(lambda *_: seen.append(list(current.timesteps)))
    ids = torch.tensor([[5, 6, mask, mask, mask, mask], [mask, mask, mask, mask, mask, mask]])
    model(ids)
    ids[0, 2], ids[1, 0] = 7, 8
    model(ids)
    assert seen == [[999.0], [749.0, 833.0]]
    with thermoq.timestep(model, 12):
        model(ids)
    assert seen[-1] == [12.0]


def test_logits_are_corrected_by_bin(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    gain = np.array([0.5, 1.5], np.float16)
    add_time_parameters(out, correction=("logits", [999.0, 499.0], gain, None))
    plain, model = thermoq.load(trained), thermoq.load(out)
    ids = torch.randint(0, 2000, (2, 8), generator=torch.Generator().manual_seed(0))
    with thermoq.timestep(plain, [900, 3]), thermoq.timestep(model, [900, 3]):
        expected = plain(ids).logits * torch.tensor([0.5, 1.5])[:, None, None]
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(trained: Path, dtype: str) -> None:
    ids = torch.randint(0, 2000, (2, 8), generator=torch.Generator().manual_seed(0))
    exact, half = thermoq.load(trained)(ids).logits, thermoq.load(trained, dtype=dtype)(ids).logits
    assert str(half.dtype) == f"torch.{dtype}"
    assert (half.float() - exact).norm() / exact.norm() < 0.1


def test_a_mask_of_attention_alone_tells_no_timestep(trained: Path) -> None:
    """Not even in a dtype that NumPy does not have."""
    model = thermoq.load(trained, dtype="bfloat16")
    mask = model.config.mask_token_id
    ids = torch.tensor([[mask, 5, mask, mask]])
    everything = torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    expected = model(ids).logits
    assert torch.equal(model(ids, attention_mask=everything).logits, expected)


def test_a_table_of_two_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint quantized by thermoq"):
        thermoq.load(language_checkpoints.write(tmp_path, "dream"))


# Mask ratios.


def timesteps(ratios: MaskRatios, *rows: str) -> list[float]:
    """Of sequences where `#` is masked and every other letter a token."""
    ids = np.array([[MASK if letter == "#" else ord(letter) for letter in row] for row in rows])
    return ratios.timesteps(ids)


def test_ratios_along_a_trajectory() -> None:
    ratios = MaskRatios(MASK, 1000)
    assert timesteps(ratios, "########") == [999.0]
    assert timesteps(ratios, "#a######") == [874.0]
    assert timesteps(ratios, "ba######") == [749.0]  # unmasked since, so it is no prompt
    assert timesteps(ratios, "ba#c####") == [624.0]
    assert timesteps(ratios, "abcdefgh") == [999.0 * 0]  # another text, without a mask
    assert timesteps(ratios, "########") == [999.0]


def test_prompts_do_not_count() -> None:
    ratios = MaskRatios(MASK, 1000)
    assert timesteps(ratios, "pp######", "p#######") == [999.0, 999.0]
    assert timesteps(ratios, "pp###a##", "p###b###") == [833.0, 857.0]
    # The first begins anew, with a longer prompt; the second goes on.
    assert timesteps(ratios, "qqqq####", "p##cb###") == [999.0, 714.0]
    assert timesteps(ratios, "qqqq##") == [999.0]  # of another length


def test_hidden_positions_do_not_count() -> None:
    ratios = MaskRatios(MASK, 1000)
    ids = np.array([[5, MASK, MASK, 7, 0, 0]])
    shown = np.array([[1, 1, 1, 1, 0, 0]])
    assert ratios.timesteps(ids, shown) == [666.0]
    assert MaskRatios(MASK, 1000).timesteps(ids) == [399.0]
