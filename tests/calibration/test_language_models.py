"""Dream and LLaDA checkpoints as modules: the right network, the right names, or an error."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import language_checkpoints
import models
import numpy as np
import pytest
from thermoq.errors import InputError, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from thermoq.calibration.language_models import (  # noqa: E402
    LanguageModel,
    load_language_model,
)

# Of torch's, when transformers' modules are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

TRAINED = Path(__file__).parents[1] / "data" / "masked-lm"
TOKENS = np.array([7, 49, 3, 3, 12, 49, 0, 30, 49])


def logits_of(model: LanguageModel, tokens: Any = TOKENS) -> Any:
    return model.logits(torch.tensor(np.atleast_2d(tokens)))[0].double().numpy()


@pytest.mark.parametrize("family", ["dream", "llada"])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_network_is_the_reference(tmp_path: Path, family: str, shards: int) -> None:
    directory = language_checkpoints.write(tmp_path, family, shards=shards)
    expected = language_checkpoints.reference(directory, family, TOKENS)
    logits = logits_of(load_language_model(directory))
    if family == "dream":  # position i - 1 predicts token i
        np.testing.assert_allclose(logits[1:], expected[:-1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits[0], expected[0], rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_the_first_position_sees_the_last(tmp_path: Path, family: str) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, family))
    changed = TOKENS.copy()
    changed[-1] = 11
    assert np.abs(logits_of(model)[0] - logits_of(model, changed)[0]).max() > 1e-3


@pytest.mark.parametrize(("family", "shift"), [("dream", False), ("llada", True)])
def test_the_config_overrides_the_shift(tmp_path: Path, family: str, shift: bool) -> None:
    usual = load_language_model(language_checkpoints.write(tmp_path / "usual", family))
    other = load_language_model(
        language_checkpoints.write(tmp_path / "other", family, logits_shift=shift)
    )
    assert (usual.logits_shift, other.logits_shift) == (not shift, shift)
    shifted, plain = (other, usual) if shift else (usual, other)
    np.testing.assert_array_equal(logits_of(shifted)[1:], logits_of(plain)[:-1])


def test_a_batch_is_its_samples(tmp_path: Path) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, "dream"))
    both = model.logits(torch.tensor(np.stack([TOKENS, TOKENS[::-1]])))
    assert both.shape == (2, len(TOKENS), language_checkpoints.VOCABULARY)
    np.testing.assert_allclose(both[1].numpy(), logits_of(model, TOKENS[::-1].copy()), atol=1e-5)


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_no_mask_of_length_by_length_is_made(tmp_path: Path, family: str) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, family))
    bytes_of_masks = []

    def see(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"]
        bytes_of_masks.append(0 if mask is None else mask.untyped_storage().nbytes())

    for layer in model.module.model.layers:
        layer.self_attn.register_forward_pre_hook(see, with_kwargs=True)
    logits_of(model)
    assert len(bytes_of_masks) == language_checkpoints.LAYERS
    assert max(bytes_of_masks) <= 4


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_layers_are_keyed_by_the_checkpoints_names(tmp_path: Path, family: str) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, family))
    assert set(model.layers) == language_checkpoints.linear_layers(family)
    stored = models.float_tensors(tmp_path)
    for name, path in model.layers.items():
        weight = model.module.get_submodule(path).weight
        np.testing.assert_array_equal(weight.numpy(), stored[name])
        assert not weight.requires_grad
    assert not model.module.training
    assert model.mask_token_id == language_checkpoints.MASK
    assert model.vocab_size == language_checkpoints.VOCABULARY


@pytest.mark.parametrize("dtype", models.FLOAT_DTYPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_weights_of_any_float_dtype(tmp_path: Path, dtype: str, precision: Any) -> None:
    directory = language_checkpoints.write(tmp_path, "llada", dtype)
    model = load_language_model(directory, dtype=precision)
    assert {p.dtype for p in model.module.parameters()} == {getattr(torch, precision)}
    expected = language_checkpoints.reference(directory, "llada", TOKENS)
    error = np.abs(logits_of(model) - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if precision == "float32" else 0.05)


@pytest.mark.parametrize("keep", [True, False])
def test_a_tied_head_may_be_left_out(tmp_path: Path, keep: bool) -> None:
    directory = language_checkpoints.write(tmp_path, "dream", tie_word_embeddings=True)
    table = models.read_tensors(directory)["model.embed_tokens.weight"]
    replace(directory, {"lm_head.weight": table if keep else None})
    model = load_language_model(directory)
    expected = language_checkpoints.reference(directory, "dream", TOKENS)
    np.testing.assert_allclose(logits_of(model)[1:], expected[:-1], rtol=1e-4, atol=1e-4)
    assert ("lm_head.weight" in model.layers) == keep


def replace(directory: Path, changes: dict[str, Any]) -> None:
    def changed(tensors: models.Tensors) -> models.Tensors:
        return {name: value for name, value in {**tensors, **changes}.items() if value}

    models.replace_tensors(directory / "model.safetensors", changed)


def broken(family: str, problem: str, **changes: Any) -> Any:
    return pytest.param(family, changes, problem, id=f"{family}-{next(iter(changes))}")


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        broken("dream", "expected the architecture", architectures=["Qwen2ForCausalLM"]),
        broken("llada", "expected the architecture", architectures=["LLaDAMoEModelLM"]),
        broken("dream", "expected hidden_size, got nothing", hidden_size=None),
        broken("dream", "expected mask_token_id, got nothing", mask_token_id=None),
        broken("dream", "mask_token_id below 50, got 50", mask_token_id=50),
        broken("dream", "num_hidden_layers: expected .* got 1000000", num_hidden_layers=10**6),
        broken("dream", "rope_scaling: expected None, got {'type'", rope_scaling={"type": "yarn"}),
        broken("dream", "use_sliding_window: expected False, got True", use_sliding_window=True),
        broken("dream", "hidden_act: expected 'silu', got 'gelu'", hidden_act="gelu"),
        broken("dream", "hidden size a multiple of 5, got 24", num_attention_heads=5),
        broken("dream", "heads a multiple of 3, got 4", num_key_value_heads=3),
        broken("dream", "logits_shift: expected boolean, got 'yes'", logits_shift="yes"),
        broken("llada", "block_type: expected 'llama', got 'sequential'", block_type="sequential"),
        broken("llada", "expected rope, got nothing", rope=None),
        broken("llada", "alibi: expected False, got True", alibi=True),
        broken("llada", "include_bias: expected False, got True", include_bias=True),
        broken("llada", r"q_proj.*expected shape \[24, 24\]|wte.*expected shape", d_model=32),
        broken("llada", "got none for model.layers.2.* and 8 more", n_layers=3),
        broken("llada", "expected no tensor of this name", n_layers=1),
    ],
)
def test_a_config_that_does_not_fit(
    tmp_path: Path, family: str, changes: dict[str, Any], problem: str
) -> None:
    directory = language_checkpoints.write(tmp_path / "model", family, **changes)
    with pytest.raises(InputError, match=problem) as caught:
        load_language_model(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


TENSOR = ("F32", (2, 2), bytes(16))


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("dream", {"lm_head.weight": None}, "got none for lm_head.weight"),
        ("dream", {"extra.weight": TENSOR}, "'extra.weight': expected no tensor of this name"),
        ("dream", {"lm_head.weight": TENSOR}, r"expected shape \[50, 24\], got \[2, 2\]"),
        ("dream", {"model.norm.weight": ("I32", (24,), bytes(96))}, "expected F32, F16, BF16"),
        ("llada", {"lm_head.weight": ("F32", (50, 24), bytes(4800))}, "expected it once, got"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, family: str, changes: dict[str, Any], problem: str
) -> None:
    directory = language_checkpoints.write(tmp_path / "model", family)
    replace(directory, changes)
    with pytest.raises(InputError, match=problem) as caught:
        load_language_model(directory)
    assert str(directory) in str(caught.value)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    directory = language_checkpoints.write(tmp_path, "dream")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="thermoq reads safetensors only"):
        load_language_model(directory)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    directory = language_checkpoints.write(tmp_path, "dream")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package} package, .*'thermoq\[torch\]'"):
        load_language_model(directory)


# Tokenizers.


def with_tokenizer(directory: Path, parts: bool) -> Path:
    """The trained model with its tokenizer in one file, or in two as Dream's repository has it."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((TRAINED / name).read_bytes())
    if parts:
        tokenizer = json.loads((TRAINED / "tokenizer.json").read_text())
        (directory / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "DreamTokenizer", "mask_token": "<|mask|>"})
        )
    return directory


@pytest.mark.parametrize("parts", [False, True])
def test_text_becomes_tokens(tmp_path: Path, parts: bool) -> None:
    model = load_language_model(with_tokenizer(tmp_path, parts))
    text = "The following identifiers are used as reserved words, or keywords"
    ids = model.encode(text)
    assert model.tokenizer.decode(ids) == text
    assert 5 < len(ids) < len(text) / 2
    assert model.mask_token_id not in ids
    assert model.encode("") == []


def test_text_is_never_cut_by_the_tokenizer(tmp_path: Path) -> None:
    model = load_language_model(with_tokenizer(tmp_path, parts=False))
    usual = model.encode("reserved words " * 9)
    model.tokenizer.enable_truncation(4)
    model.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_language_model(tmp_path).encode("reserved words " * 9) == usual


def test_a_tokenizer_is_asked_for_only_with_text(tmp_path: Path) -> None:
    model = load_language_model(language_checkpoints.write(tmp_path, "dream"))
    assert logits_of(model).shape == (9, 50)
    with pytest.raises(InputError, match=r"expected a tokenizer \(tokenizer.json, or vocab.json"):
        model.encode("text")


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    directory = language_checkpoints.write(tmp_path, "dream")
    (directory / "tokenizer.json").write_bytes((TRAINED / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="expected token ids below 50, the model's vocabulary"):
        load_language_model(directory).encode("reserved words")


def test_a_broken_tokenizer(tmp_path: Path) -> None:
    directory = language_checkpoints.write(tmp_path, "dream")
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=re.escape(str(directory)) + ": tokenizer: cannot be read"):
        load_language_model(directory).encode("text")


# The trained model.


def test_the_trained_model_uses_what_is_not_masked() -> None:
    """Far better than by the tokens' frequencies (6.1 nats), and better with more to go by."""
    topics = pytest.importorskip("pydoc_data.topics").topics
    model = load_language_model(TRAINED)
    ids = model.encode(topics["while"] + topics["assert"])
    tokens = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    losses = []
    for ratio in (0.15, 0.85):
        masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < ratio
        masked[:, 0] = False
        logits = model.logits(tokens.masked_fill(masked, model.mask_token_id))
        losses.append(float(torch.nn.functional.cross_entropy(logits[masked], tokens[masked])))
    assert losses[0] < 4.5
    assert losses[0] + 0.5 < losses[1] < 6.1
