"""Changing what varies along the trajectory in a component that is written already.

The small shard of time parameters is rewritten, then the index, then the manifest: each file is
replaced at once, the three of them are not, so this is for a directory that nobody reads yet. Open
the component anew afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.manifest import QuantizedTensor, manifest_path, write_manifest
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.checkpoint.time_parts import (
    activation_arrays,
    activation_parts,
    output_parts,
    row_arrays,
    row_parts,
)
from thermoq.checkpoint.trajectory_entries import OutputCorrectionEntry
from thermoq.checkpoint.untrusted import bad_file, bad_tensor
from thermoq.checkpoint.writer import (
    StoredPart,
    WrittenFiles,
    rewrite_shard,
    write_index,
)
from thermoq.output_correction import OutputCorrection
from thermoq.time_parameters import RowParameters, TimeParameters

LayerTime = tuple[TimeParameters, RowParameters | None]
"""A layer's ranges, and its row gains and biases if it has any."""


def add_output_correction(quantized: QuantizedComponent, correction: OutputCorrection) -> None:
    """Store `correction` with a component of phase optimize, in place of the one it may have.

    Raises ValueError for bins that do not span the component's trajectory, InputError for a
    component without a shard of time parameters.
    """
    manifest, component = quantized.manifest, quantized.component
    if correction.bins.num_timesteps != manifest.time_groups.num_timesteps:
        wanted, got = manifest.time_groups.num_timesteps, correction.bins.num_timesteps
        raise ValueError(f"expected bins over {wanted} timesteps, got {got}")
    shard = _late_shard(quantized)
    arrays: list[NDArray[np.generic]] = [correction.gain.astype(np.float16)]
    if correction.bias is not None:
        arrays.append(correction.bias.astype(np.float16))
    added = output_parts(
        len(correction.bins), None if correction.bias is None else correction.bias.shape
    )
    replaced = {part.name for part in quantized.output_parts()}
    for part in added:
        if part.name in manifest.tensors:
            problem = "expected a name that the output correction can have, got a tensor's"
            raise bad_tensor(component.tensors[part.name].path, part.name, problem)
    _rewrite(quantized, shard, replaced, added, arrays)
    entry = OutputCorrectionEntry(
        bin_starts=correction.bins.starts, kind=correction.kind, sha256=_sha256(arrays)
    )
    write_manifest(manifest.model_copy(update={"output_correction": entry}), component.directory)


def replace_time_parameters(
    quantized: QuantizedComponent, changed: Mapping[str, LayerTime]
) -> None:
    """Give layers of a component of phase optimize other time parameters, by tensor name.

    Raises InputError for a component without a shard of time parameters.
    """
    manifest, shard = quantized.manifest, _late_shard(quantized)
    replaced: set[str] = set()
    added: list[StoredPart] = []
    arrays: list[NDArray[np.generic]] = []
    entries = dict(manifest.tensors)
    for name, (activation, rows) in changed.items():
        entry = entries[name]
        assert isinstance(entry, QuantizedTensor)  # others have no time parameters
        replaced |= {part.name for part in quantized.time_parts(name)}
        ranges = activation_arrays(activation)
        values = [] if rows is None else row_arrays(rows)
        added += activation_parts(name, len(activation.scale))
        if rows is not None:
            added += row_parts(name, *rows.gain.shape)
        arrays += [*ranges, *values]
        update = {
            "activation_sha256": _sha256(ranges),
            "time_groups_of_rows": None if rows is None else rows.num_groups,
            "time_sha256": None if rows is None else _sha256(values),
        }
        entries[name] = entry.model_copy(update=update)
    _rewrite(quantized, shard, replaced, tuple(added), arrays)
    write_manifest(manifest.model_copy(update={"tensors": entries}), quantized.component.directory)


def files_of(quantized: QuantizedComponent) -> WrittenFiles:
    """Return the safetensors files of a component as they lie on the disk now."""
    component = quantized.component
    paths = tuple(path for path in component.files if path.suffix == ".safetensors")
    total = sum(path.stat().st_size for path in paths)
    return WrittenFiles(paths, total, total - sum(t.nbytes for t in component.tensors.values()))


def _late_shard(quantized: QuantizedComponent) -> Path:
    """Return the file that holds all time parameters and nothing else."""
    names = quantized.manifest.tensors
    parts = [part for name in names for part in quantized.activation_parts(name)]
    parts += [part for name in names for part in quantized.row_parts(name)]
    paths = {part.path for part in parts}
    mine = {part.name for part in [*parts, *quantized.output_parts()]}
    stored = quantized.component.tensors.values()
    if len(paths) != 1 or any(part.path in paths and part.name not in mine for part in stored):
        raise bad_file(
            manifest_path(quantized.component.directory),
            "expected time parameters in one shard of their own, as phase optimize writes them, "
            "got others",
        )
    return paths.pop()


def _rewrite(
    quantized: QuantizedComponent,
    shard: Path,
    replaced: Collection[str],
    added: tuple[StoredPart, ...],
    arrays: Sequence[NDArray[np.generic]],
) -> None:
    """Write the shard and the index anew, with `added` instead of what is `replaced`."""
    component = quantized.component
    stored = [part for part in component.tensors.values() if part.name not in replaced]
    kept = [part for part in stored if part.path == shard]
    with MappedFiles() as files:
        old = [np.array(files.bytes(part)) for part in kept]
    parts = [*(StoredPart(part.name, part.dtype, part.shape) for part in kept), *added]
    rewrite_shard(shard, parts, [*old, *arrays])
    weight_map = {part.name: part.path.name for part in stored}
    weight_map |= {part.name: shard.name for part in added}
    total = sum(part.nbytes for part in stored) + sum(part.nbytes for part in added)
    write_index(component.directory, component.stem, weight_map, total)


def _sha256(arrays: Sequence[NDArray[np.generic]]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
