"""The configurations of Dream's and LLaDA's checkpoints, as far as they decide what is computed.

Keys and defaults are those of `configuration_dream.py` (Dream-org/Dream-v0-Base-7B) and of
`configuration_llada.py` (GSAI-ML/LLaDA-8B-Base) on the Hugging Face hub. Both allow for variants
that no published checkpoint uses; those are refused here, by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.errors import InputError

Size = Annotated[int, Field(ge=1, le=1 << 24)]
Layers = Annotated[int, Field(ge=1, le=1024)]  # each becomes a Python object before any is checked
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0)]


class _Config(BaseModel):
    # What is unknown here belongs to training, to sampling, or to the remote code.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())

    mask_token_id: TokenId

    def _check(self, hidden: int, heads: int, kv_heads: int, vocabulary: int) -> None:
        for what, size, parts in (("hidden size", hidden, heads), ("heads", heads, kv_heads)):
            if size % parts:
                raise ValueError(f"expected {what} a multiple of {parts}, got {size}")
        if self.mask_token_id >= vocabulary:
            raise ValueError(f"expected mask_token_id below {vocabulary}, got {self.mask_token_id}")


class DreamConfig(_Config):
    """Dream: a bidirectional Qwen2."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Size = 32768
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 10000.0
    rope_scaling: None = None
    tie_word_embeddings: bool = False
    use_sliding_window: Literal[False] = False
    logits_shift: bool = True

    @model_validator(mode="after")
    def _fits(self) -> DreamConfig:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        self._check(self.hidden_size, heads, kv_heads, self.vocab_size)
        return self

    @property
    def num_embeddings(self) -> int:
        """Rows of the token table and of the last projection."""
        return self.vocab_size

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_position_embeddings

    @property
    def tied(self) -> bool:
        """Whether the last projection may be left out, being the token table."""
        return self.tie_word_embeddings

    def for_transformers(self) -> dict[str, Any]:
        """Arguments of Qwen2Config."""
        return self.model_dump(exclude={"mask_token_id", "logits_shift", "rope_scaling"})


class LladaConfig(_Config):
    """LLaDA: a bidirectional Llama with names of its own, from OLMo's code."""

    d_model: Size
    n_heads: Size
    n_kv_heads: Size | None = None
    n_layers: Layers
    mlp_ratio: Size = 4
    mlp_hidden_size: Size | None = None
    vocab_size: Size
    embedding_size: Size | None = None
    max_sequence_length: Size = 1024
    rms_norm_eps: Positive = 1e-5
    rope_theta: Positive = 10000.0
    weight_tying: bool = True
    logits_shift: bool = False
    # What Llama's class cannot do.
    block_type: Literal["llama"]
    layer_norm_type: Literal["rms"]
    activation_type: Literal["silu"]
    rope: Literal[True]
    alibi: Literal[False] = False
    attention_layer_norm: Literal[False] = False
    bias_for_layer_norm: Literal[False] | None = False
    block_group_size: Literal[1] = 1
    include_bias: Literal[False] = False
    include_qkv_bias: Literal[False] = False
    input_emb_norm: Literal[False] = False
    multi_query_attention: Literal[False] | None = None
    scale_logits: Literal[False] = False

    @model_validator(mode="after")
    def _fits(self) -> LladaConfig:
        self._check(self.d_model, self.n_heads, self._kv_heads, self.num_embeddings)
        return self

    @property
    def _kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def num_embeddings(self) -> int:
        """Rows of the token table and of the last projection."""
        return self.embedding_size or self.vocab_size

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_sequence_length

    @property
    def tied(self) -> bool:
        """Whether the last projection may be left out, being the token table."""
        return self.weight_tying

    def for_transformers(self) -> dict[str, Any]:
        """Arguments of LlamaConfig."""
        return {
            "vocab_size": self.num_embeddings,
            "hidden_size": self.d_model,
            "intermediate_size": self.mlp_hidden_size or self.mlp_ratio * self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self._kv_heads,
            "max_position_embeddings": self.max_sequence_length,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.weight_tying,
        }


_FAMILIES: tuple[tuple[str, str, type[DreamConfig] | type[LladaConfig]], ...] = (
    ("Dream", "DreamModel", DreamConfig),
    ("llada", "LLaDAModelLM", LladaConfig),
)


def language_family(config: Mapping[str, Any]) -> type[DreamConfig] | type[LladaConfig] | None:
    """Return the class for a model's `config.json`; None if it is neither Dream nor LLaDA."""
    architectures = config.get("architectures")
    for model_type, architecture, family in _FAMILIES:
        if isinstance(architectures, list) and architectures:
            if architecture in architectures:
                return family
        elif config.get("model_type") == model_type:
            return family
    return None


def read_config(config: Mapping[str, Any], directory: Path) -> DreamConfig | LladaConfig:
    """Check the configuration of the model in `directory`; InputError if it cannot be used."""
    path = directory / "config.json"
    family = language_family(config)
    if family is None:
        known = " or ".join(architecture for _, architecture, _ in _FAMILIES)
        got = shown(config.get("architectures") or config.get("model_type"))
        raise bad_file(path, f"expected the architecture {known}, got {got}")
    try:
        return family.model_validate(dict(config))
    except ValidationError as error:
        raise _explained(error, path) from None


def _explained(error: ValidationError, path: Path) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:1])
    if not key:
        return bad_file(path, str(first["msg"]).removeprefix("Value error, "))
    if first["type"] == "missing":
        return bad_file(path, f"expected {key}, got nothing")
    expected = str(first["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    return bad_file(path, f"{key}: expected {expected}, got {shown(first['input'])}")
