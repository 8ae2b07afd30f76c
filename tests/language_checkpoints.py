"""Tiny random Dream and LLaDA checkpoints that can be run, and what they compute, by hand.

`models.dream` has Dream's names but no sizes that fit together; these do.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from models import Maker, float_tensors
from numpy.typing import NDArray
from safetensors_files import write_json, write_safetensors, write_sharded

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY, LAYERS = 24, 4, 2, 40, 50, 2
MASK = 49
THETA, EPSILON = 500.0, 1e-3  # unlike any default, so that ignoring them shows

Array = NDArray[np.float64]

DREAM = {
    "architectures": ["DreamModel"],
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "mask_token_id": MASK,
    "max_position_embeddings": 64,
    "model_type": "Dream",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": 0,
    "rms_norm_eps": EPSILON,
    "rope_scaling": None,
    "rope_theta": THETA,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}
LLADA = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_layer_norm": False,
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": HIDDEN,
    "embedding_size": VOCABULARY,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "mask_token_id": MASK,
    "max_sequence_length": 64,
    "mlp_hidden_size": INNER,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "n_layers": LAYERS,
    "rms_norm_eps": EPSILON,
    "rope": True,
    "rope_theta": THETA,
    "scale_logits": False,
    "vocab_size": VOCABULARY - 3,
    "weight_tying": False,
}
# What the reference below calls a tensor of a block: Dream's and LLaDA's names.
NAMES = {
    "norm1": ("input_layernorm", "attn_norm"),
    "norm2": ("post_attention_layernorm", "ff_norm"),
    "q": ("self_attn.q_proj", "q_proj"),
    "k": ("self_attn.k_proj", "k_proj"),
    "v": ("self_attn.v_proj", "v_proj"),
    "o": ("self_attn.o_proj", "attn_out"),
    "gate": ("mlp.gate_proj", "ff_proj"),
    "up": ("mlp.up_proj", "up_proj"),
    "down": ("mlp.down_proj", "ff_out"),
}
SHAPES = {
    "norm1": (HIDDEN,),
    "norm2": (HIDDEN,),
    "q": (HIDDEN, HIDDEN),
    "k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "o": (HIDDEN, HIDDEN),
    "gate": (INNER, HIDDEN),
    "up": (INNER, HIDDEN),
    "down": (HIDDEN, INNER),
}
OUTSIDE = {
    "table": ("model.embed_tokens", "model.transformer.wte"),
    "norm": ("model.norm", "model.transformer.ln_f"),
    "head": ("lm_head", "model.transformer.ff_out"),
}
FAMILIES = {"dream": (0, DREAM, "model.layers"), "llada": (1, LLADA, "model.transformer.blocks")}


def write(
    directory: Path, family: str, dtype: str = "F32", *, shards: int = 1, **changes: Any
) -> Path:
    """A checkpoint of a family; `changes` to its config.json, where None takes a key out."""
    column, config, blocks = FAMILIES[family]
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    write_json(directory / "config.json", config)
    # What running would give away. The loader must not.
    (directory / f"modeling_{family}.py").write_text("raise SystemExit('remote code was run')\n")
    maker = Maker(dtype)
    maker.add(f"{OUTSIDE['table'][column]}.weight", VOCABULARY, HIDDEN, spread=1.0)
    for i in range(LAYERS):
        for part, shape in SHAPES.items():
            name = f"{blocks}.{i}.{NAMES[part][column]}"
            maker.add(f"{name}.weight", *shape, spread=0.4, centre=float(len(shape) == 1))
            if family == "dream" and part in ("q", "k", "v"):
                maker.add(f"{name}.bias", shape[0], spread=0.4)
    maker.add(f"{OUTSIDE['norm'][column]}.weight", HIDDEN, spread=0.4, centre=1.0)
    maker.add(f"{OUTSIDE['head'][column]}.weight", VOCABULARY, HIDDEN, spread=0.4)
    names = list(maker.tensors)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", maker.tensors, {"format": "pt"})
    else:
        parts = [names[i::shards] for i in range(shards)]
        write_sharded(directory, "model", [{n: maker.tensors[n] for n in p} for p in parts])
    return directory


def linear_layers(family: str) -> set[str]:
    """The weight tensors that are multiplied by an input."""
    column, _, blocks = FAMILIES[family]
    parts = [part for part, shape in SHAPES.items() if len(shape) == 2]
    inside = {f"{blocks}.{i}.{NAMES[p][column]}.weight" for i in range(LAYERS) for p in parts}
    return inside | {f"{OUTSIDE['head'][column]}.weight"}


def reference(directory: Path, family: str, token_ids: NDArray[np.int64]) -> Array:
    """The last projection's output [length, vocab] for one sequence, position by position.

    Every position attends to every other, in float64.
    """
    column, _, blocks = FAMILIES[family]
    tensors = {name: value.astype(np.float64) for name, value in float_tensors(directory).items()}
    tied = json.loads((directory / "config.json").read_text()).get("tie_word_embeddings")
    table = tensors[f"{OUTSIDE['table'][column]}.weight"]
    x = table[token_ids]
    for i in range(LAYERS):

        def of(part: str, x: Array, block: str = f"{blocks}.{i}") -> Array:
            name = f"{block}.{NAMES[part][column]}"
            if part.startswith("norm"):
                return _normalised(x, tensors[f"{name}.weight"])
            product: Array = x @ tensors[f"{name}.weight"].T
            return product + tensors.get(f"{name}.bias", 0.0)

        y = of("norm1", x)
        x = x + of("o", _attention(of("q", y), of("k", y), of("v", y)))
        y = of("norm2", x)
        gate = of("gate", y)
        x = x + of("down", gate / (1.0 + np.exp(-gate)) * of("up", y))
    x = _normalised(x, tensors[f"{OUTSIDE['norm'][column]}.weight"])
    head = table if tied else tensors[f"{OUTSIDE['head'][column]}.weight"]
    logits: Array = x @ head.T
    return logits


def _normalised(x: Array, weight: Array) -> Array:
    normalised: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + EPSILON) * weight
    return normalised


def _attention(q: Array, k: Array, v: Array) -> Array:
    size = HIDDEN // HEADS
    outputs = []
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        own = slice(head * size, (head + 1) * size)
        theirs = slice(shared * size, (shared + 1) * size)
        scores = _rotated(q[:, own]) @ _rotated(k[:, theirs]).T / math.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        outputs.append(weights / weights.sum(-1, keepdims=True) @ v[:, theirs])
    return np.concatenate(outputs, axis=-1)


def _rotated(x: Array) -> Array:
    """Rotary position embedding: each half's element turns with its partner in the other half."""
    half = x.shape[1] // 2
    angles = np.arange(len(x))[:, None] * THETA ** (-np.arange(half) / half)
    first, second = x[:, :half], x[:, half:]
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], 1)
