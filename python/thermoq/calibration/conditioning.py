"""Denoisers that come alone, without the text encoders that told them what to draw.

They are sampled by the pipeline that diffusers has for them, with text embeddings of zeros.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch

_TOKENS = 77  # of CLIP's texts; the others pad to more, which costs and tells nothing


class _Home(NamedTuple):
    pipeline: str
    denoiser: str
    embeddings: Callable[[Any, int, torch.dtype], dict[str, Any]]


def _zeros(samples: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(samples, *shape, dtype=dtype)


def _stable_diffusion(config: Any, samples: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"prompt_embeds": _zeros(samples, _TOKENS, config.cross_attention_dim, dtype=dtype)}


def _with_pooled(config: Any, samples: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "prompt_embeds": _zeros(samples, _TOKENS, config.joint_attention_dim, dtype=dtype),
        "pooled_prompt_embeds": _zeros(samples, config.pooled_projection_dim, dtype=dtype),
    }


def _qwen_image(config: Any, samples: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "prompt_embeds": _zeros(samples, _TOKENS, config.joint_attention_dim, dtype=dtype),
        "prompt_embeds_mask": torch.ones(samples, _TOKENS, dtype=torch.int64),
    }


def _wan(config: Any, samples: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"prompt_embeds": _zeros(samples, _TOKENS, config.text_dim, dtype=dtype)}


_HOMES = {
    "UNet2DConditionModel": _Home("StableDiffusionPipeline", "unet", _stable_diffusion),
    "SD3Transformer2DModel": _Home("StableDiffusion3Pipeline", "transformer", _with_pooled),
    "FluxTransformer2DModel": _Home("FluxPipeline", "transformer", _with_pooled),
    "QwenImageTransformer2DModel": _Home("QwenImagePipeline", "transformer", _qwen_image),
    "WanTransformer3DModel": _Home("WanPipeline", "transformer", _wan),
}


def has_home(denoiser: Any) -> bool:
    """Whether there is a pipeline for a denoiser that comes alone."""
    # Stable Diffusion XL's conditioning is more than a text.
    is_more = denoiser.config.get("addition_embed_type") is not None
    return type(denoiser).__name__ in _HOMES and not is_more


def homes() -> tuple[str, ...]:
    """Return the classes of denoisers that can be sampled alone."""
    return tuple(_HOMES)


def bare_pipeline(denoiser: Any, scheduler: Any) -> Any:
    """Return a pipeline of `denoiser` and `scheduler` without any other part."""
    home = _HOMES[type(denoiser).__name__]
    cls = getattr(diffusers, home.pipeline)
    given = inspect.signature(cls.__init__).parameters.items()
    parts = {name: None for name, one in given if name != "self" and one.default is one.empty}
    pipeline = cls(**{**parts, home.denoiser: denoiser, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def empty_embeddings(denoiser: Any, samples: int) -> dict[str, Any]:
    """Return the arguments that stand for no text at all, for as many samples."""
    home = _HOMES[type(denoiser).__name__]
    return home.embeddings(denoiser.config, samples, denoiser.dtype)
