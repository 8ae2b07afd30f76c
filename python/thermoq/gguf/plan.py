"""Which ggml type each tensor takes, decided before the first byte: the types lie in the header."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.manifest import CopiedTensor, QuantizedTensor
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.checkpoint.untrusted import bad_tensor
from thermoq.gguf.blocks import BLOCK_BYTES, BLOCK_WEIGHTS, BlockType, exact_type
from thermoq.gguf.plain import PLAIN_BYTES, WIDENED, PlainType, fits_f16

Fallback = Literal["q8_0", "q4_0"]
FALLBACKS: Final[tuple[Fallback, ...]] = get_args(Fallback)

MAX_DIMENSIONS: Final = 5  # ggml has 4; the loaders of diffusion models read 5 (docs/gguf.md)

_FALLBACK_BYTES = {"Q8_0": 34, "Q4_0": 18}  # of 32 weights
_LARGEST_CODE = {"Q8_0": 127, "Q4_0": 8}  # the scale is a block's largest weight by this
# Below 2^-14 an f16 scale is off by up to 2^-25. Squared and relative, that may come to what the
# codes of Q8_0 are off by where weights are spread evenly: 1 / (4 * 127^2), or 2^-16.
_SCALE_ERROR = 2.0**-25
_MOST_SCALE_ERROR = 2.0**-16


@dataclass(frozen=True)
class Choice:
    """What becomes of a tensor.

    `block_type` is set where stored codes go over as they are, `rounds` where the decoded weights
    are rounded to `type`.
    """

    type: str
    block_type: BlockType | None = None
    rounds: bool = False
    note: str = ""

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape."""
        weights = math.prod(shape)
        if self.block_type is not None:
            return weights // BLOCK_WEIGHTS[self.block_type] * BLOCK_BYTES[self.block_type]
        if self.type in _FALLBACK_BYTES:
            return weights // 32 * _FALLBACK_BYTES[self.type]
        assert self.plain_type is not None
        return weights * PLAIN_BYTES[self.plain_type]

    @property
    def plain_type(self) -> PlainType | None:
        """The type, if it has one value an element."""
        return next((plain for plain in PLAIN_BYTES if plain == self.type), None)


class Chooser:
    """Chooses for one component; reads the weights of tensors that no block type holds."""

    def __init__(
        self,
        part: QuantizedComponent,
        files: MappedFiles,
        fallback: Fallback | None,
        threads: int,
    ) -> None:
        self._part = part
        self._files = files
        self._fallback = fallback
        self._threads = threads

    def choose(self, name: str) -> Choice:
        """Return the choice for tensor `name`; raises InputError if GGUF cannot hold it."""
        entry = self._part.manifest.tensors[name]
        if len(entry.shape) > MAX_DIMENSIONS:
            raise self._refused(
                name, f"expected at most {MAX_DIMENSIONS} dimensions, got {list(entry.shape)}"
            )
        if isinstance(entry, CopiedTensor):
            return self._copied(name, entry)
        fitting = _exact_blocks(entry)
        if fitting is not None:
            return Choice(fitting, block_type=fitting, note=_many(entry.shape))
        return self._decoded(name, entry)

    def _copied(self, name: str, entry: CopiedTensor) -> Choice:
        dtype, note = entry.source_dtype, _many(entry.shape)
        if dtype in WIDENED:
            return Choice(WIDENED[dtype], note=_both(f"GGUF has no {dtype}", note))
        if dtype == "BF16":
            return Choice(self._for_bfloat16(name, entry), note=note)
        if dtype not in PLAIN_BYTES:
            raise self._refused(name, f"expected a dtype whose values GGUF can hold, got {dtype}")
        return Choice(dtype, note=note)

    def _for_bfloat16(self, name: str, entry: CopiedTensor) -> PlainType:
        """Loaders take BF16 for a quantized type, and only for matrices (docs/gguf.md)."""
        if len(entry.shape) == 2 and name.endswith(".weight"):
            return "BF16"
        data = self._part.decode(name, self._files)
        return "F16" if fits_f16(data, "BF16") else "F32"

    def _decoded(self, name: str, entry: QuantizedTensor) -> Choice:
        if entry.encoding == "trellis" and self._fallback is None:
            raise self._refused(
                name,
                "expected an encoding that GGUF can hold, got trellis; quantize the model with "
                f"--encoding coded, or give --fallback {' or '.join(FALLBACKS)} here, which "
                "quantizes such tensors anew",
            )
        why = _many(entry.shape) or _why_not(entry)
        data = self._part.decode(name, self._files, "F32", self._threads)
        values = data.view(np.float32)
        if self._fallback is None or not values.size:
            return Choice("F16" if fits_f16(data, "F32") else "F32", note=why)
        if len(entry.shape) == 2 and entry.shape[1] % 32 == 0:
            rounded = self._fallback.upper()
            if _scales_hold(values.reshape(-1, 32), _LARGEST_CODE[rounded]):
                return Choice(rounded, rounds=True, note=why)
        if fits_f16(data, "F32"):
            return Choice("F16", note=why)
        if float(np.abs(values).max()) < 65520.0:
            return Choice("F16", rounds=True, note=why)
        return Choice("F32", note=why)

    def _refused(self, name: str, problem: str) -> Exception:
        return bad_tensor(self._part.parts(name)[0].path, name, problem)


def _exact_blocks(entry: QuantizedTensor) -> BlockType | None:
    """Only matrices: loaders keep everything else as numbers (docs/gguf.md)."""
    if len(entry.shape) != 2 or entry.row_dimension != 0 or not math.prod(entry.shape):
        return None
    if entry.rotation is not None:
        return None
    return exact_type(entry.scheme, entry.shape[1])


def _why_not(entry: QuantizedTensor) -> str:
    if len(entry.shape) != 2 or entry.row_dimension != 0:
        return f"{len(entry.shape)} dimensions"
    if entry.encoding == "trellis":
        return "trellis codes, which GGUF cannot hold"
    if entry.rotation is not None:
        return "rotated inputs, which GGUF cannot hold"
    multiple = 256 if entry.encoding == "coded" else 32
    if entry.shape[1] % multiple:
        return f"rows of {entry.shape[1]}, no multiple of {multiple}"
    return "its groups are in no ggml type"


def _scales_hold(blocks: NDArray[np.float32], largest_code: int) -> bool:
    """Whether f16 scales serve these blocks of 32; a block counts by its share of the energy.

    Stored parameters are f16, so weights are multiples of 2^-24 and no scale is too small for the
    package to divide by.
    """
    energy = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    scale = np.abs(blocks).max(axis=1).astype(np.float64) / largest_code
    off = (_SCALE_ERROR / np.maximum(scale, _SCALE_ERROR)) ** 2  # at most all of it
    return bool((off * energy).sum() <= _MOST_SCALE_ERROR * energy.sum())


def _many(shape: tuple[int, ...]) -> str:
    return f"{len(shape)} dimensions, ggml itself reads 4" if len(shape) > 4 else ""


def _both(one: str, other: str) -> str:
    return "; ".join(filter(None, (one, other)))
