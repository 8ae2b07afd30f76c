"""The bytes of one tensor of the checkpoint in the ggml type that was chosen for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.manifest import CopiedTensor, QuantizedTensor
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.gguf.blocks import encode
from thermoq.gguf.package import gguf_package
from thermoq.gguf.plain import PlainType, convert_plain, floats
from thermoq.gguf.plan import Choice
from thermoq.verification import verify_tensor

Bytes = NDArray[np.uint8]

_CHUNK_WEIGHTS = 1 << 22


class PieceEncoder:
    """Reads the tensors of a component, checks them, and encodes them."""

    def __init__(self, part: QuantizedComponent, files: MappedFiles, threads: int) -> None:
        self._part = part
        self._files = files
        self._threads = threads

    def encode(self, name: str, choice: Choice) -> tuple[Bytes, float]:
        """Return the bytes of tensor `name` and the relative squared error of rounding it.

        Raises InputError unless its checksum holds and its parameters make sense.
        """
        entry = self._part.manifest.tensors[name]
        if entry.same_as is None:
            verify_tensor(self._part, name, self._files)
        error = 0.0
        if isinstance(entry, CopiedTensor):
            data = self._part.decode(name, self._files)
            data = convert_plain(data, entry.source_dtype, _plain(choice))
        else:
            data, error = self._quantized(name, entry, choice)
        self._part.release(name, self._files)
        return data, error

    def _quantized(self, name: str, entry: QuantizedTensor, choice: Choice) -> tuple[Bytes, float]:
        if choice.block_type is not None:
            return encode(self._part.matrix(name, self._files), choice.block_type).reshape(-1), 0.0
        data = self._part.decode(name, self._files, "F32", self._threads)
        if choice.rounds:
            return rounded(floats(data, "F32"), entry.shape, choice.type)
        return convert_plain(data, "F32", _plain(choice)), 0.0


def rounded(values: NDArray[np.float32], shape: tuple[int, ...], name: str) -> tuple[Bytes, float]:
    """Round to the ggml type `name`; return the bytes and ||rounded - values||^2 / ||values||^2.

    The rounding is the package's own.
    """
    gguf: Any = gguf_package()
    quants, kind = gguf.quants, gguf.GGMLQuantizationType[name]
    width = shape[1] if name != "F16" else max(1, math.prod(shape[1:]))
    matrix = values.reshape(-1, width)
    pieces, squared, energy = [], 0.0, 0.0
    step = max(1, _CHUNK_WEIGHTS // width)
    for start in range(0, matrix.shape[0], step):
        chunk = matrix[start : start + step]
        # What is smaller than a subnormal scale becomes 0, which the error shows.
        with np.errstate(all="ignore"):
            piece = quants.quantize(chunk, kind)
            difference = quants.dequantize(piece, kind).astype(np.float64) - chunk
        squared += float(np.square(difference).sum())
        energy += float(np.square(chunk, dtype=np.float64).sum())
        pieces.append(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
    return np.concatenate(pieces), squared / energy if energy else 0.0


def _plain(choice: Choice) -> PlainType:
    assert choice.plain_type is not None
    return choice.plain_type
