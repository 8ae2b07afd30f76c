"""`verify`: re-read everything that a quantized checkpoint holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.carry import CONFIG_NAME, QUANTIZATION_KEY
from thermoq.checkpoint.manifest import QuantizedTensor, manifest_path
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.reader import MappedFiles, StoredTensor
from thermoq.checkpoint.untrusted import bad_file, bad_tensor, shown
from thermoq.progress import NoProgress, Progress
from thermoq.weights import matrix_shape


@dataclass(frozen=True)
class Verification:
    """What was found in order."""

    directory: Path
    components: tuple[str, ...]
    num_tensors: int
    num_quantized: int
    nbytes: int


def verify(directory: Path | str, *, progress: Progress | None = None) -> Verification:
    """Check a directory that thermoq wrote: headers, manifest, checksums and parameters.

    Raises InputError that names the first bad tensor.
    """
    progress = progress or NoProgress()
    root = Path(directory)
    _, components = open_quantized(root)
    for component in components:
        _verify_folder(component)
    progress.start(
        "verify",
        sum(len(part.manifest.tensors) for part in components),
        sum(t.nbytes for part in components for t in part.component.tensors.values()),
    )
    nbytes = 0
    with MappedFiles() as files:
        for component in components:
            nbytes += _verify_trajectory(component, files)
            for name in component.names():
                checked = 0
                if component.manifest.tensors[name].same_as is None:
                    checked = verify_tensor(component, name, files)
                    component.release(name, files)
                checked += _verify_time_parameters(component, name, files)
                nbytes += checked
                progress.advance(name, checked)
    entries = [entry for part in components for entry in part.manifest.tensors.values()]
    return Verification(
        root,
        tuple(part.component.name for part in components),
        len(entries),
        sum(isinstance(entry, QuantizedTensor) for entry in entries),
        nbytes,
    )


def _verify_folder(quantized: QuantizedComponent) -> None:
    """Check that the manifest belongs here, and that config.json says the same."""
    component, manifest = quantized.component, quantized.manifest
    # A component may also be looked at by itself, as the root.
    names = [component.name or component.directory.resolve().name, component.name]
    if manifest.component not in names:
        problem = f"component: expected {shown(names[-1])}, got {shown(manifest.component)}"
        raise bad_file(manifest_path(component.directory), problem)
    path = component.directory / CONFIG_NAME
    entry = (component.config or {}).get(QUANTIZATION_KEY)
    if not isinstance(entry, dict):
        raise bad_file(path, f"expected a {QUANTIZATION_KEY}, got {shown(entry)}")
    for key, expected in (
        ("quant_method", manifest.format),
        ("format_version", manifest.format_version),
        ("bit_width", manifest.bit_width),
    ):
        if entry.get(key) != expected:
            got = shown(entry.get(key))
            raise bad_file(path, f"{QUANTIZATION_KEY}.{key}: expected {shown(expected)}, got {got}")


def verify_tensor(component: QuantizedComponent, name: str, files: MappedFiles) -> int:
    """Check the stored parts of one tensor and return their bytes.

    Raises InputError unless the checksum holds and the parameters make sense.
    """
    entry = component.manifest.tensors[name]
    digest = hashlib.sha256()
    parts = component.parts(name)
    for part in parts:
        data = files.bytes(part)
        digest.update(data.data)
        if isinstance(entry, QuantizedTensor):
            _verify_values(part, data)
            _verify_spare_bits(entry, part, data)
    if digest.hexdigest() != entry.sha256:
        raise bad_tensor(
            parts[0].path,
            name,
            f"expected the checksum {entry.sha256}, got {digest.hexdigest()}: the file has changed",
        )
    return sum(part.nbytes for part in parts)


def _verify_time_parameters(component: QuantizedComponent, name: str, files: MappedFiles) -> int:
    """Check what of one tensor varies along the trajectory, if anything, and return its bytes."""
    component.activation(name, files)
    component.rows(name, files)
    return sum(part.nbytes for part in component.time_parts(name))


def _verify_trajectory(component: QuantizedComponent, files: MappedFiles) -> int:
    """Check the schedule and the correction of the prediction; return the bytes of the latter."""
    component.schedule()
    component.output_correction(files)
    return sum(part.nbytes for part in component.output_parts())


def _verify_values(part: StoredTensor, data: NDArray[np.uint8]) -> None:
    """Check what a checksum cannot: that the numbers make sense at all."""
    suffix = part.name.rpartition(".")[2]
    if part.dtype == "F16":
        values = np.array(data).view(np.float16)
        if not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise bad_tensor(
                part.path, part.name, f"expected finite values, got {bad} that are not"
            )
        if suffix in ("scale", "super_scale") and (values < 0).any():
            raise bad_tensor(part.path, part.name, f"expected scales >= 0, got {values.min()}")
    elif part.dtype == "I8" and (data == 0x80).any():
        raise bad_tensor(part.path, part.name, "expected codes in [-127, 127], got -128")


def _verify_spare_bits(entry: QuantizedTensor, part: StoredTensor, data: NDArray[np.uint8]) -> None:
    """Check that the bits after a row's last packed code, or the end of a stream, are 0."""
    if part.dtype != "U8":
        return
    if entry.encoding == "trellis":
        _verify_stream_ends(entry, part, data)
        return
    rows, cols = matrix_shape(entry.shape, entry.row_dimension)
    groups = -(-cols // entry.group_size)
    bits = {
        "codes": cols * entry.bit_width,
        "scale_codes": groups * (entry.scale_bits or 0),
        "minimum_codes": groups * (entry.minimum_bits or 0),
    }
    used = bits[part.name.rpartition(".")[2]] % 8
    if not used:
        return
    spare = data.reshape(rows, -1)[:, -1] >> used
    if spare.any():
        row = int(np.flatnonzero(spare)[0])
        problem = f"expected 0 in the bits after the last code of row {row}, got {spare[row]:#b}"
        raise bad_tensor(part.path, part.name, problem)


def _verify_stream_ends(
    entry: QuantizedTensor, part: StoredTensor, data: NDArray[np.uint8]
) -> None:
    rows, cols = matrix_shape(entry.shape, entry.row_dimension)
    trellis, start = entry.scheme.trellis, 0
    for first in range(0, rows, trellis.block_rows):
        num_rows = min(trellis.block_rows, rows - first)
        size = trellis.stream_bytes(num_rows)
        streams = data[start : start + cols * size].reshape(cols, size)
        start += cols * size
        used = trellis.stream_bits(num_rows) % 8
        spare = streams[:, -1] >> used if used else np.zeros(0, np.uint8)
        if spare.any():
            column = int(np.flatnonzero(spare)[0])
            problem = f"expected 0 in the bits after the stream of column {column} from row {first}"
            raise bad_tensor(part.path, part.name, f"{problem}, got {spare[column]:#b}")
