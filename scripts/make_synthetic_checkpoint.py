#!/usr/bin/env python3
"""Write a masked-diffusion language model of Dream-7B's shapes and names with random weights.

The default, 4 blocks and a small vocabulary, has about 1 G parameters (2 GB of bf16 in 4 shards).
`--sparse` leaves the weights as holes in the files: large to a reader, nearly nothing on disk.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS = 3584, 18944, 28, 4
TILE = (1 << 24) + 43  # weights; an odd length, so that no two tensors repeat the same stretch


def shapes(blocks: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return Dream's tensors by name, in the order of its files."""
    kv = HIDDEN // HEADS * KV_HEADS
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for block in range(blocks):
        layer = f"model.layers.{block}"
        tensors[f"{layer}.input_layernorm.weight"] = (HIDDEN,)
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = (rows, HIDDEN)
            tensors[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        tensors[f"{layer}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        tensors[f"{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
        tensors[f"{layer}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{layer}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    return tensors | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}


def random_tile(seed: int) -> memoryview:
    """Return TILE normal weights, standard deviation 0.02, as the bytes of bf16."""
    values = np.random.default_rng(seed).standard_normal(TILE, dtype=np.float32) * np.float32(0.02)
    bits = values.view(np.uint32)
    return memoryview(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").view(np.uint8))


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], tile: memoryview | None) -> None:
    """Write one safetensors file, its weights repeating `tile`, or without it as a hole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if tile is None:
            file.truncate(8 + len(text) + end)
            return
        for _ in range(end // tile.nbytes):
            file.write(tile)
        file.write(tile[: end % tile.nbytes])


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparse", action="store_true", help="holes instead of weights")
    options = parser.parse_args()
    tensors = shapes(options.blocks, options.vocabulary)
    weights = sum(map(math.prod, tensors.values()))
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(options.shards)]
    before = 0
    for name, shape in tensors.items():
        shards[before * options.shards // weights][name] = shape
        before += math.prod(shape)
    options.directory.mkdir(parents=True)
    config = {"architectures": ["DreamModel"], "model_type": "Dream", "hidden_size": HIDDEN}
    config |= {"num_hidden_layers": options.blocks, "vocab_size": options.vocabulary}
    config |= {"mask_token_id": options.vocabulary - 1, "torch_dtype": "bfloat16"}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        path = options.directory / f"model-{number:05d}-of-{options.shards:05d}.safetensors"
        tile = None if options.sparse else random_tile(options.seed + number)
        write_shard(path, shard, tile)
        weight_map |= dict.fromkeys(shard, path.name)
    index = {"metadata": {"total_size": 2 * weights}, "weight_map": weight_map}
    for name, content in (("config.json", config), ("model.safetensors.index.json", index)):
        (options.directory / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
