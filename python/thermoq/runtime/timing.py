"""Which timestep a model is at while it runs, found by itself or said by the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from thermoq.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from thermoq.runtime.parameters import LayerParameters, LayerValues, Moment, ParameterTable

ATTRIBUTE = "_thermoq_time"
"""What a loaded model's `CurrentTime` is called among its attributes."""

Read = Callable[[Sequence[Any], Mapping[str, Any]], "list[float] | None"]
"""Returns timesteps from a forward pass's arguments, one or one a sample; None if it has none."""

_MAIN_INPUTS = ("hidden_states", "sample", "input_ids", "inputs_embeds")


class CurrentTime:
    """The timesteps of the forward pass that is being made, and the layers' parameters there.

    Not to be shared between threads: a model makes one forward pass at a time.
    """

    def __init__(self, table: ParameterTable, read: Read) -> None:
        self._table = table
        self._read = read
        self._said: list[float] | None = None
        self._moment: Moment | None = None
        self._fixed: Moment | None = None
        self.is_static = False
        self.always = False
        self.timesteps: list[float] = []

    @property
    def is_needed(self) -> bool:
        """Whether anything in the model depends on the timestep."""
        return self.always or self._table.is_needed

    def replace(self, changed: Mapping[int, LayerParameters]) -> None:
        """Give some layers, by their number, other parameters from the next pass on."""
        self._table.replace(changed)
        self._fixed = None

    def forget(self) -> None:
        """Evaluate parameters anew at the next pass, as a sampler has it at each of its steps."""
        self._table.forget()

    @contextmanager
    def static(self) -> Iterator[None]:
        """Run every pass in the block as a model does whose parameters are static.

        No timestep is read; layers have one time group's ranges and neither gains nor biases, and
        the prediction is not corrected.
        """
        if self._fixed is None:
            self._fixed = self._table.static()
        self.is_static = True
        try:
            yield
        finally:
            self.is_static = False

    def values(self, layer: str, slot: int, device: torch.device) -> LayerValues:
        """Return the parameters of a layer, for inputs on `device`.

        Raises UsageError outside of a forward pass of the whole model.
        """
        if self._moment is None:
            raise UsageError(
                f"layer {layer}: expected a call of the whole model, which tells the timestep, got "
                "one of a part of it; `with thermoq.timestep(model, t)` tells it, too"
            )
        return self._moment.of(slot, device)

    # Hooks of the whole model.

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the timesteps of the pass that begins."""
        if self.is_static:
            self._moment = self._fixed
            return
        if not self.is_needed:
            return
        found = self._said if self._said is not None else self._read(args, kwargs)
        if found is None:
            raise UsageError(
                f"{type(module).__name__}: expected a timestep among its arguments, got none; "
                "`with thermoq.timestep(model, t)` says which one is meant"
            )
        size = _batch_size(args, kwargs)
        if self._said is not None and size % len(found):
            expected = f"expected one timestep, or one for each of {size} samples"
            raise UsageError(f"timestep: {expected}, got {len(found)}")
        self._enter(_for_batch(found, size))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forget them: what is called later must not run at a timestep that has passed."""
        self._moment, self.timesteps = None, []
        if self._said is not None:
            self._enter(self._said)

    def _enter(self, timesteps: list[float]) -> None:
        self.timesteps = timesteps if len(set(timesteps)) > 1 else timesteps[:1]
        self._moment = self._table.at(self.timesteps)

    @contextmanager
    def said(self, timesteps: list[float]) -> Iterator[None]:
        """Take `timesteps` for those of every pass in the block."""
        before = self._said, self._moment, self.timesteps
        self._enter(timesteps)  # refuses what is outside the trajectory at once
        self._said = timesteps
        try:
            yield
        finally:
            self._said, self._moment, self.timesteps = before


def _for_batch(timesteps: list[float], size: int) -> list[float]:
    """Repeat the timesteps where guidance doubles the batch: the samples, then they again."""
    if len(timesteps) == 1:
        return timesteps
    times, rest = divmod(size, len(timesteps))
    return timesteps if rest or not times else timesteps * times


def _batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return how many samples a pass is of; 0 if nothing tells. Its main input comes first."""
    named = [kwargs[name] for name in _MAIN_INPUTS if name in kwargs]
    every = (*args[:1], *named, *args[1:], *kwargs.values())
    return next((_length(one) for one in every if _length(one)), 0)


def _length(value: Any) -> int:
    """Return how many samples an argument holds; 0 if it is none that holds samples."""
    if hasattr(value, "shape"):
        return int(value.shape[0]) if len(value.shape) > 1 else 0
    return len(value) if isinstance(value, list) else 0


@contextmanager
def timestep(model: nn.Module, t: float | Sequence[float] | torch.Tensor) -> Iterator[None]:
    """Run a model of `thermoq.load` at timestep `t` in the block, whatever it is handed itself.

    `t` is a timestep in [0, T), T - 1 being pure noise and 0 clean data, or one for each sample of
    the batch. For masked-diffusion language models `t = clip(ceil(r * T) - 1, 0, T - 1)` with the
    share `r` of positions outside the prompt that are masked.

    Raises UsageError for a timestep outside [0, T), and for a model that is no quantized one.
    """
    current = getattr(model, ATTRIBUTE, None)
    if not isinstance(current, CurrentTime):
        got = type(model).__name__
        raise UsageError(f"timestep: expected a model that thermoq.load returned, got {got}")
    given: Any = t.tolist() if hasattr(t, "tolist") else t
    with current.said([float(one) for one in given] if _is_many(given) else [float(given)]):
        yield


def _is_many(given: Any) -> bool:
    if isinstance(given, Sequence) and not given:
        raise UsageError("timestep: expected a timestep, or one for each sample, got none")
    return isinstance(given, Sequence)
