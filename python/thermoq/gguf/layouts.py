"""How the tensors of a checkpoint are called, cut and joined in a GGUF file.

`checkpoint` keeps the names, shortened to 63 bytes; `full` keeps them whole. `original` is the
layout that a model was published in, for loaders that do not know diffusers' own: there, several of
the checkpoint's tensors are the rows of one. That rounds nothing, as blocks run along rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from thermoq.errors import UsageError

Names = Literal["checkpoint", "full", "original"]
NAMES: Final[tuple[Names, ...]] = get_args(Names)


@dataclass(frozen=True)
class Target:
    """A tensor of the GGUF file: the rows of `pieces`, one after the other.

    `swap_halves`: the second half of the rows comes first.
    """

    name: str
    pieces: tuple[str, ...]
    swap_halves: bool = False


def layout(names: Sequence[str], style: Names, class_name: object) -> tuple[Target, ...]:
    """Return the tensors of the file in the order of `names`; raises UsageError for a class whose
    original layout is not known here.
    """
    if style != "original":
        return tuple(Target(name, (name,)) for name in names)
    if class_name != "FluxTransformer2DModel":
        raise UsageError(
            f"--names: expected a FluxTransformer2DModel with original, got {class_name}; "
            "checkpoint and full take any model"
        )
    return _joined(names)


# FluxTransformer2DModel of diffusers, by what its loader makes of the original
# (`convert_flux_transformer_checkpoint_to_diffusers` of huggingface/diffusers,
# src/diffusers/loaders/single_file_utils.py). A number is the place among the pieces of a tensor.
_FLUX: Final = (
    (r"time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer", 0),
    (r"time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer", 0),
    (r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer", 0),
    (r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer", 0),
    (r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer", 0),
    (r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer", 0),
    (r"context_embedder", "txt_in", 0),
    (r"x_embedder", "img_in", 0),
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.lin", 0),
    (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.lin", 0),
    (r"transformer_blocks\.(\d+)\.attn\.to_q", r"double_blocks.\1.img_attn.qkv", 0),
    (r"transformer_blocks\.(\d+)\.attn\.to_k", r"double_blocks.\1.img_attn.qkv", 1),
    (r"transformer_blocks\.(\d+)\.attn\.to_v", r"double_blocks.\1.img_attn.qkv", 2),
    (r"transformer_blocks\.(\d+)\.attn\.add_q_proj", r"double_blocks.\1.txt_attn.qkv", 0),
    (r"transformer_blocks\.(\d+)\.attn\.add_k_proj", r"double_blocks.\1.txt_attn.qkv", 1),
    (r"transformer_blocks\.(\d+)\.attn\.add_v_proj", r"double_blocks.\1.txt_attn.qkv", 2),
    (r"transformer_blocks\.(\d+)\.attn\.norm_q", r"double_blocks.\1.img_attn.norm.query_norm", 0),
    (r"transformer_blocks\.(\d+)\.attn\.norm_k", r"double_blocks.\1.img_attn.norm.key_norm", 0),
    (
        r"transformer_blocks\.(\d+)\.attn\.norm_added_q",
        r"double_blocks.\1.txt_attn.norm.query_norm",
        0,
    ),
    (
        r"transformer_blocks\.(\d+)\.attn\.norm_added_k",
        r"double_blocks.\1.txt_attn.norm.key_norm",
        0,
    ),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.0", 0),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.2", 0),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.0", 0),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.2", 0),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj", 0),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj", 0),
    (r"single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin", 0),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_q", r"single_blocks.\1.linear1", 0),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_k", r"single_blocks.\1.linear1", 1),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_v", r"single_blocks.\1.linear1", 2),
    (r"single_transformer_blocks\.(\d+)\.proj_mlp", r"single_blocks.\1.linear1", 3),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_q", r"single_blocks.\1.norm.query_norm", 0),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_k", r"single_blocks.\1.norm.key_norm", 0),
    (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2", 0),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1", 0),
    (r"proj_out", "final_layer.linear", 0),
)
_FLUX_COMPILED = tuple(
    (re.compile(rf"{pattern}\.(weight|bias)"), rf"{name}.\g<{re.compile(pattern).groups + 1}>", at)
    for pattern, name, at in _FLUX
)
# diffusers has (scale, shift) where the original has (shift, scale).
_SWAPPED = "final_layer.adaLN_modulation.1."


def _joined(names: Iterable[str]) -> tuple[Target, ...]:
    """Put the pieces of each tensor together; every one of them must be there."""
    pieces: dict[str, dict[int, str]] = {}
    for name in names:
        original, place = _flux_name(name)
        pieces.setdefault(original, {})[place] = name
    targets = []
    for original, found in pieces.items():
        expected = _PIECES.get(re.sub(r"\.\d+\.", ".#.", original.rpartition(".")[0]), 1)
        if sorted(found) != list(range(expected)):
            raise UsageError(
                f"--names: expected {expected} tensors for {original} with original, got "
                f"{', '.join(found[place] for place in sorted(found))}"
            )
        rows = tuple(found[place] for place in range(expected))
        targets.append(Target(original, rows, original.startswith(_SWAPPED)))
    return tuple(targets)


_PIECES: Final = {
    "double_blocks.#.img_attn.qkv": 3,
    "double_blocks.#.txt_attn.qkv": 3,
    "single_blocks.#.linear1": 4,
}


def _flux_name(name: str) -> tuple[str, int]:
    for pattern, original, place in _FLUX_COMPILED:
        if pattern.fullmatch(name):
            new = pattern.sub(original, name)
            # Norms have a `scale` there.
            return re.sub(r"(query_norm|key_norm)\.weight$", r"\1.scale", new), place
    raise UsageError(f"--names: expected the tensors of a FluxTransformer2DModel, got {name}")
