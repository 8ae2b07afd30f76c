"""A made-up checkpoint of one wide layer, and its calibration."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from layer import made_up
from safetensors.torch import save_file
from thermoq.calibration.file import Calibration, Description, fine_bins, write_calibration
from thermoq.calibration.matching import calibrated_component
from thermoq.calibration.statistics import PERCENTILE_LEVELS, InputStatistics
from thermoq.checkpoint import MappedFiles, open_checkpoint
from thermoq.schedule import schedule_for

WIDTH = 3584
NAME = "transformer_blocks.0.attn1.to_q.weight"
BINS, ROWS = 20, 100
DRIFT = 0.5  # by which inputs grow along the trajectory


def calibrated_layer(place: Path) -> tuple[Path, Path]:
    """Write the checkpoint and its calibration into `place`, and return both paths."""
    weight, inputs = made_up(WIDTH, WIDTH, BINS * ROWS)
    model, path = place / "model", place / "calibration.safetensors"
    model.mkdir()
    config = {"_class_name": "DiTTransformer2DModel", "num_layers": 1}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(
        {NAME: torch.from_numpy(weight).half()}, model / "diffusion_pytorch_model.safetensors"
    )
    statistics = InputStatistics(WIDTH, BINS, ROWS, 0, NAME)
    for number in range(BINS):
        rows = inputs[number * ROWS : (number + 1) * ROWS]
        statistics.add(number, rows * (1 + DRIFT * number / BINS))
    checkpoint = open_checkpoint(model)
    schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
    with MappedFiles() as files:
        noted = {part.name: calibrated_component(part, files) for part in checkpoint.components}
    description = Description(
        thermoq_version="0.1.0",
        components=noted,
        schedule_kind=schedule.kind,
        num_timesteps=schedule.num_timesteps,
        bin_starts=fine_bins(schedule.num_timesteps, BINS).starts,
        percentile_levels=PERCENTILE_LEVELS,
        sampler="made up",
        steps=BINS,
        seed=0,
        num_samples=8,
        rows_per_bin=ROWS,
        layers={NAME: NAME},
    )
    write_calibration(path, Calibration(description, {NAME: statistics.finish()}))
    return model, path
