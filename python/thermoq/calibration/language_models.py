"""Masked-diffusion language models, built from a checkpoint with transformers' own classes.

Dream is a Qwen2 and LLaDA a Llama whose every position attends to every other. Their checkpoints
name modeling code to be downloaded and run; none of it is: the mask that transformers' causal
models take instead of their own makes them bidirectional, and LLaDA's tensors are renamed. What
differs from these two families is refused rather than approximated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thermoq.calibration.language_configs import DreamConfig, LladaConfig, read_config
from thermoq.calibration.packages import require_packages
from thermoq.checkpoint import Component, MappedFiles, StoredTensor, open_checkpoint
from thermoq.checkpoint.untrusted import bad_file, bad_tensor, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

_LLADA_BLOCK = re.compile(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.(\w+)")
# LLaDA's module: Llama's. `ff_proj` is the half that goes through the activation.
_LLADA_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_LLADA_OUTSIDE = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class LanguageModel:
    """A masked-diffusion language model in evaluation mode.

    `layers` gives the module path in `module` of each linear layer's weight, by the tensor's name
    in the checkpoint. `logits_shift`: the module's output at position i - 1 predicts token i.
    """

    directory: Path
    family: Literal["dream", "llada"]
    module: nn.Module = field(repr=False)
    layers: Mapping[str, str] = field(repr=False)
    mask_token_id: int
    vocab_size: int
    logits_shift: bool

    def logits(self, token_ids: Tensor) -> Tensor:
        """Return the logits [n, length, vocab] of each token of `token_ids` [n, length].

        Aligned with the tokens that they predict. With `logits_shift` nothing predicts the first
        token; as in Dream's own sampler, it gets what the first position says of the second.
        """
        import torch

        device = next(self.module.parameters()).device
        with torch.no_grad():
            logits: Tensor = self.module(
                input_ids=token_ids.to(device),
                attention_mask=open_attention(token_ids.to(device), self._dtype),
                use_cache=False,
            ).logits
        return aligned(logits) if self.logits_shift else logits

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without special tokens around it.

        Raises InputError if the checkpoint has no tokenizer, or one of another vocabulary.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if ids and max(ids) >= self.vocab_size:
            expected = f"token ids below {self.vocab_size}, the model's vocabulary"
            raise bad_file(self.directory, f"tokenizer: expected {expected}, got {max(ids)}")
        return list(ids)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; raises InputError if it has none or a broken one."""
        return _load_tokenizer(self.directory)

    @property
    def _dtype(self) -> Any:
        return next(self.module.parameters()).dtype


def load_language_model(directory: Path | str, *, dtype: Precision = "float32") -> LanguageModel:
    """Load the Dream or LLaDA checkpoint in `directory`, its weights converted to `dtype`.

    Nothing is downloaded, unpickled or executed. Raises InputError for another architecture, for
    settings that neither class of transformers knows, and for missing, unexpected or misshapen
    tensors; UsageError if torch or transformers is not installed.
    """
    require_packages("torch", "transformers")
    checkpoint = open_checkpoint(Path(directory))
    component = checkpoint.components[0]
    config = read_config(component.config or {}, checkpoint.directory)
    module = empty_module(config)
    stored = _by_module_name(component, config)
    _check_tensors(component, stored, module, config.tied)
    module.load_state_dict(_weights(stored, module, config.tied, dtype), strict=True, assign=True)
    names = {name: tensor.name for name, tensor in stored.items()}
    return assembled(checkpoint.directory, config, module, names)


def assembled(
    directory: Path, config: DreamConfig | LladaConfig, module: nn.Module, names: Mapping[str, str]
) -> LanguageModel:
    """Return the model of an `empty_module` that has got its weights.

    `names` gives the tensor in the checkpoint of each name in the module.
    """
    inner: Any = module
    # Computed rather than stored, so it is made anew outside the "meta" device.
    inner.model.rotary_emb = type(inner.model.rotary_emb)(config=inner.config)
    inner.requires_grad_(False).eval()
    return LanguageModel(
        directory=directory,
        family="dream" if isinstance(config, DreamConfig) else "llada",
        module=module,
        layers=_linear_layers(module, names),
        mask_token_id=config.mask_token_id,
        vocab_size=config.num_embeddings,
        logits_shift=config.logits_shift,
    )


def open_attention(filled: Tensor, dtype: Any, shown: Tensor | None = None) -> Tensor:
    """Return an attention mask [n, 1, length, length] that lets every position see every other.

    `filled` [n, length, ...] are tokens or their embeddings; positions where `shown` [n, length] is
    0 are seen by none.
    """
    import torch

    count, length = filled.shape[:2]
    # Added to the attention scores in place of the causal mask: 0 lets everything through. One
    # number, shown length x length times; torch's kernels take it without a copy.
    added = torch.zeros((), dtype=dtype, device=filled.device)
    if shown is not None:
        least = torch.finfo(dtype).min
        added = added.masked_fill(shown[:, None, None, :].to(filled.device) == 0, least)
    return added.expand(count, 1, length, length)


def aligned(logits: Tensor) -> Tensor:
    """Return logits [n, length, vocab] beside the tokens that they predict, as Dream does.

    Nothing predicts the first token; it gets what the first position says of the second.
    """
    import torch

    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def empty_module(config: DreamConfig | LladaConfig) -> Any:
    """Return the module without weights: on torch's "meta" device, which allocates nothing."""
    import torch
    import transformers

    with torch.device("meta"):
        if isinstance(config, DreamConfig):
            of_qwen2 = transformers.Qwen2Config(**config.for_transformers())
            return transformers.Qwen2ForCausalLM(of_qwen2)
        of_llama = transformers.LlamaConfig(**config.for_transformers())
        return transformers.LlamaForCausalLM(of_llama)


# Tensors.


def name_in_module(config: DreamConfig | LladaConfig, name: str) -> str:
    """Return what transformers' class calls the checkpoint's tensor `name`."""
    return name if isinstance(config, DreamConfig) else _llama_name(name)


def _llama_name(name: str) -> str:
    """What Llama calls LLaDA's tensor `name`; the name itself if LLaDA has none such."""
    found = _LLADA_BLOCK.fullmatch(name)
    if found and found[2] in _LLADA_IN_BLOCK:
        return f"model.layers.{found[1]}.{_LLADA_IN_BLOCK[found[2]]}.{found[3]}"
    return _LLADA_OUTSIDE.get(name, name)


def _by_module_name(
    component: Component, config: DreamConfig | LladaConfig
) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for name, tensor in component.tensors.items():
        other = stored.setdefault(name_in_module(config, name), tensor)
        if other is not tensor:
            raise bad_tensor(tensor.path, name, f"expected it once, got {shown(other.name)} too")
    return stored


def _check_tensors(
    component: Component, stored: Mapping[str, StoredTensor], module: Any, tied: bool
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, tensor in stored.items():
        if name not in expected:
            raise bad_tensor(tensor.path, tensor.name, "expected no tensor of this name")
        if tensor.shape != expected[name]:
            shapes = f"expected shape {list(expected[name])}, got {list(tensor.shape)}"
            raise bad_tensor(tensor.path, tensor.name, shapes)
        if tensor.dtype not in _FLOATS:
            dtypes = f"expected {', '.join(_FLOATS)}, got {tensor.dtype}"
            raise bad_tensor(tensor.path, tensor.name, dtypes)
    optional = {"lm_head.weight"} if tied else set()
    missing = [name for name in expected if name not in stored and name not in optional]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"expected the weights of all layers, got none for {missing[0]}{more}"
        raise bad_file(component.directory, problem)


def _weights(
    stored: Mapping[str, StoredTensor], module: Any, tied: bool, dtype: Precision
) -> dict[str, Any]:
    """The state of `module`, read a tensor at a time."""
    import torch

    state: dict[str, Any] = {}
    with MappedFiles() as files:
        for name, tensor in stored.items():
            own = torch.frombuffer(
                bytearray(files.bytes(tensor)), dtype=getattr(torch, _FLOATS[tensor.dtype])
            )
            state[name] = own.reshape(tensor.shape).to(getattr(torch, dtype))
            files.release(tensor)
    if tied:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state


def _linear_layers(module: nn.Module, names: Mapping[str, str]) -> dict[str, str]:
    from torch import nn

    return {
        names[f"{path}.weight"]: path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and f"{path}.weight" in names
    }


def _load_tokenizer(directory: Path) -> Tokenizer:
    whole = directory / "tokenizer.json"
    parts = [directory / name for name in ("vocab.json", "merges.txt")]
    if not whole.is_file() and not all(path.is_file() for path in parts):
        expected = f"{whole.name}, or {parts[0].name} and {parts[1].name}, to read text with"
        raise bad_file(directory, f"expected a tokenizer ({expected}), got none")
    try:
        tokenizer = _whole_tokenizer(whole) if whole.is_file() else _qwen2_tokenizer(directory)
    except Exception as error:  # of a class of tokenizers' own, or whatever the files provoke
        raise bad_file(directory, f"tokenizer: cannot be read: {shown(str(error))}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _whole_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _qwen2_tokenizer(directory: Path) -> Tokenizer:
    """As Dream comes; its own class only adds what encoding does not need."""
    import transformers

    # From version 5 on there is one class, which is the fast one.
    fast: Any = getattr(transformers, "Qwen2TokenizerFast", transformers.Qwen2Tokenizer)
    loaded = fast.from_pretrained(str(directory), local_files_only=True)
    backend: Tokenizer = loaded.backend_tokenizer
    return backend
