"""Reading a quantized checkpoint back: its manifests, its stored parts, its decoded weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.layout import Checkpoint, open_checkpoint
from thermoq.checkpoint.manifest import (
    CopiedTensor,
    Manifest,
    TensorEntry,
    check_checksum,
    manifest_path,
    parse_manifest,
    read_content,
)
from thermoq.checkpoint.reader import Component, MappedFiles, StoredTensor
from thermoq.checkpoint.untrusted import bad_tensor, shown
from thermoq.checkpoint.writer import StoredPart, activation_parts
from thermoq.rotation import Rotation
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
        for part in _activation_parts(name, quantized.manifest):
            expected.add(part.name)
            _check_part(path, part, tensors)
        if entry.same_as is not None:
            _check_alias(path, name, entry, entries)
            continue
        for part in stored_parts(name, entry):
            expected.add(part.name)
            _check_part(path, part, tensors)
    for name, tensor in tensors.items():
        if name not in expected and not _is_addition(name, entries):
            raise bad_tensor(tensor.path, name, f"expected an entry in {path.name}, got none")


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
    same = {"same_as": None, "sha256": None, "activation_sha256": None}
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
