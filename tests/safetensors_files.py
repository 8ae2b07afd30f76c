"""Safetensors files and checkpoint directories made by hand, whole and broken.

Written with `struct` and `json` alone, so that a test can break any rule of the format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]  # name -> dtype, shape, bytes


def write_safetensors(
    path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a valid file with the tensors end to end, in the order given; make its folder."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = entry(dtype, shape, offset, offset + len(data))
        offset += len(data)
    return write_raw(path, json.dumps(header), b"".join(data for _, _, data in tensors.values()))


def entry(dtype: Any, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    """One tensor's value in the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write_raw(
    path: Path, header: str | bytes, data: bytes = b"", length: int | None = None
) -> Path:
    """Write `header` and `data` as they are; `length` overrides the true header length."""
    if isinstance(header, str):
        header = header.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = struct.pack("<Q", len(header) if length is None else length)
    path.write_bytes(prefix + header + data)
    return path


def write_header(path: Path, header: Any, data: bytes = b"") -> Path:
    """Write `header` as JSON, right or wrong, before `data`."""
    return write_raw(path, json.dumps(header), data)


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as JSON; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def zeros(dtype: str, *shape: int, itemsize: int = 4) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor of zero bytes for `write_safetensors`."""
    count = 1
    for size in shape:
        count *= size
    return dtype, shape, bytes(count * itemsize)


def write_sharded(
    folder: Path, stem: str, shards: Sequence[Tensors], *, index: bool = True, variant: str = ""
) -> list[Path]:
    """Write `stem-00001-of-0000N.safetensors` and the rest, with their index unless told not to."""
    infix = f".{variant}" if variant else ""
    names = [
        f"{stem}{infix}-{number:05}-of-{len(shards):05}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    if index:
        weight_map = {
            name: file for file, tensors in zip(names, shards, strict=True) for name in tensors
        }
        value = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        write_json(folder / f"{stem}.safetensors.index{infix}.json", value)
    return [
        write_safetensors(folder / file, tensors)
        for file, tensors in zip(names, shards, strict=True)
    ]


def write_transformers_model(root: Path) -> Path:
    """A transformers model in two shards with index, tokenizer and config."""
    write_json(root / "config.json", {"model_type": "dream", "architectures": ["DreamModel"]})
    write_json(root / "tokenizer.json", {})
    shards: list[Tensors] = [
        {"a.weight": zeros("F32", 2, 3), "a.bias": zeros("F32", 2)},
        {"b.weight": zeros("BF16", 4, 4, itemsize=2)},
    ]
    write_sharded(root, "model", shards)
    return root


def write_pipeline(root: Path) -> Path:
    """A diffusers pipeline with model_index.json, unet, vae, text encoder and scheduler."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(root / "model_index.json", index)
    write_json(root / "scheduler/scheduler_config.json", {"num_train_timesteps": 1000})
    for folder, class_name in {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}.items():
        write_json(root / folder / "config.json", {"_class_name": class_name})
        path = root / folder / "diffusion_pytorch_model.safetensors"
        write_safetensors(path, {"conv.weight": zeros("F16", 2, 3, 3, 3, itemsize=2)})
    write_json(root / "text_encoder/config.json", {"model_type": "clip_text_model"})
    write_safetensors(root / "text_encoder/model.safetensors", {"x": zeros("F32", 4)})
    return root
