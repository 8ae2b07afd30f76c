"""The timestep of a masked-diffusion language model, told by how much of its input is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermoq.calibration.masked import timesteps_of
from thermoq.errors import UsageError

Ids = NDArray[np.int64]


class MaskRatios:
    """Reads timesteps from token ids: `t = clip(ceil(r * T) - 1, 0, T - 1)` of the mask ratio `r`.

    `r` is the share of masked positions outside the prompt. The prompt is what stands in front of
    the first mask when a sequence begins. A sequence goes on as long as positions are only
    unmasked, and no other token changes. Positions that an attention mask [n, length] hides do not
    count.
    """

    def __init__(self, mask_token_id: int, num_timesteps: int) -> None:
        self._mask = mask_token_id
        self._num_timesteps = num_timesteps
        self._last: Ids = np.zeros((0, 0), np.int64)
        self._prompts: Ids = np.zeros(0, np.int64)

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[float]:
        """Return the timestep of each sequence of `input_ids`. Raises UsageError without any."""
        given = args[0] if args else kwargs.get("input_ids")
        if given is None:
            got = "inputs_embeds" if kwargs.get("inputs_embeds") is not None else "none"
            raise UsageError(
                f"expected input_ids, whose mask tokens tell the timestep, got {got}; "
                "`with thermoq.timestep(model, t)` tells it, too"
            )
        check_ids(given)
        hidden = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        if hidden is not None and hidden.dim() != 2:  # of attention alone; NumPy has no bfloat16
            hidden = None
        return self.timesteps(_array(given), None if hidden is None else _array(hidden))

    def timesteps(self, ids: Ids, shown: NDArray[Any] | None = None) -> list[float]:
        """Return the timestep of each sequence of `ids` [n, length].

        `shown` [n, length] is 0 where a position does not count; masks of other shapes are of
        attention alone.
        """
        masked = ids == self._mask
        counts = np.ones(ids.shape, bool)
        if shown is not None and shown.shape == ids.shape:
            counts = shown.astype(bool)
        self._follow(ids, masked)
        outside = counts & (np.arange(ids.shape[1]) >= self._prompts[:, None])
        total = np.maximum(outside.sum(axis=1), 1)  # nothing but a prompt: nothing is masked
        return timesteps_of((masked & outside).sum(axis=1), total, self._num_timesteps)

    def _follow(self, ids: Ids, masked: NDArray[np.bool_]) -> None:
        """Note the prompts of the sequences that begin."""
        leading = np.where(masked.any(axis=1), masked.argmax(axis=1), ids.shape[1])
        if self._last.shape == ids.shape:
            goes_on = ((ids == self._last) | (self._last == self._mask)).all(axis=1)
            self._prompts = np.where(goes_on, self._prompts, leading)
        else:
            self._prompts = leading
        self._last = ids.copy()


def check_ids(given: Any) -> None:
    """Raise UsageError for token ids that are no sequences, or empty ones."""
    if given.dim() != 2 or not given.numel():
        raise UsageError(
            f"expected input_ids [sequences, tokens] with a token or more, got {list(given.shape)}"
        )


def _array(given: Any) -> NDArray[Any]:
    found: NDArray[Any] = given.detach().cpu().numpy()
    return found
