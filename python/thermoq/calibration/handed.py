"""Which values a denoiser is handed at which timesteps, noted while it is calibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from thermoq.timestep_values import Table, TimestepArgument, table_of

if TYPE_CHECKING:
    from torch import nn


class HandedValues:
    """Hooks that note what models are handed. Use as a context manager; it removes them.

    Language models, which are handed no timestep, leave `pairs` empty.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._timesteps: dict[float, float] = {}
        self._now: list[float] = []
        self._handles = [
            model.register_forward_pre_hook(self._hook(model), with_kwargs=True) for model in models
        ]

    def __enter__(self) -> HandedValues:
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Each value that was handed over, and the timestep that it first meant."""
        return list(self._timesteps.items())

    def restore(self, pairs: Iterable[Sequence[float]]) -> None:
        """Go on from the `pairs` of an interrupted run."""
        self._timesteps.update((float(value), float(timestep)) for value, timestep in pairs)

    def note(self, timesteps: Sequence[float]) -> None:
        """Pair the values of the pass that was made with its timesteps, one or one a sample."""
        values, self._now = self._now, []
        # With guidance the samples come twice; the timesteps then are repeated in their order.
        for i, value in enumerate(values):
            self._timesteps.setdefault(value, timesteps[i % len(timesteps)])

    def table(self, kind: str, num_timesteps: int) -> Table | None:
        """Return what `table_of` makes of the pairs."""
        return table_of(self.pairs, kind, num_timesteps)

    def _hook(self, model: Any) -> Callable[..., None]:
        argument = TimestepArgument(model.forward)

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._now = argument.values(args, kwargs) or []

        return see
