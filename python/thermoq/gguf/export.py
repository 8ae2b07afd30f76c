"""One quantized component as one GGUF file, tensor after tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.manifest import CopiedTensor
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.gguf.layouts import Names, Target, layout
from thermoq.gguf.metadata import architecture, key_values
from thermoq.gguf.names import short_names
from thermoq.gguf.package import gguf_package
from thermoq.gguf.pieces import PieceEncoder
from thermoq.gguf.plan import Choice, Chooser, Fallback
from thermoq.gguf.result import GgufExport, GgufTensor, Outcome
from thermoq.progress import Progress
from thermoq.staging import published_together, refused, sync

Bytes = NDArray[np.uint8]

_ACTIVATION = "activation parameters"
_ROWS = "row gains and biases"
_OUTPUT = "output correction"


@dataclass(frozen=True)
class GgufOptions:
    """How tensors are called, and what becomes of those that no block type holds."""

    names: Names = "checkpoint"
    fallback: Fallback | None = None
    threads: int = 0


def write_gguf(
    part: QuantizedComponent,
    target: Path,
    options: GgufOptions,
    *,
    name: str,
    overwrite: bool,
    progress: Progress,
) -> GgufExport:
    """Write `part` to the file `target`, which appears complete or not at all.

    Memory: a few times the largest tensor. Raises InputError as `verify` does, for a tensor that
    GGUF cannot hold, and where the disk refuses.
    """
    config = part.component.config or {}
    targets = layout(list(part.names()), options.names, config.get("_class_name"))
    with published_together() as staging, MappedFiles() as files:
        temporary = staging.add(target, replace=overwrite).temporary
        try:
            export = _Export(part, files, options, progress)
            choices = export.choose(targets)
            rows = export.write(temporary, targets, choices, name)
            sync(temporary)
            nbytes = temporary.stat().st_size
        except OSError as error:
            raise refused(target, error) from None
    dropped = tuple(_dropped(part))
    return GgufExport(target, part.component.name, architecture(part), nbytes, (*rows, *dropped))


class _Export:
    """Chooses the types of all tensors, then writes them."""

    def __init__(
        self,
        part: QuantizedComponent,
        files: MappedFiles,
        options: GgufOptions,
        progress: Progress,
    ) -> None:
        self._part = part
        self._files = files
        self._options = options
        self._progress = progress
        self._gguf = gguf_package()

    def choose(self, targets: Sequence[Target]) -> dict[str, Choice]:
        """Return the choice for each tensor of the checkpoint; the pieces of a target agree."""
        self._start("examine")
        options = self._options
        chooser = Chooser(self._part, self._files, options.fallback, options.threads)
        choices: dict[str, Choice] = {}
        for target in targets:
            found = []
            for name in target.pieces:
                found.append(chooser.choose(name))
                self._part.release(name, self._files)
                self._done(name)
            if len({(choice.type, choice.block_type) for choice in found}) > 1:
                note = f"joined in {target.name}, whose other parts differ"
                found = [Choice("F32", note=note)] * len(found)
            choices.update(zip(target.pieces, found, strict=True))
        return choices

    def write(
        self, path: Path, targets: Sequence[Target], choices: dict[str, Choice], name: str
    ) -> list[GgufTensor]:
        """Write the file and return what became of each tensor."""
        self._start("export")
        full = self._options.names == "full"
        names = [target.name for target in targets]
        short = {name: name for name in names} if full else short_names(names)
        writer = self._writer(path, targets, choices, short, name)
        encoder = PieceEncoder(self._part, self._files, self._options.threads)
        rows: list[GgufTensor] = []
        try:
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for target in targets:
                pieces = []
                gguf_name = short[target.name]
                for piece in target.pieces:
                    choice = choices[piece]
                    data, error = encoder.encode(piece, choice)
                    pieces.append(data)
                    row = self._row(piece, choice, gguf_name, data.nbytes, error)
                    rows.append(replace(row, name_shortened=gguf_name != target.name))
                    self._done(piece)
                writer.write_tensor_data(_in_order(pieces, target.swap_halves))
        finally:
            writer.close()
        return rows

    def _writer(
        self,
        path: Path,
        targets: Sequence[Target],
        choices: dict[str, Choice],
        short: dict[str, str],
        name: str,
    ) -> Any:
        """Return a GGUFWriter that knows everything but the tensors' bytes."""
        weights: dict[str, int] = {}
        writer = self._gguf.GGUFWriter(path, architecture(self._part))
        for target in targets:
            shapes = [self._part.manifest.tensors[piece].shape for piece in target.pieces]
            choice = choices[target.pieces[0]]
            shape = shapes[0]
            if len(shapes) > 1:
                shape = (sum(shape[0] for shape in shapes), *shape[1:])
            weights[choice.type] = weights.get(choice.type, 0) + math.prod(shape)
            writer.add_tensor_info(
                short[target.name],
                shape,
                np.dtype(np.float32),  # uint8 would mean a shape in bytes
                sum(choice.nbytes(shape) for shape in shapes),
                raw_dtype=self._gguf.GGMLQuantizationType[choice.type],
            )
        for key, value in key_values(self._part, name, weights, short):
            if isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_uint32(key, value)
        return writer

    def _row(
        self, name: str, choice: Choice, gguf_name: str, nbytes: int, error: float
    ) -> GgufTensor:
        entry = self._part.manifest.tensors[name]
        stored = (
            f"copied {entry.source_dtype}"
            if isinstance(entry, CopiedTensor)
            else f"{entry.encoding} {entry.bit_width}"
        )
        outcome: Outcome = "rounded" if choice.rounds else "exact"
        return GgufTensor(
            name, gguf_name, stored, entry.shape, choice.type, nbytes, outcome, error, choice.note
        )

    def _start(self, task: str) -> None:
        tensors = self._part.component.tensors.values()
        total = sum(tensor.nbytes for tensor in tensors)
        self._progress.start(task, len(self._part.manifest.tensors), total)

    def _done(self, name: str) -> None:
        """Count a tensor, repeated ones once."""
        stored = self._part.manifest.tensors[name].same_as is None
        self._progress.advance(
            name, sum(part.nbytes for part in self._part.parts(name)) if stored else 0
        )


def _in_order(pieces: Sequence[Bytes], swap_halves: bool) -> Bytes:
    data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if swap_halves:
        half = data.size // 2
        data = np.concatenate([data[half:], data[:half]])
    return data


def _dropped(part: QuantizedComponent) -> Iterable[GgufTensor]:
    """What is stored beside the tensors of the source: time parameters and other additions."""
    known = {stored.name for name in part.manifest.tensors for stored in part.parts(name)}
    names = part.manifest.tensors
    kinds = {
        **{stored.name: _ACTIVATION for name in names for stored in part.activation_parts(name)},
        **{stored.name: _ROWS for name in names for stored in part.row_parts(name)},
        **{stored.name: _OUTPUT for stored in part.output_parts()},
    }
    for name, tensor in part.component.tensors.items():
        if name not in known:
            what = kinds.get(name, "no tensor of the source")
            yield GgufTensor(
                name,
                "",
                f"addition {tensor.dtype}",
                tensor.shape,
                "",
                0,
                "dropped",
                1.0,
                f"{what}; GGUF loaders know no time parameters",
            )
