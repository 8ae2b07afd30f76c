"""Small models that diffusers itself makes and saves: untrained, but all their parts are there.

Each maker takes a directory, fills it, and returns it. Import after `pytest.importorskip`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch


def ddpm_pipeline(directory: Path, **scheduler: Any) -> Path:
    """A `DDPMPipeline`: a U-Net over pixels with attention, strided and 1x1 convolutions."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
    )
    chain = diffusers.DDPMScheduler(**scheduler)
    diffusers.DDPMPipeline(unet, chain).save_pretrained(directory)
    return directory


def dit_pipeline(directory: Path) -> Path:
    """A `DiTPipeline` in the latent space of its autoencoder, with labels and learned variances."""
    torch.manual_seed(2)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=7,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    )
    scheduler = diffusers.DDIMScheduler()
    diffusers.DiTPipeline(transformer, vae, scheduler).save_pretrained(directory)
    return directory


def dit(
    directory: Path, scheduler: Any = None, index: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A bare transformer over pixels beside its scheduler."""
    torch.manual_seed(3)
    settings: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": 1,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 3,
    }
    diffusers.DiTTransformer2DModel(**{**settings, **config}).save_pretrained(
        directory / "transformer"
    )
    (scheduler or diffusers.DDIMScheduler()).save_pretrained(directory / "scheduler")
    if index is not None:
        (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def sd3(directory: Path) -> Path:
    """A bare SD3 transformer with flow matching."""
    torch.manual_seed(4)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=12,
        out_channels=4,
        pos_embed_max_size=8,
    )
    transformer.save_pretrained(directory / "transformer")
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.save_pretrained(directory / "scheduler")
    return directory


def flux(directory: Path) -> Path:
    """A bare FLUX transformer, whose latents are packed."""
    torch.manual_seed(5)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=12,
        axes_dims_rope=(2, 2, 4),
    )
    transformer.save_pretrained(directory / "transformer")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(directory / "scheduler")
    return directory


def qwen_image(directory: Path) -> Path:
    """A bare Qwen-Image transformer, which gets the noise level in place of the timestep."""
    torch.manual_seed(6)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=4,
        out_channels=1,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    transformer.save_pretrained(directory / "transformer")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(directory / "scheduler")
    return directory


def wan(directory: Path) -> Path:
    """A bare Wan transformer, over videos."""
    torch.manual_seed(7)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=64,
    )
    transformer.save_pretrained(directory / "transformer")
    chain = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    chain.save_pretrained(directory / "scheduler")
    return directory


def stable_diffusion(directory: Path) -> Path:
    """A Stable Diffusion pipeline with a text encoder, a tokenizer and an autoencoder."""
    import transformers

    torch.manual_seed(8)
    unet = diffusers.UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    )
    folder = directory / "vocabulary"
    folder.mkdir(parents=True)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = transformers.CLIPTextConfig(
        vocab_size=len(words) + 1,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)
    return directory
