"""
thermoq's C++ core: quantization, packing, jumps and the prior's power iteration.
"""

from __future__ import annotations

import enum

import numpy
import numpy.typing

__all__: list[str] = [
    "MAX_MAGNITUDE",
    "Q8_GROUP_SIZE",
    "BoundaryJumps",
    "FloatType",
    "QuantizationError",
    "Severity",
    "available_simd_levels",
    "boundary_jumps",
    "compiler",
    "convert",
    "default_threads",
    "dequantize_affine",
    "dequantize_q8",
    "has_openmp",
    "largest_squared_singular_value",
    "pack_codes",
    "quantize_affine",
    "quantize_q8",
    "set_simd_level",
    "severity_of",
    "simd_level",
    "unpack_codes",
]

class FloatType(enum.Enum):
    BF16 = ...
    F16 = ...
    F32 = ...

class QuantizationError:
    @property
    def decoded_energy(self) -> float: ...
    @property
    def infinity_count(self) -> int: ...
    @property
    def max_error(self) -> float: ...
    @property
    def max_magnitude(self) -> float: ...
    @property
    def nan_count(self) -> int: ...
    @property
    def source_energy(self) -> float: ...
    @property
    def squared_error(self) -> float: ...

class Severity(enum.IntEnum):
    HIGH = ...
    LOW = ...
    MEDIUM = ...
    NONE = ...

class BoundaryJumps:
    @property
    def boundary_score(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def layer_boundary_score(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def layer_scale_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def layer_zero_point_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def scale_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def severity(self) -> numpy.typing.NDArray[numpy.int8]: ...
    @property
    def unclipped_scale_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def unclipped_zero_point_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def zero_point_jump(self) -> numpy.typing.NDArray[numpy.float64]: ...

def available_simd_levels() -> list[str]: ...
def boundary_jumps(
    scale: numpy.typing.NDArray[numpy.float64],
    zero_point: numpy.typing.NDArray[numpy.float64],
    weight: numpy.typing.NDArray[numpy.float64],
    activation_bits: int,
    threshold: float,
) -> BoundaryJumps: ...
def compiler() -> str: ...
def convert(
    source: numpy.typing.NDArray[numpy.uint8],
    from_type: FloatType,
    to_type: FloatType,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.uint8], int]: ...
def default_threads() -> int: ...
def dequantize_affine(
    codes: numpy.typing.NDArray[numpy.uint8],
    scale: numpy.typing.NDArray[numpy.uint16],
    minimum: numpy.typing.NDArray[numpy.uint16],
    rows: int,
    cols: int,
    bit_width: int,
    group_size: int,
    type: FloatType,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]: ...
def dequantize_q8(
    codes: numpy.typing.NDArray[numpy.int8],
    scale: numpy.typing.NDArray[numpy.uint16],
    rows: int,
    cols: int,
    type: FloatType,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]: ...
def has_openmp() -> bool: ...
def largest_squared_singular_value(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    frobenius_norm: float,
    iterations: int,
    seed: int,
    threads: int = 0,
) -> float: ...
def pack_codes(
    codes: numpy.typing.NDArray[numpy.uint8], rows: int, cols: int, bit_width: int, threads: int = 0
) -> numpy.typing.NDArray[numpy.uint8]: ...
def quantize_affine(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    bit_width: int,
    group_size: int,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint16],
    numpy.typing.NDArray[numpy.uint16],
    QuantizationError,
]: ...
def quantize_q8(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.int8], numpy.typing.NDArray[numpy.uint16], QuantizationError
]: ...
def set_simd_level(level: str) -> None: ...
def severity_of(scale_jump: float, zero_point_jump: float, threshold: float) -> Severity: ...
def simd_level() -> str: ...
def unpack_codes(
    packed: numpy.typing.NDArray[numpy.uint8],
    rows: int,
    cols: int,
    bit_width: int,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]: ...

MAX_MAGNITUDE: float = 65504.0
Q8_GROUP_SIZE: int = 32
