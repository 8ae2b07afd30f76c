"""The two models of an evaluation: what is needed of both, and whether they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from thermoq.checkpoint import Checkpoint, MappedFiles, open_checkpoint
from thermoq.checkpoint.layout import DENOISERS
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.fingerprint import Fingerprint
from thermoq.schedule import TimeGroups

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Pair:
    """A checkpoint and what it was quantized to; `quantized` are all components of the latter."""

    full: Checkpoint
    quantized: tuple[QuantizedComponent, ...]
    fingerprint: str

    @property
    def time_groups(self) -> TimeGroups:
        """The time groups of the quantized model."""
        table = self.quantized[0].manifest.time_groups
        return TimeGroups(table.num_timesteps, table.time_group_starts)

    @property
    def quantized_fingerprint(self) -> str:
        """A hash of the checksums of all that is stored."""
        digest = xxhash.xxh3_128()
        for part in self.quantized:
            digest.update(part.manifest.model_dump_json(exclude={"report"}).encode())
        return f"xxh3-128:{digest.hexdigest()}"

    def running(self) -> list[QuantizedComponent]:
        """Return the quantized components that run along the trajectory, as `full` has them."""
        if len(self.full.components) == len(self.quantized) == 1:
            return list(self.quantized)
        by_name = {part.component.name: part for part in self.quantized}
        return [by_name[part.name] for part in self.full.components if part.name in by_name]


def open_pair(model: Path, quantized: Path) -> Pair:
    """Open both directories and check that one was made of the other: all weights are read.

    Raises InputError for a directory that is not quantized, and for one of another model.
    """
    _, parts = open_quantized(quantized)
    names = [part.component.name for part in parts]
    everything = open_checkpoint(model, [n for n in names if n and n not in DENOISERS])
    found = _fingerprint(everything)
    for part in parts:
        _check_made_of(part, found, model)
    full = open_checkpoint(model) if len(everything.components) > 1 else everything
    return Pair(full, parts, found)


def load_quantized(parts: Sequence[QuantizedComponent], precision: str) -> list[nn.Module]:
    """Return the quantized components as modules that take what the original ones take."""
    from thermoq.runtime.loading import load

    return [load(part.component.directory, dtype=precision) for part in parts]


def _fingerprint(checkpoint: Checkpoint) -> str:
    fingerprint = Fingerprint()
    with MappedFiles() as files:
        for component in checkpoint.components:
            for tensor in component.tensors.values():
                fingerprint.add(component.name, tensor, files.bytes(tensor))
                files.release(tensor)
    return fingerprint.value()


def _check_made_of(part: QuantizedComponent, found: str, model: Path) -> None:
    provenance = part.manifest.report.get("provenance")
    noted = provenance.get("input_fingerprint") if isinstance(provenance, dict) else None
    if noted != found:
        raise bad_file(
            part.component.directory,
            f"expected a checkpoint quantized from the weights in {model} ({found}), got one from "
            f"other weights ({shown(noted) if noted is None else noted})",
        )
