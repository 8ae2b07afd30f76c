"""Calibrations of small checkpoints, drawn at random instead of measured; no torch in here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from thermoq.activations import layers_along_the_trajectory
from thermoq.calibration.file import (
    Calibration,
    Description,
    fine_bins,
    layer_name,
    write_calibration,
)
from thermoq.calibration.matching import calibrated_component
from thermoq.calibration.statistics import PERCENTILE_LEVELS, CalibratedInput, InputStatistics
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.config import load_config
from thermoq.schedule import schedule_for
from thermoq.weights import matrix_shape


def inputs_of(
    name: str, num_columns: int, bin: int, num_bins: int, num_rows: int, seed: int
) -> NDArray[np.float32]:
    """Rows whose spread and mean drift from bin to bin, in a way of the layer's own."""
    digest = hashlib.sha256(f"{seed}/{name}/{bin}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    kind = hashlib.sha256(name.encode()).digest()
    along = bin / max(1, num_bins - 1)
    spread = 0.5 + kind[0] / 255 * 3 * along
    drift = (kind[1] / 255 - 0.5) * 4 * along**2
    rows = draw.standard_normal((num_rows, num_columns)) * spread + drift
    return rows.astype(np.float32)


def statistics_of(
    rows_by_bin: Mapping[int, NDArray[np.float32]],
    *,
    num_bins: int = 20,
    rows_per_bin: int = 16,
    seed: int = 0,
    name: str = "layer",
) -> CalibratedInput:
    """The statistics of rows that all arrive at once."""
    num_columns = next(iter(rows_by_bin.values())).shape[1]
    statistics = InputStatistics(num_columns, num_bins, rows_per_bin, seed, name)
    for bin, rows in rows_by_bin.items():
        statistics.add(bin, rows)
    return statistics.finish()


def describe(layers: Mapping[str, str], **given: Any) -> Description:
    """What a calibration says of itself, over 1,000 timesteps of a Gaussian chain."""
    usual: dict[str, Any] = {
        "thermoq_version": "0.1.0",
        "components": {"": {"fingerprint": "xxh3-128:0", "architecture": "Example"}},
        "schedule_kind": "gaussian",
        "num_timesteps": 1000,
        "bin_starts": fine_bins(1000, given.pop("num_bins", 20)).starts,
        "percentile_levels": PERCENTILE_LEVELS,
        "sampler": "ExampleScheduler",
        "steps": 25,
        "seed": 0,
        "num_samples": 8,
        "rows_per_bin": 16,
        "layers": dict(layers),
    }
    return Description(**{**usual, **given})


def example_calibration(
    inputs: Mapping[str, CalibratedInput] | None = None, **given: Any
) -> Calibration:
    """A calibration of no model; each input is that of the layer with its name."""
    if inputs is None:
        rows = {bin: inputs_of("layer", 12, bin, 20, 40, 0) for bin in range(20)}
        inputs = {"layer": statistics_of(rows)}
    num_bins = next(iter(inputs.values())).num_bins
    layers = given.pop("layers", {name: name for name in inputs})
    return Calibration(describe(layers, num_bins=num_bins, **given), dict(inputs))


def calibrated(
    model: Path,
    path: Path,
    *,
    num_bins: int = 20,
    num_rows: int = 40,
    rows_per_bin: int = 16,
    seed: int = 0,
    left_out: Collection[str] = (),
    visited: Collection[int] | None = None,
) -> Calibration:
    """Write a calibration for `model`: all its layers but `left_out`, queries, keys and values
    sharing theirs; only the bins `visited` have rows.
    """
    checkpoint = open_checkpoint(model)
    schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
    inputs: dict[str, CalibratedInput] = {}
    layers: dict[str, str] = {}
    for (component, tensor), plan in layers_along_the_trajectory(
        checkpoint, load_config(None)
    ).items():
        name = layer_name(component, tensor)
        if name in left_out:
            continue
        shared = name.replace("to_k", "to_q").replace("to_v", "to_q")
        layers[name] = shared
        if shared not in inputs:
            _, cols = matrix_shape(plan.tensor.shape, plan.layer.row_dimension)
            rows = {
                bin: inputs_of(shared, cols, bin, num_bins, num_rows, seed)
                for bin in (range(num_bins) if visited is None else visited)
            }
            inputs[shared] = statistics_of(
                rows, num_bins=num_bins, rows_per_bin=rows_per_bin, seed=seed, name=shared
            )
    with MappedFiles() as files:
        noted = {part.name: calibrated_component(part, files) for part in checkpoint.components}
    description = describe(
        layers,
        components=noted,
        schedule_kind=schedule.kind,
        num_timesteps=schedule.num_timesteps,
        bin_starts=fine_bins(schedule.num_timesteps, num_bins).starts,
        seed=seed,
        rows_per_bin=rows_per_bin,
    )
    calibration = Calibration(description, inputs)
    write_calibration(path, calibration)
    return calibration
