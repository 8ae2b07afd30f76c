"""What an export to GGUF made of every tensor, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

Outcome = Literal["exact", "rounded", "dropped"]


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the checkpoint.

    `stored` is how the checkpoint holds it ("coded 2", "copied BF16"), `type` the ggml type ("" if
    it was dropped), `nbytes` its bytes in the file. `relative_squared_error` compares with the
    weights that the checkpoint decodes to, not with those before quantization: 0 if `outcome` is
    "exact". `note` says why, where the type does not tell.
    """

    name: str
    gguf_name: str
    stored: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    outcome: Outcome
    relative_squared_error: float = 0.0
    note: str = ""
    name_shortened: bool = False


@dataclass(frozen=True)
class TypeTotal:
    """The tensors of one ggml type."""

    type: str
    num_tensors: int
    num_weights: int
    nbytes: int


@dataclass(frozen=True)
class Unblocked:
    """Quantized tensors that one reason keeps from a block type; `example` is the first's name."""

    reason: str
    type: str
    num_tensors: int
    nbytes: int
    example: str


@dataclass(frozen=True)
class Dropped:
    """Additions that were left out for one reason; `example` is the first's name."""

    reason: str
    num_tensors: int
    example: str


@dataclass(frozen=True)
class GgufExport:
    """A GGUF file that was written: `nbytes` on disk, and its tensors in their order there."""

    path: Path
    component: str
    architecture: str
    nbytes: int
    tensors: tuple[GgufTensor, ...]

    def type_totals(self) -> tuple[TypeTotal, ...]:
        """Sum up by type, the largest first."""
        found: dict[str, list[GgufTensor]] = {}
        for tensor in self.tensors:
            if tensor.outcome != "dropped":
                found.setdefault(tensor.type, []).append(tensor)
        totals = (
            TypeTotal(
                name,
                len(rows),
                sum(prod(row.shape) for row in rows),
                sum(row.nbytes for row in rows),
            )
            for name, rows in found.items()
        )
        return tuple(sorted(totals, key=lambda total: (-total.nbytes, total.type)))

    def unblocked(self) -> tuple[Unblocked, ...]:
        """Sum up the quantized tensors that are exact as F16 or F32, by reason; largest first."""
        found: dict[tuple[str, str], list[GgufTensor]] = {}
        for tensor in self._unblocked:
            found.setdefault((tensor.note, tensor.type), []).append(tensor)
        groups = (
            Unblocked(reason, type, len(rows), sum(row.nbytes for row in rows), rows[0].name)
            for (reason, type), rows in found.items()
        )
        return tuple(sorted(groups, key=lambda group: (-group.nbytes, group.example)))

    @property
    def could_shrink(self) -> bool:
        """Whether a fallback has anything to round: f32 numbers, or matrices of whole blocks."""
        return any(
            tensor.type == "F32" or (len(tensor.shape) == 2 and tensor.shape[1] % 32 == 0)
            for tensor in self._unblocked
        )

    @property
    def _unblocked(self) -> tuple[GgufTensor, ...]:
        return tuple(
            tensor
            for tensor in self.tensors
            if tensor.outcome == "exact"
            and tensor.type in ("F16", "F32")
            and not tensor.stored.startswith("copied ")
        )

    def dropped(self) -> tuple[Dropped, ...]:
        """Sum up what was left out, by reason, in the order of the checkpoint."""
        found: dict[str, list[str]] = {}
        for tensor in self.tensors:
            if tensor.outcome == "dropped":
                found.setdefault(tensor.note, []).append(tensor.name)
        return tuple(Dropped(note, len(names), names[0]) for note, names in found.items())

    @property
    def rounded(self) -> tuple[GgufTensor, ...]:
        """Those that were rounded a second time."""
        return tuple(tensor for tensor in self.tensors if tensor.outcome == "rounded")

    @property
    def inexact(self) -> tuple[GgufTensor, ...]:
        """Those that were rounded a second time or left out."""
        return tuple(tensor for tensor in self.tensors if tensor.outcome != "exact")

    @property
    def shortened(self) -> tuple[GgufTensor, ...]:
        """Those whose names did not fit."""
        return tuple(tensor for tensor in self.tensors if tensor.name_shortened)
