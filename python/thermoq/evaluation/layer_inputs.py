"""What layers get in some passes of a sampler, and in a quantized model at the same states.

Rows are taken at places that the seed and the pass decide, so that those of two models pair up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thermoq.calibration.job import Job
from thermoq.calibration.patches import InputRows, input_rows
from thermoq.evaluation.pairs import Arguments
from thermoq.progress import StepProgress
from thermoq.schedule import TimeGroups

Rows = NDArray[np.float32]

BATCHES_A_BIN = 4
"""From so many batches of samples, at most, states are kept in a fine bin."""


@dataclass(frozen=True)
class LayerRows:
    """Some of the rows that a layer got in one call, f32 [n, in], and each one's timestep.

    `shape` is that of all the rows there were.
    """

    rows: Rows
    timesteps: NDArray[np.float64]
    shape: tuple[int, int]


@dataclass(frozen=True)
class RecordedPass:
    """A forward pass of the full-precision model: what it was given, and what its layers got.

    `inputs` go by the name of the input, a list over calls; in the order of the first calls.
    """

    arguments: Arguments
    timesteps: tuple[float, ...]
    seed: tuple[int, ...]
    inputs: Mapping[str, list[LayerRows]] = field(repr=False)


@dataclass(frozen=True)
class Wanted:
    """Layers of a module, and what to take of their inputs.

    `layers`: module path and name of the input of each layer; those that share an input name it
    alike. `rows`: how many of a call's rows to take.
    """

    layers: Mapping[str, tuple[str, str]]
    rows: int

    def watched(self, module: nn.Module) -> Iterator[tuple[str, str, nn.Module, InputRows]]:
        """Yield name, input, module and rows of each layer that multiplies some."""
        modules = dict(module.named_modules(remove_duplicate=False))
        for name, (path, source) in self.layers.items():
            layer = modules.get(path)
            rows = input_rows(layer) if layer is not None else None
            if layer is not None and rows is not None:
                yield name, source, layer, rows


def record(
    job: Job, wanted: Sequence[Wanted], bins: TimeGroups, seed: int, progress: StepProgress
) -> list[list[RecordedPass]]:
    """Make all forward passes of `job`, and keep one of a fine bin from some batches.

    Returns the passes of each watched module.
    """
    recorders = [_Recorder(one, bins, seed, len(job.batches)) for one in wanted]
    done = 0
    current: tuple[float, ...] = ()

    @contextmanager
    def at(timesteps: Sequence[float]) -> Iterator[None]:
        nonlocal current
        current = tuple(timesteps)
        for one in recorders:
            one.begin(done, current)
        yield
        for one in recorders:
            one.end()

    def finished(batches: int) -> None:
        nonlocal done
        done = batches

    with ExitStack() as hooks:
        for one, watched in zip(recorders, job.watched, strict=True):
            one.attach(watched.module, hooks)
        progress.start("recording", len(job.batches) * job.steps, 0)
        job.run(at, lambda step: progress.advance(f"step {step.step} of {job.steps}"), finished, 0)
    return [list(one.kept.values()) for one in recorders]


class _Recorder:
    """Keeps passes of one module.

    Of a bin that is visited more than once, other batches and bins keep other visits.
    """

    def __init__(self, wanted: Wanted, bins: TimeGroups, seed: int, batches: int) -> None:
        self.kept: dict[tuple[int, int], RecordedPass] = {}
        self._wanted = wanted
        self._bins = bins
        self._seed = seed
        self._stride = max(1, -(-batches // BATCHES_A_BIN))
        self._visits: dict[tuple[int, int], int] = {}
        self._key: tuple[int, int] | None = None
        self._timesteps: tuple[float, ...] = ()
        self._watching = False
        self._inputs: dict[str, list[LayerRows]] | None = None
        self._of: dict[str, str] = {}  # the layer that an input is taken from, in this pass
        self._arguments: Arguments | None = None

    def attach(self, module: nn.Module, hooks: ExitStack) -> None:
        """Watch the module and its layers until `hooks` are closed."""
        handles = [module.register_forward_pre_hook(self._before, with_kwargs=True)]
        for name, source, layer, rows in self._wanted.watched(module):
            hook = self._hook(name, source, rows)
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        for handle in handles:
            hooks.callback(handle.remove)

    def begin(self, batch: int, timesteps: tuple[float, ...]) -> None:
        """Decide whether the pass that begins is kept."""
        bin = self._bins.group_of(timesteps[len(timesteps) // 2])
        key = batch, bin
        visit = self._visits.get(key, 0)
        self._visits[key] = visit + 1
        mine = (batch - bin) % self._stride == 0
        self._key = key if mine and visit <= (batch // self._stride + bin) % 3 else None
        self._timesteps = timesteps
        self._watching = False
        self._inputs = self._arguments = None

    def end(self) -> None:
        """Keep it, in the place of an earlier one."""
        if self._key is not None and self._inputs is not None and self._arguments is not None:
            seed = (self._seed, *self._key)
            one = RecordedPass(self._arguments, self._timesteps, seed, self._inputs)
            self.kept[self._key] = one
        self._key = None

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._watching = self._key is not None and self._inputs is None  # of several, the first
        if self._watching:
            self._arguments, self._inputs, self._of = _copied((args, kwargs)), {}, {}

    def _hook(self, name: str, source: str, rows: InputRows) -> Callable[..., None]:
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._watching:
                return
            assert self._key is not None
            assert self._inputs is not None
            if self._of.setdefault(source, name) == name:
                calls = self._inputs.setdefault(source, [])
                seed = self._seed, *self._key, len(calls)
                values = args[0] if args else kwargs["input"]
                calls.append(taken(rows, values, self._wanted.rows, seed, self._timesteps))

        return see


def taken(
    rows: InputRows,
    values: Tensor,
    count: int,
    seed: Sequence[int],
    timesteps: Sequence[float],
) -> LayerRows:
    """Return at most `count` of the rows of a layer's input; which ones, the seed decides.

    `timesteps`: one, or one for each sample, whose rows lie together.
    """
    total = rows.count(values)
    places = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    found = np.empty((len(places), rows.num_columns), np.float32)
    start = 0
    for chunk in rows.chunks(values.detach()):
        mine = (places >= start) & (places < start + len(chunk))
        if mine.any():
            found[mine] = chunk[places[mine] - start].float().cpu().numpy()
        start += len(chunk)
    which = places * len(timesteps) // max(total, 1)
    return LayerRows(found, np.array(timesteps)[which], (total, rows.num_columns))


class _Enough(Exception):  # noqa: N818 (no error: it ends a pass)
    """All that was wanted of a pass is there."""


def rerun(
    module: nn.Module, layer: nn.Module, source: str, one: RecordedPass, count: int
) -> list[LayerRows]:
    """Make a recorded pass with `module`, as far as needed, and return what `layer` gets."""
    rows = input_rows(layer)
    assert rows is not None
    wanted, found = len(one.inputs[source]), list[LayerRows]()

    def see(layer: nn.Module, args: Any, kwargs: Any) -> None:
        values = args[0] if args else kwargs["input"]
        seed = *one.seed, len(found)
        found.append(taken(rows, values, count, seed, one.timesteps))
        if len(found) == wanted:
            raise _Enough

    handle = layer.register_forward_pre_hook(see, with_kwargs=True)
    args, kwargs = _copied(one.arguments)
    try:
        module(*args, **kwargs)
    except _Enough:
        pass
    finally:
        handle.remove()
    return found


def _copied(value: Any) -> Any:
    """Return arguments that nobody else changes."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_copied(one) for one in value)
    return value
