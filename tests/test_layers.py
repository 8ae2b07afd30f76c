"""Layer classes by name, shape and dtype; overrides by the user's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from thermoq.layer_rules import LayerRule
from thermoq.layers import bits_for, classify, resolve, unmatched
from thermoq.terms import LAYER_CLASSES


def class_of(name: str, shape: tuple[int, ...] = (64, 64)) -> str | None:
    return classify(name, shape, "BF16").layer_class


# One line a family: class, then module paths without `.weight`.
EXPECTED = """
DiT
  modulation transformer_blocks.3.norm1.linear proj_out_1
  sensitive transformer_blocks.3.norm1.emb.timestep_embedder.linear_1
  sensitive pos_embed.proj proj_out_2
  table transformer_blocks.3.norm1.emb.class_embedder.embedding_table y_embedder.embedding_table
  body transformer_blocks.3.attn1.to_q transformer_blocks.27.attn1.to_out.0
  body transformer_blocks.3.ff.net.0.proj transformer_blocks.3.ff.net.2
PixArt
  modulation adaln_single.linear
  sensitive adaln_single.emb.timestep_embedder.linear_1
  sensitive adaln_single.emb.resolution_embedder.linear_2
  sensitive caption_projection.linear_1 proj_out pos_embed.proj
  body transformer_blocks.0.attn2.to_k
SD3, Flux
  sensitive x_embedder context_embedder time_text_embed.text_embedder.linear_1 proj_out
  sensitive time_text_embed.guidance_embedder.linear_2
  modulation transformer_blocks.0.norm1.linear transformer_blocks.0.norm1_context.linear
  modulation single_transformer_blocks.37.norm.linear norm_out.linear
  modulation double_stream_modulation_img.linear
  body single_transformer_blocks.0.proj_out single_transformer_blocks.0.proj_mlp
  body transformer_blocks.0.attn.add_q_proj transformer_blocks.0.ff_context.net.2
Flux in its own names
  sensitive img_in txt_in time_in.in_layer vector_in.out_layer final_layer.linear
  modulation double_blocks.0.img_mod.lin single_blocks.0.modulation.lin
  modulation final_layer.adaLN_modulation.1
  body double_blocks.0.img_attn.qkv
Qwen-Image
  sensitive img_in txt_in transformer_blocks.0.img_mlp.gate transformer_blocks.0.moe.gate
  table time_text_embed.addition_t_embedding
  modulation transformer_blocks.0.img_mod.1 transformer_blocks.0.txt_mod.1
  body transformer_blocks.0.img_mlp.net.0.proj
Wan
  sensitive patch_embedding condition_embedder.text_embedder.linear_1
  sensitive condition_embedder.image_embedder.ff.net.0.proj proj_out
  modulation condition_embedder.time_proj
  body blocks.0.attn1.to_q blocks.39.ffn.net.2 motion_encoder.conv_in motion_encoder.conv_out
HunyuanVideo
  sensitive x_embedder.proj context_embedder.proj_in
  sensitive context_embedder.time_text_embed.timestep_embedder.linear_1
  modulation context_embedder.token_refiner.refiner_blocks.1.norm_out.linear
  body context_embedder.token_refiner.refiner_blocks.1.attn.to_q
Lumina2, Z-Image
  sensitive x_embedder time_caption_embed.timestep_embedder.linear_1 norm_out.linear_2
  sensitive all_x_embedder.2-1 all_final_layer.2-1.linear t_embedder.mlp.0
  modulation norm_out.linear_1 layers.0.norm1.linear all_final_layer.2-1.adaLN_modulation.1
  modulation noise_refiner.0.adaLN_modulation.0
  body layers.0.feed_forward.w1 context_refiner.0.feed_forward.linear_2
Sana, LTX, CogVideoX, AuraFlow, Chroma
  modulation time_embed.linear distilled_guidance_layer.layers.0.linear_1
  modulation av_cross_attn_video_scale_shift.linear
  sensitive time_embed.emb.timestep_embedder.linear_1 patch_embed.text_proj time_embedding.linear_1
  sensitive time_step_proj.linear_1 proj_in audio_proj_out
  body transformer_blocks.0.ff.conv_inverted joint_transformer_blocks.0.attn.to_add_out
U-Net
  sensitive conv_in conv_out time_embedding.linear_2 add_embedding.linear_1
  sensitive class_embedding.linear_1
  table class_embedding
  modulation down_blocks.0.resnets.1.time_emb_proj mid_block.resnets.0.time_emb_proj
  body down_blocks.0.attentions.0.proj_in up_blocks.3.attentions.2.proj_out
  body transformer_in.proj_in mid_block.resnets.0.conv1 up_blocks.0.upsamplers.0.conv
  body down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q
Dream
  table model.embed_tokens
  sensitive lm_head
  body model.layers.0.self_attn.q_proj model.layers.27.mlp.down_proj
LLaDA
  table model.transformer.wte
  sensitive model.transformer.ff_out
  body model.transformer.blocks.0.ff_out model.transformer.blocks.31.attn_out
MDLM
  sensitive backbone.output_layer.linear backbone.sigma_map.mlp.0
  modulation backbone.blocks.0.adaLN_modulation backbone.output_layer.adaLN_modulation
  body backbone.blocks.0.attn_qkv backbone.blocks.11.mlp.2
LLaDA 2
  table model.word_embeddings
  sensitive model.layers.1.mlp.gate
  body model.layers.1.attention.query_key_value model.layers.1.mlp.experts.7.gate_proj
BERT
  table embeddings.word_embeddings embeddings.position_embeddings embeddings.token_type_embeddings
  table bert.embeddings.word_embeddings
  body encoder.layer.0.attention.self.query encoder.layer.5.output.dense pooler.dense
  sensitive cls.predictions.decoder
T5
  table shared encoder.block.0.layer.0.SelfAttention.relative_attention_bias
  body encoder.block.0.layer.1.DenseReluDense.wi_0
"""


def expected_classes() -> Iterator[tuple[str, str]]:
    for line in EXPECTED.splitlines():
        if line.startswith("  "):
            layer_class, *paths = line.split()
            yield from ((path, layer_class) for path in paths)


@pytest.mark.parametrize(("path", "layer_class"), list(expected_classes()))
def test_class_of_known_names(path: str, layer_class: str) -> None:
    assert class_of(f"{path}.weight") == layer_class
    assert class_of(f"module.{path}.weight") == layer_class


NOT_A_LAYER = "not a layer weight (name does not end in weight)"


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "reason"),
    [
        ("a.weight", (64,), "BF16", "1-D"),
        ("a.weight", (), "F32", "0-D"),
        ("a.weight", (4, 4), "F64", "dtype F64"),
        ("a.weight", (4, 4), "F8_E4M3", "dtype F8_E4M3"),
        ("a.weight", (4, 4), "BOOL", "dtype BOOL"),
        ("embeddings.position_ids", (1, 512), "I64", "integer dtype I64"),
        ("a.weight", (4, 4), "U8", "integer dtype U8"),
        ("a.weight", (0, 4), "F32", "empty"),
        ("a.weight", (0,), "F32", "empty"),
        ("pos_embed.pos_embed", (1, 16, 8), "F16", NOT_A_LAYER),
        ("scale_shift_table", (6, 8), "F16", NOT_A_LAYER),
        ("cls_token", (1, 1, 8), "F16", NOT_A_LAYER),
        ("conv.weight_v", (8, 8), "F16", NOT_A_LAYER),
        ("a.lightweight", (8, 8), "F16", NOT_A_LAYER),
        ("motion_encoder.motion_synthesis_weight", (512, 20), "BF16", "basis, not a layer weight"),
        ("attn.norm_q.weight", (24, 64), "BF16", "normalisation weight"),
        ("ln_1.weight", (8, 1, 1), "BF16", "normalisation weight"),
    ],
)  # fmt: skip
def test_copied_with_a_reason(name: str, shape: tuple[int, ...], dtype: str, reason: str) -> None:
    found = classify(name, shape, dtype)
    assert (found.layer_class, found.reason) == (None, reason)


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "in_proj_weight", "weight"])
def test_names_that_are_weights_without_a_dot(name: str) -> None:
    assert class_of(name) == "body"


@pytest.mark.parametrize(
    ("name", "shape", "row_dimension"),
    [
        ("up.0.conv_transpose.weight", (8, 4, 2, 2), 1),
        ("decoder.ConvTranspose1d.weight", (8, 4, 2), 1),
        ("deconv.weight", (8, 4, 2, 2), 1),
        ("up_blocks.0.resnets_in.0.shortcut_up_sample.weight", (8, 8, 2, 2), 1),
        ("proj_out_conv.weight", (8, 4, 2), 1),
        ("up_upscalers.0.1.weight", (8, 4, 2, 2), 1),
        ("up_upscalers.0.1.blocks.1.weight", (8, 4, 1, 1), 0),
        ("down_downscalers.1.1.weight", (8, 4, 2, 2), 0),
        ("deconv.weight", (8, 4), 0),
        ("conv_in.weight", (8, 4, 3, 3), 0),
        ("patch_embedding.weight", (8, 4, 1, 2, 2), 0),
    ],
)
def test_row_dimension(name: str, shape: tuple[int, ...], row_dimension: int) -> None:
    found = classify(name, shape, "F32")
    assert found.layer_class is not None
    assert found.row_dimension == row_dimension


def test_bits() -> None:
    table = {name: [bits_for(name, bits) for bits in (2, 4, 8)] for name in LAYER_CLASSES}
    assert table == {
        "body": [2, 4, 8],
        "modulation": [4, 4, 8],
        "sensitive": [8, 8, 8],
        "table": [8, 8, 8],
    }


# Against the models themselves, where they are installed.

SMALL = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
MODELS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("DiTTransformer2DModel", {**SMALL, "norm_num_groups": 2, "num_embeds_ada_norm": 10},
     {"modulation": 3, "sensitive": 6, "table": 2}),
    ("SD3Transformer2DModel", {**SMALL, "caption_projection_dim": 16},
     {"modulation": 5, "sensitive": 7}),
    ("FluxTransformer2DModel", {**SMALL, "num_single_layers": 1, "axes_dims_rope": (2, 2, 4)},
     {"modulation": 6, "sensitive": 7}),
    ("WanTransformer3DModel", SMALL, {"modulation": 1, "sensitive": 6}),
    ("UNet2DModel", {"block_out_channels": (8, 8), "norm_num_groups": 4,
                     "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                     "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
     {"modulation": 12, "sensitive": 4}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # diffusers' own
@pytest.mark.parametrize(("name", "settings", "counts"), MODELS, ids=[m[0] for m in MODELS])
def test_models_of_diffusers(name: str, settings: dict[str, Any], counts: dict[str, int]) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        tensors = getattr(diffusers, name)(**settings).state_dict()
    found: dict[str, int] = {}
    assert any(".attn" in tensor_name or "attentions" in tensor_name for tensor_name in tensors)
    for tensor_name, tensor in tensors.items():
        layer_class = classify(tensor_name, tuple(tensor.shape), "BF16").layer_class
        if layer_class is None:
            assert tensor.ndim < 2 or not tensor_name.endswith("weight")
        elif layer_class == "body":  # everything outside the repeated blocks has another class
            assert re.search(r"blocks?\.", tensor_name)
        else:
            found[layer_class] = found.get(layer_class, 0) + 1
    assert found == counts


# The user's rules.


def rules(*given: dict[str, Any]) -> list[LayerRule]:
    return [LayerRule(**rule) for rule in given]


def plan(name: str, given: list[LayerRule], shape: tuple[int, ...] = (64, 64), dtype: str = "F16"):
    return resolve(name, "transformer", shape, dtype, 2, given)


def test_without_rules_the_class_decides() -> None:
    found = plan("blocks.0.attn.to_q.weight", [])
    assert (found.layer_class, found.bit_width, found.group_size, found.rule) == (
        *("body", 2),
        *(None, None),
    )
    assert plan("lm_head.weight", []).bit_width == 8
    assert plan("blocks.0.norm1.linear.weight", []).bit_width == 4
    copied = plan("a.bias", [], (4,))
    assert (copied.layer_class, copied.bit_width, copied.reason) == (None, None, "1-D")


def test_first_matching_rule_wins() -> None:
    given = rules(
        {"match": "*.to_q.*", "bit_width": 8}, {"match": "blocks.*", "bit_width": 4},
        {"match": "*", "skip": True},
    )  # fmt: skip
    assert plan("blocks.0.attn.to_q.weight", given).bit_width == 8
    second = plan("blocks.0.attn.to_k.weight", given)
    assert (second.bit_width, second.layer_class, second.rule) == (4, "body", given[1])
    third = plan("proj_out.weight", given)
    assert (third.layer_class, third.bit_width) == (None, None)
    assert third.reason == "skipped by layers pattern '*'"


def test_a_rule_can_name_the_component_and_is_case_sensitive() -> None:
    assert plan("a.weight", rules({"match": "transformer/a.*", "skip": True})).layer_class is None
    assert plan("a.weight", rules({"match": "transformer_2/*", "skip": True})).bit_width == 2
    assert plan("a.weight", rules({"match": "A.*", "skip": True})).bit_width == 2


def test_a_rule_without_skip_protects_from_later_ones() -> None:
    given = rules({"match": "a.*", "skip": False}, {"match": "*", "skip": True})
    assert plan("a.weight", given).bit_width == 2
    assert plan("b.weight", given).bit_width is None


def test_a_rule_can_quantize_what_its_name_would_copy() -> None:
    given = rules({"match": "*", "bit_width": 4})
    table = plan("scale_shift_table", given)
    assert (table.layer_class, table.bit_width) == ("body", 4)
    assert table.reason == "layers pattern '*'"
    assert plan("blocks.0.experts.gate_up_proj", given, (8, 16, 16)).bit_width == 4
    assert plan("a.conv_transpose.kernel", given, (4, 8, 2, 2)).row_dimension == 1
    # But never what cannot be quantized, and not by a group size alone.
    assert plan("a.bias", given, (4,)).reason == "1-D"
    assert plan("a.weight", given, (4, 4), "I64").reason == "integer dtype I64"
    assert plan("a.weight", given, (4, 4), "F64").bit_width is None
    assert plan("a.weight", given, (4, 0)).reason == "empty"
    assert plan("scale_shift_table", rules({"match": "*", "group_size": 32})).bit_width is None


def test_group_size_of_a_rule() -> None:
    found = plan("a.weight", rules({"match": "a*", "group_size": 128}))
    assert (found.bit_width, found.group_size, found.layer_class) == (2, 128, "body")


def test_unmatched_patterns() -> None:
    given = rules(
        {"match": "a.*", "bit_width": 4}, {"match": "*.weight", "bit_width": 4},
        {"match": "nope*", "skip": True}, {"match": "unet/a.*", "skip": True},
    )  # fmt: skip
    names = [("transformer", "a.weight"), ("transformer", "b.weight")]
    # A rule that an earlier one hides has still matched.
    assert unmatched(given, iter(names)) == ["nope*", "unet/a.*"]
    assert unmatched([], names) == []
