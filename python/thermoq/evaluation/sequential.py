"""Phase 3 layer after layer: each is fitted to what the quantized layers before it give it.

Both models run on the states of the calibration's own sampling. The full-precision one first, once;
then the quantized one, as far as each layer in turn, with the new parameters of all before it. A
layer that sees other rows than its original does (a router chooses them) is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from thermoq.calibration.file import Description
from thermoq.calibration.run import torch_settings
from thermoq.errors import InputError
from thermoq.evaluation.layer_inputs import (
    BATCHES_A_BIN,
    LayerRows,
    RecordedPass,
    Wanted,
    record,
    rerun,
)
from thermoq.evaluation.own_sampling import OwnSampling, own_sampling
from thermoq.evaluation.pairs import AtTimesteps
from thermoq.optimization.inputs import Inputs
from thermoq.optimization.sequential_run import SequentialRun
from thermoq.progress import NoSteps, StepProgress
from thermoq.runtime.modules import TimedLayer
from thermoq.runtime.parameters import LayerParameters
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime
from thermoq.schedule import TimeGroups

MAX_SAMPLES = 64
_ROWS_A_BIN = 64

Fit = Callable[[str, Sequence[Inputs]], LayerParameters | None]
"""Given a layer, COMPONENT/TENSOR, and its inputs by time group; None leaves it as it is."""


def fit_layers(
    model: Path | str,
    quantized: Path | str | Sequence[nn.Module],
    description: Description,
    groups: TimeGroups,
    layers: Sequence[str],
    fit: Fit,
    *,
    samples: int | None = None,
    threads: int | None = None,
    progress: StepProgress | None = None,
) -> SequentialRun:
    """Call `fit` for each of `layers` in the order in which they run.

    `quantized` and `description` as in `fit_output_correction`; `layers` are COMPONENT/TENSOR.
    What `fit` returns is what the layer has while those after it are fitted. `samples` None: as
    many as the calibration had, at most 64.

    Raises InputError for a model that cannot be run, or gets NaN; UsageError as `calibrate`.
    """
    count = samples if samples is not None else min(description.num_samples, MAX_SAMPLES)
    steps = progress or NoSteps()
    with torch_settings(threads):
        sampling = own_sampling(model, description, count)
        modules = sampling.modules(quantized)
        wanted = _wanted(sampling, description, layers)
        passes = record(sampling.job, wanted, sampling.bins, description.seed, steps)
        fitted = 0
        for module, own, kept in zip(modules, wanted, passes, strict=True):
            fitter = _Fitter(module, own, kept, groups, sampling.at_timesteps)
            fitted += fitter.run(fit, steps)
    return SequentialRun(count, sum(len(kept) for kept in passes), fitted)


def _wanted(sampling: OwnSampling, description: Description, layers: Sequence[str]) -> list[Wanted]:
    rows = -(-_ROWS_A_BIN // min(len(sampling.job.batches), BATCHES_A_BIN))
    known = description.layers
    return [
        Wanted(
            {
                name: (path, known.get(name, name))
                for name, path in watched.layers.items()
                if name in set(layers)
            },
            rows,
        )
        for watched in sampling.job.watched
    ]


class _Fitter:
    """Goes through the layers of one module, stage by stage: those that share an input."""

    def __init__(
        self,
        module: nn.Module,
        wanted: Wanted,
        passes: Sequence[RecordedPass],
        groups: TimeGroups,
        at_timesteps: AtTimesteps,
    ) -> None:
        self._module = module
        self._wanted = wanted
        self._passes = passes
        self._groups = groups
        self._at_timesteps = at_timesteps
        self._timed = {
            layer._thermoq.name: layer
            for layer in module.modules()
            if isinstance(layer, TimedLayer)
        }

    def run(self, fit: Fit, progress: StepProgress) -> int:
        """Fit all layers; return how many there were."""
        stages = self._stages()
        progress.start("fitting", len(stages), 0)
        fitted = 0
        for source, layers in stages.items():
            inputs = self._inputs(source, self._timed[_tensor(layers[0])])
            changed = {}
            for name in layers if inputs is not None else ():
                assert inputs is not None
                found = fit(name, inputs)
                if found is not None:
                    changed[self._timed[_tensor(name)]._thermoq.slot] = found
            time = getattr(self._module, ATTRIBUTE)
            assert isinstance(time, CurrentTime)
            time.replace(changed)
            fitted += len(changed)
            progress.advance(layers[0])
        return fitted

    def _stages(self) -> dict[str, list[str]]:
        """Return the layers by input, in the order in which the inputs come up."""
        order = dict.fromkeys(source for one in self._passes for source in one.inputs)
        stages: dict[str, list[str]] = {source: [] for source in order}
        for name, (_, source) in self._wanted.layers.items():
            if source in stages and _tensor(name) in self._timed:
                stages[source].append(name)
        return {source: layers for source, layers in stages.items() if layers}

    def _inputs(self, source: str, layer: nn.Module) -> list[Inputs] | None:
        """Return what the layers of an input get in both models, by time group."""
        full: list[LayerRows] = []
        given: list[LayerRows] = []
        for one in self._passes:
            if source in one.inputs:
                full += one.inputs[source]
                with self._at_timesteps(self._module, one.timesteps):
                    given += rerun(self._module, layer, source, one, self._wanted.rows)
        if [one.shape for one in full] != [one.shape for one in given]:
            return None
        together = np.concatenate([one.rows for one in given])
        if not np.isfinite(together).all():
            raise InputError(
                f"layer {source}: expected finite inputs, got NaN or infinity from the quantized "
                "layers before it"
            )
        group = np.concatenate([self._groups_of(one) for one in full])
        originals = np.concatenate([one.rows for one in full])
        return [
            Inputs(together[group == g], originals[group == g]) for g in range(len(self._groups))
        ]

    def _groups_of(self, rows: LayerRows) -> np.ndarray:
        known = {t: self._groups.group_of(float(t)) for t in set(rows.timesteps.tolist())}
        return np.array([known[t] for t in rows.timesteps.tolist()], np.int64)


def _tensor(name: str) -> str:
    """Return the tensor of COMPONENT/TENSOR."""
    return name.rpartition("/")[2]
