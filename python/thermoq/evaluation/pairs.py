"""Two models on the same inputs: the full-precision one samples, the other is run beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thermoq.calibration.job import Job, Step
from thermoq.errors import InputError
from thermoq.progress import StepProgress

Seen = Callable[["PairedPass"], None]
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class PairedPass:
    """A forward pass of both models.

    `full` and `quantized` are their predictions, [rows, ...]; `samples` [rows] tells which sample
    each row is of, `timesteps` [rows] where on the trajectory it is. `arguments` are what the
    models were given, `number` which of the job's modules it is.
    """

    full: Tensor
    quantized: Tensor
    samples: NDArray[np.int64]
    timesteps: NDArray[np.float64]
    arguments: Arguments
    number: int

    def check(self) -> None:
        """Raise InputError, which names the timestep, if a prediction is not finite."""
        for name, one in (("full-precision", self.full), ("quantized", self.quantized)):
            if not bool(torch.isfinite(one).all()):
                t = f"{self.timesteps[0]:.6g}"
                raise InputError(
                    f"expected finite predictions, got NaN or infinity from the {name} model at "
                    f"timestep {t}"
                )


AtTimesteps = Callable[[nn.Module, Sequence[float]], AbstractContextManager[None]]


def as_handed(module: nn.Module, timesteps: Sequence[float]) -> AbstractContextManager[None]:
    """Let a module find out about the timestep by itself, as it has to with its users."""
    return nullcontext()


def as_told(module: nn.Module, timesteps: Sequence[float]) -> AbstractContextManager[None]:
    """Tell a language model the timesteps: from a state alone it can only guess the prompt."""
    from thermoq.runtime.timing import ATTRIBUTE, timestep

    return timestep(module, timesteps) if hasattr(module, ATTRIBUTE) else nullcontext()


def run_beside(
    job: Job,
    others: Sequence[nn.Module],
    seen: Seen,
    task: str,
    progress: StepProgress,
    at_timesteps: AtTimesteps = as_handed,
) -> None:
    """Make all forward passes of `job`, and each on the module of `others` in the same place too.

    `others` are in the order of the job's watched modules. `seen` is told of every pass.
    """
    done = 0
    timesteps: Sequence[float] = ()

    @contextmanager
    def at(given: Sequence[float]) -> Iterator[None]:
        nonlocal timesteps
        timesteps = given
        yield

    def beside(number: int, other: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            full = prediction(output)
            with torch.no_grad(), at_timesteps(other, timesteps):
                quantized = prediction(other(*args, **kwargs))
            samples, places = _rows(len(full), job.batches[done], timesteps)
            one = PairedPass(full, quantized, samples, places, (args, kwargs), number)
            one.check()
            seen(one)

        return hook

    def told(step: Step) -> None:
        total = job.batches[-1][-1] + 1
        progress.advance(f"step {step.step} of {job.steps}, sample {step.samples} of {total}")

    def finished(batches: int) -> None:
        nonlocal done
        done = batches

    with ExitStack() as hooks:
        for number, (one, other) in enumerate(zip(job.watched, others, strict=True)):
            # Before the sampler's own hooks, one of which ends the pass.
            handle = one.module.register_forward_hook(beside(number, other), with_kwargs=True)
            hooks.callback(handle.remove)
        progress.start(task, len(job.batches) * job.steps, 0)
        job.run(at, told, finished, 0)


def prediction(output: Any) -> Tensor:
    """Return the tensor that a model's forward pass predicts."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    found = output[0] if found is None else found
    assert isinstance(found, Tensor)
    return found


def without_variance(predicted: Tensor, arguments: Arguments) -> Tensor:
    """Return a prediction [rows, channels, ...] without the learned variance behind it."""
    args, kwargs = arguments
    given = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
    if not isinstance(given, Tensor) or given.dim() != predicted.dim() or given.dim() < 4:
        return predicted
    channels = given.shape[1]
    return predicted[:, :channels] if predicted.shape[1] == 2 * channels else predicted


def _rows(
    rows: int, samples: range, timesteps: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return sample and timestep of each row of a batch, which guidance may have repeated."""
    numbers, places = np.array(samples, np.int64), np.array(timesteps, np.float64)
    if rows % len(numbers):
        raise ValueError(f"expected a multiple of {len(numbers)} rows, got {rows}")
    numbers = np.tile(numbers, rows // len(numbers))
    return numbers, np.resize(places, rows)
