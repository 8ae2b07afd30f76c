"""Weights of a quantized checkpoint as torch tensors, decoded by the core."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thermoq.checkpoint.manifest import CopiedTensor
from thermoq.checkpoint.quantized import QuantizedComponent
from thermoq.checkpoint.reader import MappedFiles
from thermoq.checkpoint.untrusted import bad_tensor
from thermoq.errors import UsageError
from thermoq.weights import QuantizedMatrix, dequantize, dequantize_rows, from_matrix

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What a model can run in, and what the core decodes to."""

_STORED = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class PackedWeight:
    """The codes and parameters of a weight, in memory as they lie in the file."""

    def __init__(self, matrix: QuantizedMatrix, shape: tuple[int, ...], row_dimension: int) -> None:
        self._matrix = matrix
        self._shape = shape
        self._row_dimension = row_dimension

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and parameters."""
        return sum(part.nbytes for part in self._matrix.parts.values())

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in its shape."""
        return _decoded(self._matrix, self._shape, self._row_dimension, dtype)

    def rows(self, chosen: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
        """Return some rows [n, cols] of a matrix that is not rotated."""
        decoded = dequantize_rows(
            self._matrix, chosen, DTYPES.get(dtype, "F32"), threads=torch.get_num_threads()
        )
        return _tensor(decoded, (len(chosen), self._matrix.cols), dtype)


class Weights:
    """Reads the tensors of one component; what is stored once for several layers is read once."""

    def __init__(self, part: QuantizedComponent, files: MappedFiles) -> None:
        self._part = part
        self._files = files
        self._decoded: dict[tuple[str, bool, torch.dtype], Tensor] = {}
        self._packed: dict[tuple[str, bool], PackedWeight] = {}

    def tensor(self, name: str, dtype: torch.dtype, *, rotated: bool = False) -> Tensor:
        """Return tensor `name`, floating-point ones in `dtype`.

        `rotated`: as the matrix for rotated inputs. Raises InputError where a weight is beyond the
        range of `dtype`.
        """
        entry = self._part.manifest.tensors[name]
        key = (entry.same_as or name, rotated, dtype)
        if key not in self._decoded:
            if isinstance(entry, CopiedTensor):
                found = self._copied(name, dtype)
            else:
                matrix = _for_inputs(self._part.matrix(name, self._files), rotated=rotated)
                found = _decoded(matrix, entry.shape, entry.row_dimension, dtype)
                if dtype == torch.float16:
                    self._check_range(name, found)
            self._decoded[key] = found
            self._part.release(name, self._files)
        return self._decoded[key]

    def packed(self, name: str, *, rotated: bool = False) -> PackedWeight:
        """Return the quantized tensor `name` with its codes as they are stored."""
        entry = self._part.manifest.tensors[name]
        assert not isinstance(entry, CopiedTensor)
        key = (entry.same_as or name, rotated)
        if key not in self._packed:
            matrix = _for_inputs(self._part.matrix(name, self._files), rotated=rotated)
            parts = {suffix: np.array(part) for suffix, part in matrix.parts.items()}
            matrix = dataclasses.replace(matrix, parts=parts)
            self._packed[key] = PackedWeight(matrix, entry.shape, entry.row_dimension)
            self._part.release(name, self._files)
        return self._packed[key]

    def _copied(self, name: str, dtype: torch.dtype) -> Tensor:
        stored = self._part.parts(name)[0]
        if stored.dtype not in _STORED:
            problem = f"expected a dtype that torch has, got {stored.dtype}"
            raise bad_tensor(stored.path, name, problem)
        data = torch.from_numpy(np.array(self._files.bytes(stored)))
        tensor = data.view(_STORED[stored.dtype]).reshape(stored.shape)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def _check_range(self, name: str, decoded: Tensor) -> None:
        beyond = int(torch.isinf(decoded).sum())
        if beyond:
            raise bad_tensor(
                self._part.parts(name)[0].path,
                name,
                f"expected values within the range of float16, got {beyond} beyond it; "
                "dtype=torch.float32 holds them",
            )


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Return a dtype that models can run in; None: float32. UsageError for any other."""
    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype or torch.float32
    if found not in DTYPES:
        known = ", ".join(str(one) for one in DTYPES)
        raise UsageError(f"load: expected a dtype of {known}, got {dtype}")
    return found


def _for_inputs(matrix: QuantizedMatrix, *, rotated: bool) -> QuantizedMatrix:
    """The matrix for rotated inputs is the one that the codes are of: nothing is undone."""
    return dataclasses.replace(matrix, rotation=None) if rotated else matrix


def _decoded(
    matrix: QuantizedMatrix, shape: tuple[int, ...], row_dimension: int, dtype: torch.dtype
) -> Tensor:
    data = dequantize(matrix, DTYPES.get(dtype, "F32"), threads=torch.get_num_threads())
    return _tensor(from_matrix(data, shape, row_dimension), shape, dtype)


def _tensor(data: NDArray[np.uint8], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    stored = dtype if dtype in DTYPES else torch.float32
    return torch.from_numpy(data).view(stored).reshape(shape).to(dtype)
