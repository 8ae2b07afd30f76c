"""Hooks that make a causal model of transformers the masked-diffusion model that it stores."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from thermoq.calibration.language_models import aligned, open_attention
from thermoq.errors import UsageError
from thermoq.runtime.masks import check_ids


class Bidirectional:
    """Lets every position attend to every other, and puts logits beside the tokens they predict.

    `logits_shift`: the module's own output at position i - 1 predicts token i.
    """

    def __init__(self, module: nn.Module, *, logits_shift: bool) -> None:
        self._logits_shift = logits_shift
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        module.register_forward_hook(self.after)

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the attention mask: one that is not [n, length] is the caller's own."""
        for key in ("labels", "logits_to_keep", "past_key_values"):
            given = kwargs.get(key)
            if given is not None and not (isinstance(given, int) and given == 0):
                raise UsageError(f"{type(module).__name__}: expected no {key}, got one")
        ids, *rest = args or (kwargs.pop("input_ids", None),)
        shown = rest.pop(0) if rest else kwargs.pop("attention_mask", None)
        if rest:
            raise UsageError(
                f"{type(module).__name__}: expected arguments by name after input_ids and "
                f"attention_mask, got {len(rest)} more without"
            )
        filled = ids if ids is not None else kwargs.get("inputs_embeds")
        if filled is None:
            raise UsageError(f"{type(module).__name__}: expected input_ids, got none")
        if ids is not None:
            check_ids(ids)
        if shown is None or shown.dim() == 2:
            dtype = next(one.dtype for one in module.parameters() if one.is_floating_point())
            shown = open_attention(filled, dtype, shown)
        return (), {**kwargs, "input_ids": ids, "attention_mask": shown, "use_cache": False}

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output with aligned logits."""
        if not self._logits_shift:
            return output
        if isinstance(output, tuple):
            return (aligned(output[0]), *output[1:])
        logits: Tensor = output.logits
        output.logits = aligned(logits)
        return output
