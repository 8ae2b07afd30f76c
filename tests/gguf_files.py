"""GGUF files as the `gguf` package reads them, and checkpoints to make them of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import reference
import thermoq
from numpy.typing import NDArray
from safetensors_files import write_json, write_safetensors


@dataclass(frozen=True)
class Read:
    """One tensor: `values` as the package dequantizes it, in the shape of the checkpoint."""

    type: str
    shape: tuple[int, ...]
    nbytes: int
    values: NDArray[Any]


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Read]]:
    """The metadata and the tensors of a file, by name."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        data, kind = np.array(tensor.data), tensor.tensor_type
        if data.dtype == np.uint8 and data.size:
            data = gguf.quants.dequantize(data, kind)
        values = data.reshape(shape) if data.size else np.zeros(shape, np.float32)
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        tensors[tensor.name] = Read(kind.name, shape, int(tensor.n_bytes), values)
    return fields, tensors


def wide(directory: Path, dtype: str = "F32") -> Path:
    """A bare component with rows that K-quants take, and some that they do not."""
    write_json(directory / "config.json", {"_class_name": "WideModel"})
    maker = models.Maker(dtype)
    maker.linear("time_embed.linear_1", 32, 256)
    for i in range(2):
        maker.norm(f"blocks.{i}.norm1", 512)
        maker.linear(f"blocks.{i}.attn.to_q", 64, 512)
        maker.linear(f"blocks.{i}.ff.net.0.proj", 48, 256)
    maker.conv("blocks.0.conv", 16, 32, 3, 3)
    maker.add("blocks.1.conv3d.weight", 8, 4, 2, 2, 2)
    maker.add("position", 1, 4, 256)
    maker.linear("ragged", 8, 100)
    write_safetensors(directory / "diffusion_pytorch_model.safetensors", maker.tensors)
    return directory


def dense(quantized: Path, component: str, target: Path) -> dict[str, NDArray[np.generic]]:
    """What thermoq itself decodes a checkpoint to, floats as float32."""
    thermoq.export(quantized, target, dtype="float32")
    kinds = {"I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "u1", "F64": "<f8"}
    return {
        name: np.frombuffer(data, kinds[dtype]).reshape(shape)
        if dtype in kinds
        else reference.decode_dtype(data, "F32").reshape(shape)
        for name, (dtype, shape, data) in models.read_tensors(target / component).items()
        if dtype in kinds or dtype == "F32"
    }


def long_names(tmp_path: Path) -> tuple[Path, str]:
    """A quantized model with a name of more than 63 bytes."""
    maker = models.Maker("F32")
    name = "up_blocks.0.attentions.1.transformer_blocks.9.attn1.to_out.0"
    maker.linear(name, 8, 32)
    maker.linear("short", 8, 32)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    return tmp_path / "out", f"{name}.weight"
