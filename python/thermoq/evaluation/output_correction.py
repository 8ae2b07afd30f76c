"""Fitting the output correction: the quantized model beside the full-precision one (section 7).

Both run on the states of the calibration's own sampling, never on those that an evaluation holds
out; the mathematics is in `optimization.correction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from thermoq.calibration.file import Description
from thermoq.calibration.language_configs import read_config
from thermoq.calibration.language_models import aligned
from thermoq.calibration.run import torch_settings
from thermoq.checkpoint import Checkpoint
from thermoq.evaluation.own_sampling import own_sampling
from thermoq.evaluation.pairs import PairedPass, run_beside, without_variance
from thermoq.optimization.correction import (
    NUM_BLOCKS,
    TEMPERATURE_GRID,
    FittedBins,
    PredictionMoments,
    TemperatureMoments,
    fit_bins,
    fit_temperatures,
    held_out_divergence,
    held_out_error,
)
from thermoq.output_correction import OutputCorrection
from thermoq.progress import NoSteps, StepProgress
from thermoq.schedule import TimeGroups
from thermoq.terms import CorrectionKind

MAX_SAMPLES = 64
_MAX_POSITIONS = 1 << 16  # for each of which sums are kept, by bin and block


@dataclass(frozen=True)
class FittedCorrection:
    """A correction; None where none did better on held-out samples.

    `held_out_errors`: squared error (of logits: KL) over that of the quantized model as it is, by
    kind of correction. `tau_squared`: the step variance of the gain's chain; None without steps.
    """

    correction: OutputCorrection | None
    held_out_errors: dict[str, float]
    tau_squared: float | None
    num_samples: int


def fit_output_correction(
    model: Path | str,
    quantized: Path | str | Sequence[nn.Module],
    description: Description,
    *,
    coupling: float = 1.0,
    samples: int | None = None,
    threads: int | None = None,
    progress: StepProgress | None = None,
) -> dict[str, FittedCorrection]:
    """Fit the correction of each component of `model` that runs along the trajectory, by its name.

    `quantized` is the quantized directory, without a correction, or its modules as they take the
    place of the original ones (a language model's without `thermoq.load`'s alignment).
    `description` is the calibration's: sampler steps, guidance, seed and bins are the same here;
    `samples` None: as many as it had, at most 64.

    Raises InputError for a model that cannot be run, or predicts NaN; UsageError as `calibrate`.
    """
    count = samples if samples is not None else min(description.num_samples, MAX_SAMPLES)
    with torch_settings(threads):
        sampling = own_sampling(model, description, count)
        modules, bins = sampling.modules(quantized), sampling.bins
        fits: Sequence[_Logits | _Predictions]
        if sampling.is_language:
            fits = [_Logits(sampling.checkpoint, bins) for _ in modules]
        else:
            fits = [_Predictions(bins) for _ in modules]

        def seen(one: PairedPass) -> None:
            fits[one.number].add(one)

        steps = progress or NoSteps()
        run_beside(sampling.job, modules, seen, "correcting", steps, sampling.at_timesteps)
    names = [part.name for part in sampling.checkpoint.components]
    return {name: fit.fitted(coupling, count) for name, fit in zip(names, fits, strict=True)}


class _Predictions:
    """Moments of a denoiser's predictions, by position as long as their size is one and small."""

    def __init__(self, bins: TimeGroups) -> None:
        self._bins = bins
        self._shape: tuple[int, ...] | None = None
        self._channels: PredictionMoments | None = None
        self._positions: PredictionMoments | None = None

    def add(self, one: PairedPass) -> None:
        """Take in a pass."""
        pair = [without_variance(x, one.arguments) for x in (one.quantized, one.full)]
        quantized, full = (x.detach().double().cpu() for x in pair)
        if self._shape is None:
            self._begin(tuple(full.shape[1:]))
        if tuple(full.shape[1:]) != self._shape:
            self._positions = None
        for i, (sample, timestep) in enumerate(zip(one.samples, one.timesteps, strict=True)):
            at = int(sample) % NUM_BLOCKS, self._bins.group_of(float(timestep))
            q, y = (_by_channel(x[i]).numpy() for x in (quantized, full))
            assert self._channels is not None
            self._channels.add(*at, q, y)
            if self._positions is not None:
                flat = [x[i].reshape(1, -1).numpy() for x in (quantized, full)]
                self._positions.add(*at, *flat)

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        num_channels = shape[_channel_axis(len(shape))]
        self._channels = PredictionMoments.empty(len(self._bins), num_channels)
        if int(np.prod(shape)) <= _MAX_POSITIONS and len(shape) > 1:
            self._positions = PredictionMoments.empty(len(self._bins), int(np.prod(shape)))

    def fitted(self, coupling: float, num_samples: int) -> FittedCorrection:
        """Return the kind of correction with the least held-out error, fitted to all samples."""
        options = {"channel": self._channels, "position": self._positions}
        known = {kind: one for kind, one in options.items() if one is not None}
        errors = {"none": 1.0}
        errors |= {kind: held_out_error(one, coupling) for kind, one in known.items()}
        best = min(errors, key=lambda kind: errors[kind])
        if best == "none":
            return FittedCorrection(None, errors, None, num_samples)
        fit = fit_bins(known[best], np.ones(NUM_BLOCKS, bool), coupling)
        assert self._shape is not None
        kind: CorrectionKind = "position" if best == "position" else "channel"
        shape = self._shape if kind == "position" else (-1,)
        correction = _correction(self._bins, kind, fit, shape)
        return FittedCorrection(correction, errors, fit.tau_squared, num_samples)


class _Logits:
    """Moments of a language model's logits at masked positions."""

    def __init__(self, checkpoint: Checkpoint, bins: TimeGroups) -> None:
        config = read_config(checkpoint.components[0].config or {}, checkpoint.directory)
        self._mask = config.mask_token_id
        self._shifts = config.logits_shift
        self._bins = bins
        self._moments = TemperatureMoments.empty(len(bins))

    def add(self, one: PairedPass) -> None:
        """Take in a pass."""
        args, kwargs = one.arguments
        hidden = (args[0] if args else kwargs["input_ids"]) == self._mask
        if self._shifts:
            hidden[:, 0] = False
        pair = [aligned(x) if self._shifts else x for x in (one.quantized, one.full)]
        for i, (sample, timestep) in enumerate(zip(one.samples, one.timesteps, strict=True)):
            quantized, full = (x[i][hidden[i]].double() for x in pair)
            if len(full):
                at = int(sample) % NUM_BLOCKS, self._bins.group_of(float(timestep))
                self._moments.add(*at, len(full), *divergences(quantized, full))

    def fitted(self, coupling: float, num_samples: int) -> FittedCorrection:
        """Return the inverse temperatures, unless they help nothing on held-out samples."""
        errors = {"none": 1.0, "logits": held_out_divergence(self._moments, coupling)}
        if not errors["logits"] < 1.0:
            return FittedCorrection(None, errors, None, num_samples)
        fit = fit_temperatures(self._moments, np.ones(NUM_BLOCKS, bool), coupling)
        correction = _correction(self._bins, "logits", fit, ())
        return FittedCorrection(correction, errors, fit.tau_squared, num_samples)


def divergences(quantized: Tensor, full: Tensor) -> tuple[Any, Any]:
    """Return KL and its derivative by the gain on the quantized logits, at each of the grid's.

    Logits are [tokens, vocabulary]; both results [gains] are sums over tokens. With p of the
    full-precision model and q of softmax(gain z): `dKL / dgain = sum q z - sum p z`.
    """
    log_p = full.log_softmax(-1)
    p = log_p.exp()
    expected = (p * quantized).sum()
    values, slopes = [], []
    for gain in TEMPERATURE_GRID:
        log_q = (quantized * float(gain)).log_softmax(-1)
        values.append(float((p * (log_p - log_q)).sum()))
        slopes.append(float((log_q.exp() * quantized).sum() - expected))
    return np.array(values), np.array(slopes)


def _correction(
    bins: TimeGroups, kind: CorrectionKind, fit: FittedBins, shape: tuple[int, ...]
) -> OutputCorrection:
    bias = None if fit.bias is None else fit.bias.astype(np.float32).reshape(len(bins), *shape)
    return OutputCorrection(bins, kind, fit.gain.astype(np.float32), bias)


def _channel_axis(dimensions: int) -> int:
    """Return where channels lie in a sample: first, or last of [tokens, channels]."""
    return 1 if dimensions == 2 else 0


def _by_channel(sample: Tensor) -> Tensor:
    """Return a sample as [positions, channels]."""
    if sample.dim() == 2:
        return sample
    return sample.reshape(len(sample), -1).T if sample.dim() > 1 else sample.reshape(1, -1)
