"""Which tensor gets which class, bits and row order; decided by name, shape and dtype alone.

Body matrices carry most weights and take `bit_width`. Modulation feeds scales and shifts into every
block, so it keeps at least 4 bits. Sensitive layers (embedders, first and last projection) and
look-up tables keep 8. Everything that is not the weight of a layer is copied bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from thermoq.terms import LayerClass

if TYPE_CHECKING:  # settings.py needs pydantic, this module does not
    from thermoq.encodings import MatrixEncoding
    from thermoq.layer_rules import LayerRule

QUANTIZABLE_DTYPES = ("F32", "F16", "BF16")
UNRECOGNISED = "not a layer weight (name does not end in weight)"
"""The reason why a matrix is copied that could be a layer's, for all that its name tells."""

_INTEGER_DTYPES = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")


@dataclass(frozen=True)
class Classification:
    """What a tensor is: its layer class and why, or None and why it is copied.

    `row_dimension` is the dimension of its output rows: 1 for transposed convolutions, else 0.
    """

    layer_class: LayerClass | None
    reason: str
    row_dimension: int = 0


@dataclass(frozen=True)
class LayerPlan:
    """What will be done with a tensor: a classification after the user's `layers` rules.

    `bit_width` is None for copied tensors. `group_size` and `encoding` are None unless `rule` sets
    them.
    """

    layer_class: LayerClass | None
    bit_width: int | None
    reason: str
    row_dimension: int
    rule: LayerRule | None = None
    group_size: int | None = None
    encoding: MatrixEncoding | None = None


# The first row whose pattern is found decides. Patterns see the module's path: the tensor's name
# without `.weight`. In them, `<` is the start of a path segment, `>` its end, `^^` the start of the
# path after the wrappers that checkpoints put around a model, `#` a number.
# fmt: off
_RULES: tuple[tuple[str, LayerClass, str], ...] = (
    # Tables: rows are looked up, never multiplied.
    (r"<(embed_tokens|wte|wpe|tok_embeddings|shared)>$", "table", "token embedding"),
    (r"<(word|position|token_type|token)_embeddings?>$", "table", "embedding table"),
    (r"<(pos_embedding|position_encoding|prior_token_embedding|audio_embeddings)>$", "table",
     "embedding table"),
    (r"<(relative_attention_bias|embed\.embeddings|latent_image_embedding\.\w+|cond_type_embed)>$|"
     r"<embed_image_indicator>$", "table", "embedding table"),
    # Labels; `class_embedding.linear_1` is an MLP's. AudioLDM's `class_embedding` is linear, which
    # its name does not tell; it keeps 8 bits either way.
    (r"<(embedding_table|class_embedding|fps_embedding|addition_t_embedding|style_embedder)>$",
     "table", "embedding table"),
    # Embedders inside an adaptive norm (DiT, PixArt, Sana), before the norm itself.
    (r"<emb\.", "sensitive", "time or label embedder"),
    # Modulation: conditioning in, scales and shifts of the blocks out.
    (r"<norm_out\.linear_2>$", "sensitive", "last projection"),  # Lumina2; Cosmos: modulation
    (r"<\w*norm\w*\.linear(_1|_2)?>$", "modulation", "adaptive norm"),  # DiT, Flux, SD3, Mochi
    (r"<\w*modulations?(_\w+)?>", "modulation", "adaptive norm"),  # Flux2, Z-Image, Kandinsky5
    (r"<(img|txt|time)_mod(_proj)?>", "modulation", "adaptive norm"),  # Qwen-Image, Krea2
    (r"<adaln_(single|proj|global_mlp)>", "modulation", "adaptive norm"),  # PixArt, MiniMax
    (r"<adaln\.to_(gamma|beta)>", "modulation", "adaptive norm"),
    (r"<(\w+_)?time_embed\.linear>$", "modulation", "adaptive norm"),  # Sana, LTX
    (r"<\w+_(scale_shift|gate)\.linear>$", "modulation", "adaptive norm"),  # LTX2
    (r"\.time_proj>$|<time_projection>|<t_block>", "modulation", "adaptive norm"),  # Wan, SanaWM
    (r"<distilled_guidance_layer>", "modulation", "adaptive norm"),  # Chroma
    (r"<time_emb_proj>$|<context_mlp>", "modulation", "time projection"),  # U-Nets, Kandinsky3
    (r"<(mapper(_\w+)?|cond_embeds_mapper|scale_bias)>$", "modulation", "time projection"),
    (r"^^proj_out_1>$", "modulation", "adaptive norm"),  # DiT
    # Embedders of time, label, text, image and patches; not the refiner blocks inside them.
    (r"<\w*(embed|caption_projection)\w*>(?!.*(blocks|layers)\.#)", "sensitive", "embedder"),
    (r"<\w+_emb>(?!.*(blocks|layers)\.#)", "sensitive", "embedder"),
    (r"<(time|vector|guidance|txt|img)_in>", "sensitive", "embedder"),  # Flux's own, Qwen, Krea2
    (r"^^(clip_\w+_mapper|encoder_(hid_)?proj|encoder_hidden_states_proj)>", "sensitive",
     "text embedder"),
    (r"^^(time|timestep|time_step|global|cross_attention|text|llm_cond)_proj>", "sensitive",
     "embedder"),
    (r"^^(prior|glyph|image)_projector>", "sensitive", "embedder"),  # GLM-Image
    (r"^^sigma_map>", "sensitive", "time embedder"),  # MDLM
    (r"^^patch_(short|mid|long)>$|^^time_token>", "sensitive", "embedder"),  # Helios, OmniGen
    # The choice of experts is discrete: a small error sends a token elsewhere.
    (r"<(\w*(mlp|moe)|ff_i)\.gate>$|<router>$", "sensitive", "expert router"),
    # Heads, wherever they are.
    (r"<(lm_head|mlm_layer|audio_heads|predictions\.decoder)>", "sensitive", "last projection"),
    # First and last projections of the whole model; the blocks' own are body.
    (r"^^(audio_)?proj_(in|out)(_2|_conv)?>$", "sensitive", "first or last projection"),
    (r"^^(conv_in|conv_out|preprocess_conv|postprocess_conv)>$", "sensitive",
     "first or last projection"),
    (r"^^(input_proj|continuous_inputs_projection|image_latents_proj_in)>", "sensitive",
     "first projection"),
    (r"^^(all_)?final_layer\.([\w-]+\.)?linear>$|^^(final_linear|output_layer\.linear)>$",
     "sensitive", "last projection"),
    (r"^^((audio_)?out_layer\.out_layer|head\.head|spec_out|clf\.#)>$", "sensitive",
     "last projection"),
    (r"^^ff_out>$", "sensitive", "last projection"),  # LLaDA's head; `blocks.N.ff_out` is body
    (r"", "body", "matrix"),
)
# fmt: on

_WRAPPERS = r"^(?:(?:model|module|transformer|unet|net|backbone|denoiser|diffusion_model)\.)*"
_SYNTAX = (("^^", _WRAPPERS), ("<", r"(?:^|\.)"), (">", r"(?=\.|$)"), ("#", r"\d+"))


def _compiled(pattern: str) -> re.Pattern[str]:
    for short, long in _SYNTAX:
        pattern = pattern.replace(short, long)
    return re.compile(pattern, re.IGNORECASE)


_COMPILED = tuple((_compiled(pattern), of_class, why) for pattern, of_class, why in _RULES)

# Transposed convolutions keep their output channels in dimension 1. Nothing but the name tells
# them apart; `up_sample` is Kandinsky 3's, `proj_out_conv` ACE-Step's, `up_upscalers` Cascade's.
_TRANSPOSED = re.compile(
    r"conv_?transpose|deconv|(^|[._])up_sample$|^proj_out_conv$|(^|\.)up_upscalers\.\d+\.1$", re.I
)
_BASIS = re.compile(r"(^|\.)motion_synthesis_weight$")  # WanAnimate's, made orthogonal before use
_NORM = re.compile(r"(^|\.)(\w*norm\w*|ln_\w+)$", re.I)


def classify(name: str, shape: Sequence[int], dtype: str) -> Classification:
    """Return the class of tensor `name`; `dtype` is its safetensors name, such as "BF16"."""
    reason = _unquantizable(shape, dtype) or _not_a_layer(name)
    if reason:
        return Classification(None, reason)
    path = _module_path(name)
    for pattern, layer_class, why in _COMPILED:
        if pattern.search(path):
            return Classification(layer_class, why, _row_dimension(path, shape))
    raise AssertionError(f"the last row of the table matches every name, got {name}")


def bits_for(layer_class: LayerClass, bit_width: int) -> int:
    """Return the bits of a layer class in a checkpoint quantized to `bit_width`."""
    return {"body": bit_width, "modulation": max(4, bit_width)}.get(layer_class, 8)


def resolve(
    name: str,
    component: str,
    shape: Sequence[int],
    dtype: str,
    bit_width: int,
    rules: Sequence[LayerRule],
) -> LayerPlan:
    """Return what to do with a tensor: its class's bits, unless a rule says otherwise.

    The first rule that matches wins, by glob on the tensor's name or on "component/name". A rule
    with a bit width also quantizes a matrix that its name would have left alone (as body); what
    cannot be quantized for its shape or dtype stays copied.
    """
    found = classify(name, shape, dtype)
    rule = next((rule for rule in rules if _matches(rule, name, component)), None)
    if rule is not None:
        if rule.skip:
            return LayerPlan(None, None, f"skipped by layers pattern '{rule.match}'", 0, rule)
        if not found.layer_class and rule.bit_width and not _unquantizable(shape, dtype):
            rows = _row_dimension(_module_path(name), shape)
            found = Classification("body", f"layers pattern '{rule.match}'", rows)
    if found.layer_class is None:
        return LayerPlan(None, None, found.reason, 0, rule)
    plan = LayerPlan(
        found.layer_class,
        bits_for(found.layer_class, bit_width),
        found.reason,
        found.row_dimension,
        rule,
    )
    if rule is None:
        return plan
    return replace(
        plan,
        bit_width=rule.bit_width or plan.bit_width,
        group_size=rule.group_size,
        encoding=rule.encoding,
    )


def unmatched(rules: Sequence[LayerRule], names: Iterable[tuple[str, str]]) -> list[str]:
    """Return the patterns that match none of the (component, tensor name) pairs in `names`."""
    pairs = list(names)
    return [
        rule.match
        for rule in rules
        if not any(_matches(rule, name, component) for component, name in pairs)
    ]


def _matches(rule: LayerRule, name: str, component: str) -> bool:
    return fnmatchcase(name, rule.match) or fnmatchcase(f"{component}/{name}", rule.match)


def _unquantizable(shape: Sequence[int], dtype: str) -> str:
    """Return why no rule can quantize a tensor of this shape and dtype, or ""."""
    if 0 in shape:
        return "empty"
    if len(shape) < 2:
        return f"{len(shape)}-D"
    if dtype in _INTEGER_DTYPES:
        return f"integer dtype {dtype}"
    return "" if dtype in QUANTIZABLE_DTYPES else f"dtype {dtype}"


def _not_a_layer(name: str) -> str:
    """Return why a matrix of this name is not a layer's weight, or ""."""
    last = name.rpartition(".")[2]
    if last != "weight" and not last.endswith("_weight"):
        return UNRECOGNISED
    if _BASIS.search(name):
        return "basis, not a layer weight"
    return "normalisation weight" if _NORM.search(_module_path(name)) else ""


def _module_path(name: str) -> str:
    """Return a tensor's name without its last part, `.weight` or `_weight`."""
    head, _, last = name.rpartition(".")
    if last == "weight":
        return head
    stem = last[: -len("_weight")] if last.endswith("_weight") else last
    return f"{head}.{stem}" if head else stem


def _row_dimension(path: str, shape: Sequence[int]) -> int:
    return 1 if len(shape) > 2 and _TRANSPOSED.search(path) else 0
