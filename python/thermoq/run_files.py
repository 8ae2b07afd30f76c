"""What a run writes beside the weights, and how large all of it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermoq.activations import Activations
from thermoq.build import version
from thermoq.checkpoint import Checkpoint, stored_tensors
from thermoq.checkpoint.carry import QUANTIZATION_KEY
from thermoq.checkpoint.manifest import Manifest, manifest_path, version_for, write_manifest
from thermoq.checkpoint.trajectory_entries import (
    OutputCorrectionEntry,
    ScheduleEntry,
    SmoothingEntry,
    TimeGroupTable,
)
from thermoq.config import QuantizationConfig
from thermoq.errors import InputError
from thermoq.plan import weight_files
from thermoq.report.model import Sizes
from thermoq.summary import sizes
from thermoq.validation import Trajectory
from thermoq.work import ComponentResult


def component_configs(
    checkpoint: Checkpoint, config: QuantizationConfig, results: Sequence[ComponentResult]
) -> dict[str, dict[str, Any] | None]:
    """Return each component's config.json with the entry that loaders look for.

    What it says of the encoding holds for most of the body; the manifest has each tensor's.
    """
    choice, bits = config.encoding_choice, config.bit_width
    entry = {
        "thermoq_version": version(),
        "bit_width": config.bit_width,
        "encoding": choice.encoding_of(bits),
        "group_size": choice.group_size_of(bits),
        **_of_coded(config),
        **_of_trellis(config),
        "method": config.resolved_method,
        **({"rotation": "hadamard"} if config.resolved_rotation == "hadamard" else {}),
        "phase": config.thermodynamic.phase,
        "num_time_groups": config.num_time_groups,
        "activation_bits": config.activation_bits,
    }
    versions = {result.plan.component.name: version_for(result.entries) for result in results}
    return {
        part.name: {
            **(part.config or {}),
            QUANTIZATION_KEY: {
                "quant_method": "thermoq",
                "format_version": versions[part.name],
                **entry,
            },
        }
        for part in checkpoint.components
    }


def _of_coded(config: QuantizationConfig) -> dict[str, int | None]:
    """Return the keys that say how coded matrices are stored; none if the body is not coded."""
    choice, bits = config.encoding_choice, config.bit_width
    if choice.encoding_of(bits) != "coded":
        return {}
    return {
        "super_block": config.super_block,  # null: by the length of the row
        "scale_bits": choice.scale_bits_of(bits),
        "minimum_bits": choice.minimum_bits_of(bits),
    }


def _of_trellis(config: QuantizationConfig) -> dict[str, int]:
    """Return the key that says how trellis codes are read; none if the body has none."""
    window_bits = config.encoding_choice.window_bits_of(config.bit_width)
    return {} if window_bits is None else {"window_bits": window_bits}


def sizes_of(
    checkpoint: Checkpoint,
    results: Sequence[ComponentResult],
    directory_bytes: int,
    output_correction_bytes: int,
) -> Sizes:
    """Return the sizes of the output; `directory_bytes` of it are in all files but manifests."""
    return sizes(
        [plan for result in results for plan in result.plan.tensors],
        source_bytes=sum(
            path.stat().st_size
            for result in results
            for path in weight_files(result.plan.component)
        ),
        model_bytes=sum(result.written.total_bytes for result in results),
        header_bytes=sum(result.written.header_bytes for result in results),
        directory_bytes=directory_bytes,
        output_correction_bytes=output_correction_bytes,
        carried_weights=sum(
            _num_weights(checkpoint.directory / path)
            for path in checkpoint.other_files
            if path.suffix == ".safetensors"
        ),
    )


def _num_weights(path: Path) -> int:
    """Return how many weights a carried file holds: none if it is not what its name says."""
    try:
        return sum(math.prod(tensor.shape) for tensor in stored_tensors(path).values())
    except InputError:
        return 0


@dataclass(frozen=True)
class ManifestWriter:
    """Writes the manifests of a run; `config` are the settings that hold for most of the body."""

    config: QuantizationConfig
    trajectory: Trajectory
    activations: Activations | None
    directory: Path

    def write(
        self,
        results: Sequence[ComponentResult],
        report: dict[str, Any],
        corrections: Mapping[str, OutputCorrectionEntry],
    ) -> None:
        """Write one for each component, all with the same `report`."""
        groups, schedule = self.trajectory.time_groups, self.trajectory.schedule
        for result in results:
            component = result.plan.component.name
            manifest = Manifest(
                format_version=version_for(result.entries),
                thermoq_version=version(),
                component=component,
                phase=self.config.thermodynamic.phase,
                method=self.config.resolved_method,
                bit_width=self.config.bit_width,
                time_groups=TimeGroupTable(
                    num_timesteps=groups.num_timesteps, time_group_starts=groups.starts
                ),
                schedule=ScheduleEntry(
                    kind=schedule.kind,
                    num_timesteps=schedule.num_timesteps,
                    description=schedule.description,
                ),
                activation_bits=self.config.activation_bits if self.activations else None,
                smoothing=self._smoothing(),
                output_correction=corrections.get(component),
                timestep_table=self._timestep_table(),
                tensors=result.entries,
                report=report,
            )
            write_manifest(manifest, self.directory / component)

    def remove(self, results: Sequence[ComponentResult]) -> None:
        """Take them away again: they were not the final ones."""
        for result in results:
            manifest_path(self.directory / result.plan.component.name).unlink()

    def _smoothing(self) -> SmoothingEntry | None:
        """Return Phase 2's schedule, if time parameters are stored that follow it."""
        schedule = self.trajectory.time_schedule
        if schedule.interpolation is None or self.activations is None:
            return None
        return SmoothingEntry(interpolation=schedule.interpolation, windows=schedule.windows)

    def _timestep_table(self) -> tuple[tuple[float, float], ...] | None:
        """Return the values that the calibration saw handed to the model, and their timesteps."""
        if self.activations is None:
            return None
        return self.activations.calibration.description.timestep_table
