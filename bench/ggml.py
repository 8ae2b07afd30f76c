"""llama.cpp's block quantizers, called in the shared library that llama-cpp-python installs.

Nothing of llama_cpp is imported: `libggml-base` alone holds the quantizers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# enum ggml_type; the library is asked for each name, so a renumbered one is noticed.
TYPE_IDS = {
    "Q4_0": 2,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ2_XXS": 16,
    "IQ2_XS": 17,
    "IQ3_XXS": 18,
    "IQ4_NL": 20,
    "IQ3_S": 21,
    "IQ2_S": 22,
    "IQ4_XS": 23,
    "TQ2_0": 35,
}

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """ggml, with the signatures of the four functions used. Raises ImportError if it is missing."""
    package = importlib.util.find_spec("llama_cpp")
    if package is None or not package.submodule_search_locations:
        raise ImportError("no module llama_cpp")
    folder = Path(package.submodule_search_locations[0]) / "lib"
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    found = sorted(folder.glob(f"*ggml-base.{suffix}"))
    if not found:
        raise ImportError(f"no ggml-base in {folder.name} of llama_cpp")
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_init.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_init.restype = None
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # src
        ctypes.c_void_p,  # dst
        ctypes.c_int64,  # start
        ctypes.c_int64,  # nrows
        ctypes.c_int64,  # n_per_row
        ctypes.c_void_p,  # imatrix
    ]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    return ggml


@dataclass(frozen=True)
class BlockType:
    """A quantized type of ggml: `nbytes` hold `weights` weights."""

    name: str
    identifier: int
    weights: int
    nbytes: int
    needs_importances: bool

    @property
    def bits_per_weight(self) -> float:
        """As stored, scales included."""
        return 8 * self.nbytes / self.weights


@cache
def block_type(name: str) -> BlockType:
    """Look a type up in the library. Raises ImportError if the library has another one there."""
    ggml, identifier = library(), TYPE_IDS[name]
    traits = ggml.ggml_get_type_traits(identifier).contents
    if not traits.type_name or traits.type_name.decode().upper() != name:
        raise ImportError(f"expected ggml type {identifier} to be {name}, got {traits.type_name}")
    ggml.ggml_quantize_init(identifier)  # tables of the IQ types, which threads then share
    needs = bool(ggml.ggml_quantize_requires_imatrix(identifier))
    return BlockType(name, identifier, traits.blck_size, traits.type_size, needs)


def quantize(weight: NDArray[np.float32], kind: BlockType, threads: int = 1) -> NDArray[np.uint8]:
    """Quantize `weight` [rows, cols] to bytes [rows', row_bytes].

    Blocks do not cross rows; where `cols` is no multiple of the block, the values are laid end to
    end and cut into blocks. ggml itself uses one thread, so more of them get a share of rows each;
    a foreign call does not hold Python's lock. A type that insists on importances gets ones.
    """
    ggml, rows = library(), as_rows(weight, kind.weights)
    count, cols = rows.shape
    packed = np.empty((count, cols // kind.weights * kind.nbytes), np.uint8)
    ones = np.ones(cols, np.float32) if kind.needs_importances else None

    def convert(first: int, last: int) -> None:
        ggml.ggml_quantize_chunk(
            kind.identifier,
            rows.ctypes.data,
            packed.ctypes.data,
            first * cols,
            last - first,
            cols,
            None if ones is None else ones.ctypes.data,
        )

    if threads == 1:
        convert(0, count)
        return packed
    bounds = [count * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(convert, bounds, bounds[1:]))
    return packed


def dequantize(
    packed: NDArray[np.uint8], kind: BlockType, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Decode what `quantize` made of a matrix of this shape."""
    decoded = np.empty(math.prod(shape), np.float32)
    to_float = library().ggml_get_type_traits(kind.identifier).contents.to_float
    to_float(packed.ctypes.data, decoded.ctypes.data, decoded.size)
    return decoded.reshape(shape)


def as_rows(weight: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """`weight` itself if its rows hold whole blocks, else its values with one block a row."""
    if weight.shape[-1] % block == 0:
        return np.ascontiguousarray(weight)
    if weight.size % block:
        raise ValueError(f"expected a multiple of {block} weights, got {weight.size}")
    return np.ascontiguousarray(weight).reshape(-1, block)
