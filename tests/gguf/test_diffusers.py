"""diffusers' own GGUF loader reads what thermoq writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thermoq
from gguf_files import dense, read_gguf
from thermoq.gguf.layouts import layout

pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("diffusers")


def flux(diffusers: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=256,
        pooled_projection_dim=256,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def sd3(diffusers: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=256,
        caption_projection_dim=256,
        pooled_projection_dim=256,
        out_channels=4,
        pos_embed_max_size=8,
    )


def wan(diffusers: Any) -> Any:
    """Its patch embedding is a kernel of five dimensions."""
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=128,
        in_channels=4,
        out_channels=4,
        text_dim=256,
        freq_dim=256,
        ffn_dim=512,
        num_layers=1,
        rope_max_seq_len=32,
    )


def inputs(model: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    name, one = type(model).__name__, torch.tensor([500.0])
    if name == "FluxTransformer2DModel":
        return {
            "hidden_states": torch.randn(1, 4, 64),
            "encoder_hidden_states": torch.randn(1, 3, 256),
            "pooled_projections": torch.randn(1, 256),
            "timestep": one / 1000,
            "guidance": one / 100,
            "img_ids": torch.zeros(4, 3),
            "txt_ids": torch.zeros(3, 3),
        }
    if name == "SD3Transformer2DModel":
        return {
            "hidden_states": torch.randn(1, 4, 8, 8),
            "encoder_hidden_states": torch.randn(1, 3, 256),
            "pooled_projections": torch.randn(1, 256),
            "timestep": one,
        }
    return {
        "hidden_states": torch.randn(1, 4, 1, 8, 8),
        "encoder_hidden_states": torch.randn(1, 3, 256),
        "timestep": one,
    }


def decoded(weight: Any) -> Any:
    """A loaded parameter as float32, by diffusers' own decoder of its type."""
    from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions

    if not hasattr(weight, "quant_type"):
        return weight.to(torch.float32)
    block, size = GGML_QUANT_SIZES[weight.quant_type]
    blocks = weight.as_tensor().view(torch.uint8).reshape(-1, size)
    decode = dequantize_functions[weight.quant_type]
    return decode(blocks, block, size, dtype=torch.float32).reshape(weight.quant_shape)


@pytest.mark.parametrize("maker", [flux, sd3, wan])
@pytest.mark.parametrize(
    ("bit_width", "dtype"), [(2, "float32"), (4, "float32"), (2, "bfloat16"), (8, "bfloat16")]
)
def test_it_reads_our_weights_bit_for_bit(
    tmp_path: Path, diffusers: Any, maker: Any, bit_width: int, dtype: str
) -> None:
    """With its decoders in float32. Running, it decodes in float16, and is as close as that is."""
    model = maker(diffusers)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "in")
    encoding = None if bit_width == 8 else "coded"
    thermoq.quantize(tmp_path / "in", tmp_path / "out", bit_width=bit_width, encoding=encoding)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    truth = type(model).from_pretrained(tmp_path / "dense", dtype=torch.float32)
    loaded = type(model).from_single_file(
        str(tmp_path / "m.gguf"),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        config=str(tmp_path / "in"),
        dtype=torch.float32,
    )
    expected = truth.state_dict()
    weights = dict(loaded.named_parameters())
    assert {row.type for row in written.tensors} & {"Q2_K", "Q4_K", "Q4_1", "Q8_0"}
    for row in written.tensors:
        if row.name not in weights:
            continue  # a buffer
        found, wanted = decoded(weights[row.name]), expected[row.name]
        if row.type.startswith("Q") and not hasattr(weights[row.name], "quant_type"):
            assert "time_embedder" in row.name  # Wan's, which it decodes when it loads
            assert torch.allclose(found, wanted, rtol=2**-9, atol=2**-14)
        else:
            assert torch.equal(found, wanted), row.name
    with torch.no_grad():
        ours = loaded(**inputs(model), return_dict=False)[0]
        theirs = truth(**inputs(model), return_dict=False)[0]
    assert torch.linalg.norm(ours - theirs) < 0.005 * torch.linalg.norm(theirs)


def test_original_names_are_those_that_diffusers_converts_back(
    tmp_path: Path, diffusers: Any
) -> None:
    """Its converter knows one width only, so matrices here have a single column."""
    from diffusers.loaders.single_file_utils import (
        convert_flux_transformer_checkpoint_to_diffusers as convert,
    )

    inner = 3072
    rows = {"linear1": None, "norm_out.linear": 2 * inner, "proj_mlp": 4 * inner}
    state = {}
    for i, (name, tensor) in enumerate(flux(diffusers).state_dict().items()):
        height = next((n for key, n in rows.items() if key in name), inner)
        size = (height, 1) if tensor.ndim == 2 else (height,)
        state[name] = torch.arange(height, dtype=torch.float32).reshape(size) + i / 256
    original = {}
    for target in layout(list(state), "original", "FluxTransformer2DModel"):
        joined = torch.cat([state[piece] for piece in target.pieces])
        if target.swap_halves:
            joined = torch.cat(joined.chunk(2)[::-1])
        original[target.name] = joined
    assert len(original) < len(state)
    back = convert(dict(original))
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name


def test_original_layout_joins_rows(tmp_path: Path, diffusers: Any) -> None:
    flux(diffusers).save_pretrained(tmp_path / "in")
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf", names="original")
    whole = dense(tmp_path / "out", "", tmp_path / "dense")
    fields, tensors = read_gguf(written.path)
    assert fields["general.architecture"] == "flux"
    assert {row.outcome for row in written.tensors} == {"exact"}
    assert {row.name for row in written.tensors} == whole.keys()
    block = "single_transformer_blocks.0"
    pieces = [f"{block}.attn.to_{letter}" for letter in "qkv"] + [f"{block}.proj_mlp"]
    for kind in ("weight", "bias"):
        expected = np.concatenate([whole[f"{piece}.{kind}"] for piece in pieces])
        assert np.array_equal(tensors[f"single_blocks.0.linear1.{kind}"].values, expected)
        halves = np.split(whole[f"norm_out.linear.{kind}"], 2)
        found = tensors[f"final_layer.adaLN_modulation.1.{kind}"].values
        assert np.array_equal(found, np.concatenate(halves[::-1]))
    assert "double_blocks.0.img_attn.norm.query_norm.scale" in tensors


def test_parts_that_differ_are_joined_as_numbers(tmp_path: Path, diffusers: Any) -> None:
    flux(diffusers).save_pretrained(tmp_path / "in")
    rules = [{"match": "*.attn.to_q.weight", "bit_width": 8}]
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded", layers=rules)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf", names="original")
    (row,) = [r for r in written.tensors if r.name == "transformer_blocks.0.attn.to_q.weight"]
    assert (row.type, row.outcome) == ("F32", "exact")
    assert "whose other parts differ" in row.note
    assert read_gguf(written.path)[1]["double_blocks.0.img_attn.qkv.weight"].shape == (768, 256)
