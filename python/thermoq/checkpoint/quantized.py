"""Reading a quantized checkpoint back: its manifests, its stored parts, its decoded weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.layout import Checkpoint, open_checkpoint
from thermoq.checkpoint.manifest import (
    CopiedTensor,
    Manifest,
    QuantizedTensor,
    TensorEntry,
    check_checksum,
    manifest_path,
    parse_manifest,
    read_content,
)
from thermoq.checkpoint.reader import Component, MappedFiles, StoredTensor
from thermoq.checkpoint.stored_time import (
    read_activation,
    read_output_correction,
    read_rows,
    read_schedule,
)
from thermoq.checkpoint.time_parts import (
    OUTPUT_BIAS,
    OUTPUT_GAIN,
    activation_parts,
    output_parts,
    row_parts,
)
from thermoq.checkpoint.untrusted import bad_tensor, shown
from thermoq.checkpoint.writer import StoredPart
from thermoq.interpolation import TimeSchedule
from thermoq.output_correction import OutputCorrection, fits_kind
from thermoq.rotation import Rotation
from thermoq.time_parameters import RowParameters, TimeParameters
from thermoq.weights import QuantizedMatrix, dequantize, from_matrix, matrix_shape

_ARRAY_DTYPES = {"F16": np.float16, "U8": np.uint8, "I8": np.int8}


def stored_parts(name: str, entry: TensorEntry) -> tuple[StoredPart, ...]:
    """Return the parts that hold tensor `name`, in the order of its checksum."""
    if isinstance(entry, CopiedTensor):
        return (StoredPart(name, entry.source_dtype, entry.shape),)
    rows, cols = matrix_shape(entry.shape, entry.row_dimension)
    parts = entry.scheme.stored_parts(rows, cols)
    return tuple(StoredPart(f"{name}.{suffix}", *part) for suffix, part in parts.items())


def _activation_parts(name: str, manifest: Manifest) -> tuple[StoredPart, ...]:
    entry = manifest.tensors[name]
    has_some = not isinstance(entry, CopiedTensor) and entry.activation_sha256 is not None
    return activation_parts(name, len(manifest.time_groups.time_group_starts) if has_some else 0)


def _row_parts(name: str, manifest: Manifest) -> tuple[StoredPart, ...]:
    entry = manifest.tensors[name]
    if isinstance(entry, CopiedTensor):
        return ()
    num_rows, _ = matrix_shape(entry.shape, entry.row_dimension)
    return row_parts(name, entry.time_groups_of_rows or 0, num_rows)


@dataclass(frozen=True)
class QuantizedComponent:
    """A component with its manifest; every tensor's parts are there, in dtype and shape."""

    component: Component
    manifest: Manifest

    def parts(self, name: str) -> list[StoredTensor]:
        """Return where the parts of tensor `name` lie, wherever its bytes are stored."""
        entry = self.manifest.tensors[name]
        owner = entry.same_as or name
        return [
            self.component.tensors[part.name]
            for part in stored_parts(owner, self.manifest.tensors[owner])
        ]

    def activation_parts(self, name: str) -> list[StoredTensor]:
        """Return where the activation parameters of tensor `name` lie; none if it has none."""
        parts = _activation_parts(name, self.manifest)
        return [self.component.tensors[part.name] for part in parts]

    def activation_bits(self, name: str) -> int | None:
        """Return the bits of the inputs of tensor `name`; None if they are not quantized."""
        entry = self.manifest.tensors[name]
        if not isinstance(entry, QuantizedTensor) or entry.activation_sha256 is None:
            return None
        return entry.activation_bits or self.manifest.activation_bits

    def row_parts(self, name: str) -> list[StoredTensor]:
        """Return where the row gains and biases of tensor `name` lie; none if it has none."""
        return [self.component.tensors[part.name] for part in _row_parts(name, self.manifest)]

    def time_parts(self, name: str) -> list[StoredTensor]:
        """Return where all lies that varies along the trajectory of tensor `name`."""
        return [*self.activation_parts(name), *self.row_parts(name)]

    def output_parts(self) -> list[StoredTensor]:
        """Return where the gains and biases of the model's prediction lie, if there are any."""
        entry = self.manifest.output_correction
        if entry is None:
            return []
        names = (OUTPUT_GAIN,) if entry.kind == "logits" else (OUTPUT_GAIN, OUTPUT_BIAS)
        return [self.component.tensors[name] for name in names]

    def schedule(self) -> TimeSchedule:
        """Return the schedule that all time parameters of the component follow."""
        return read_schedule(self)

    def activation(self, name: str, files: MappedFiles | None = None) -> TimeParameters | None:
        """Return the activation parameters of tensor `name`, in float64; None if it has none.

        Raises InputError, as the next two, for a file that `verify` would refuse.
        """
        with _mapped(files) as mapped:
            return read_activation(self, name, mapped)

    def rows(self, name: str, files: MappedFiles | None = None) -> RowParameters | None:
        """Return the row gains and biases of tensor `name`, in f32; None if it has none."""
        with _mapped(files) as mapped:
            return read_rows(self, name, mapped)

    def output_correction(self, files: MappedFiles | None = None) -> OutputCorrection | None:
        """Return the correction of the model's prediction; None if there is none."""
        with _mapped(files) as mapped:
            return read_output_correction(self, mapped)

    def names(self) -> Iterator[str]:
        """Yield the original tensors' names in the order of their bytes in the files."""
        position = {name: i for i, name in enumerate(self.component.tensors)}
        names = self.manifest.tensors
        yield from sorted(names, key=lambda name: position[self.parts(name)[-1].name])

    def decode(
        self, name: str, files: MappedFiles, dtype: str | None = None, threads: int = 0
    ) -> NDArray[np.uint8]:
        """Return the bytes of the original tensor `name`, quantized ones decoded to `dtype`.

        `dtype` (None: the tensor's original one) is "F32", "F16" or "BF16". Copied tensors come as
        they are stored.
        """
        entry = self.manifest.tensors[name]
        if isinstance(entry, CopiedTensor):
            return files.bytes(self.parts(name)[0])
        decoded = dequantize(self.matrix(name, files), dtype or entry.source_dtype, threads=threads)
        return from_matrix(decoded, entry.shape, entry.row_dimension)

    def matrix(self, name: str, files: MappedFiles) -> QuantizedMatrix:
        """Return the codes and parameters of the quantized tensor `name`, as they are stored."""
        entry = self.manifest.tensors[name]
        assert not isinstance(entry, CopiedTensor)
        arrays: dict[str, NDArray[np.generic]] = {}
        for part in self.parts(name):
            raw = files.bytes(part)
            if part.dtype == "F16":  # few, and perhaps at an odd address
                raw = np.array(raw)
            array = raw.view(_ARRAY_DTYPES[part.dtype]).reshape(part.shape)
            arrays[part.name.rpartition(".")[2]] = array
        rows, cols = matrix_shape(entry.shape, entry.row_dimension)
        rotation = None if entry.rotation_seed is None else Rotation(entry.rotation_seed, cols)
        return QuantizedMatrix(entry.scheme, rows, cols, arrays, rotation)

    def release(self, name: str, files: MappedFiles) -> None:
        """Give the memory of the tensor's pages back."""
        for part in self.parts(name):
            files.release(part)


def _mapped(files: MappedFiles | None) -> contextlib.AbstractContextManager[MappedFiles]:
    """Return files that stay open, or ones for the length of a block."""
    return MappedFiles() if files is None else contextlib.nullcontext(files)


def is_quantized(component: Component) -> bool:
    """True if thermoq wrote the component."""
    return manifest_path(component.directory).is_file()


def open_quantized(directory: Path) -> tuple[Checkpoint, tuple[QuantizedComponent, ...]]:
    """Open a directory that thermoq wrote, and check manifests against headers.

    Raises InputError, naming the first tensor that does not fit.
    """
    checkpoint = open_checkpoint(directory, allow_quantized=True)
    extra = [
        path.parent.name
        for path in sorted(directory.glob(f"*/{manifest_path(Path()).name}"))
        if path.parent.name not in {part.name for part in checkpoint.components}
    ]
    if extra:  # components that --component added
        checkpoint = open_checkpoint(directory, extra, allow_quantized=True)
    return checkpoint, tuple(_open(part) for part in checkpoint.components)


def _open(component: Component) -> QuantizedComponent:
    content, path = read_content(component.directory), manifest_path(component.directory)
    quantized = QuantizedComponent(component, parse_manifest(content, path))
    _check(quantized)
    check_checksum(content, path)  # last: whatever is wrong by itself has a better message
    return quantized


def _check(quantized: QuantizedComponent) -> None:
    """Check that manifest and headers agree both ways."""
    entries, tensors = quantized.manifest.tensors, quantized.component.tensors
    path = manifest_path(quantized.component.directory)
    expected: set[str] = set()
    for name, entry in entries.items():
        manifest = quantized.manifest
        for part in (*_activation_parts(name, manifest), *_row_parts(name, manifest)):
            expected.add(part.name)
            _check_part(path, part, tensors)
        if entry.same_as is not None:
            _check_alias(path, name, entry, entries)
            continue
        for part in stored_parts(name, entry):
            expected.add(part.name)
            _check_part(path, part, tensors)
    _check_output_correction(path, quantized)
    for name, tensor in tensors.items():
        if name not in expected and not _is_addition(name, entries):
            raise bad_tensor(tensor.path, name, f"expected an entry in {path.name}, got none")


def _check_output_correction(path: Path, quantized: QuantizedComponent) -> None:
    """Check that what the manifest says of a correction is stored, in shapes that its kind has."""
    entry, tensors = quantized.manifest.output_correction, quantized.component.tensors
    if entry is None:
        return
    num_bins, bias = len(entry.bin_starts), tensors.get(OUTPUT_BIAS)
    for part in output_parts(num_bins, None if bias is None else bias.shape):
        _check_part(path, part, tensors)
    if not fits_kind(entry.kind, num_bins, None if bias is None else bias.shape):
        got = "none" if bias is None else list(bias.shape)
        problem = f"expected biases of {num_bins} bins that fit the kind {entry.kind}, got {got}"
        raise bad_tensor(path.parent, OUTPUT_BIAS, problem)


def _is_addition(name: str, entries: dict[str, TensorEntry]) -> bool:
    """Tell whether this may be an addition: `NAME.something` or `thermoq.something`."""
    if name.startswith("thermoq."):
        return True
    return any(name[:i] in entries for i, letter in enumerate(name) if letter == ".")


def _check_alias(
    path: Path, name: str, entry: TensorEntry, entries: dict[str, TensorEntry]
) -> None:
    original = entries.get(entry.same_as or "")
    if original is None or original.same_as is not None:
        raise bad_tensor(
            path, name, f"expected same_as to name a stored tensor, got {shown(entry.same_as)}"
        )
    of_inputs = ("activation_sha256", "activation_bits", "time_groups_of_rows", "time_sha256")
    same = dict.fromkeys(("same_as", "sha256", *of_inputs))
    ignored = {"reason"} if isinstance(entry, CopiedTensor) else {"layer_class"}
    one = entry.model_copy(update=same).model_dump(exclude=ignored)
    other = original.model_copy(update=same).model_dump(exclude=ignored)
    if one != other:
        raise bad_tensor(path, name, f"expected the shape and encoding of {shown(entry.same_as)}")


def _check_part(path: Path, part: StoredPart, tensors: dict[str, StoredTensor]) -> None:
    stored = tensors.get(part.name)
    if stored is None:
        raise bad_tensor(path.parent, part.name, "missing from the safetensors files")
    if (stored.dtype, stored.shape) != (part.dtype, part.shape):
        raise bad_tensor(
            stored.path,
            part.name,
            f"expected {part.dtype} {list(part.shape)}, got {stored.dtype} {list(stored.shape)}",
        )
