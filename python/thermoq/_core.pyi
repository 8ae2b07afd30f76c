"""
thermoq's C++ core: weights, packing, rotation, and what time parameters are made of.
"""

from __future__ import annotations

import enum

import numpy
import numpy.typing

__all__: list[str] = [
    "MAX_LSQ_GROUP",
    "MAX_MAGNITUDE",
    "MAX_SUPER_BLOCK_GROUPS",
    "MAX_SWEEP",
    "MAX_TRELLIS_BLOCK",
    "Q8_GROUP_SIZE",
    "TRELLIS_TABLE_UNIT",
    "BoundaryJumps",
    "FloatType",
    "QuantizationError",
    "Severity",
    "available_simd_levels",
    "boundary_jumps",
    "compiler",
    "convert",
    "decoding_error",
    "default_threads",
    "dequantize_affine",
    "dequantize_coded",
    "dequantize_q8",
    "dequantize_trellis",
    "first_trellis_scales",
    "group_losses",
    "hadamard",
    "has_openmp",
    "lsq_affine",
    "lsq_coded",
    "lsq_q8",
    "pack_codes",
    "paired_moments",
    "quantize_affine",
    "quantize_inputs",
    "quantize_q8",
    "quantize_trellis",
    "rotate",
    "set_simd_level",
    "severity_of",
    "simd_level",
    "solve_markov_chains",
    "squared_norms",
    "sweep",
    "sweep_trellis",
    "unpack_codes",
    "unrotate",
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

def available_simd_levels() -> list[str]:
    """
    Levels of this build and CPU, best first.
    """

def boundary_jumps(
    scale: numpy.typing.NDArray[numpy.float64],
    zero_point: numpy.typing.NDArray[numpy.float64],
    num_weights: numpy.typing.NDArray[numpy.float64],
    activation_bits: numpy.typing.NDArray[numpy.int32],
    threshold: float,
    before: numpy.typing.NDArray[numpy.float64],
    after: numpy.typing.NDArray[numpy.float64],
) -> BoundaryJumps:
    """
    Jumps at time-group boundaries, per layer [layers, time_groups - 1] and for the model
    [time_groups - 1], averaged with `num_weights` [layers]. scale, zero_point: [layers,
    time_groups]; activation_bits: [layers]. before, after: [time_groups - 1, pairs] in [0, 1],
    fractions of the way over each boundary one sampling step apart; the largest change counts.
    severity: -1 none, 0 low, 1 medium, 2 high.
    """

def compiler() -> str:
    """
    Compiler and version.
    """

def convert(
    source: numpy.typing.NDArray[numpy.uint8],
    from_type: FloatType,
    to_type: FloatType,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.uint8], int]:
    """
    Rewrite elements of one type as another, rounded half to even. Returns the bytes and how
    many finite elements became infinite.
    """

def decoding_error(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    decoded: numpy.typing.NDArray[numpy.float32],
    threads: int = 0,
) -> QuantizationError:
    """
    How far a decoded matrix [rows, cols] is from its source, bytes of `type`; in f64.

    Weights that are not finite are not counted. Raises ValueError for a source of another size.
    """

def default_threads() -> int:
    """
    The threads that `threads = 0` stands for.
    """

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
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Decode to bytes [rows * cols * itemsize] of `type`: scale * code + minimum in f32, then
    rounded half to even. Raises ValueError for arrays of another size.
    """

def dequantize_coded(
    codes: numpy.typing.NDArray[numpy.uint8],
    scale_codes: numpy.typing.NDArray[numpy.uint8],
    minimum_codes: numpy.typing.NDArray[numpy.uint8],
    super_scale: numpy.typing.NDArray[numpy.uint16],
    super_minimum: numpy.typing.NDArray[numpy.uint16],
    rows: int,
    cols: int,
    bit_width: int,
    group_size: int,
    super_block: int,
    scale_bits: int,
    minimum_bits: int,
    type: FloatType,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Decode to bytes [rows * cols * itemsize] of `type`:
    (super_scale * scale_code) * code - super_minimum * minimum_code in f32, then rounded half to
    even. Raises ValueError for arrays of another size.
    """

def dequantize_q8(
    codes: numpy.typing.NDArray[numpy.int8],
    scale: numpy.typing.NDArray[numpy.uint16],
    rows: int,
    cols: int,
    type: FloatType,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Decode to bytes [rows * cols * itemsize] of `type`: scale * code in f32, then rounded
    half to even. Raises ValueError for arrays of another size.
    """

def dequantize_trellis(
    codes: numpy.typing.NDArray[numpy.uint8],
    scale: numpy.typing.NDArray[numpy.uint16],
    rows: int,
    cols: int,
    bit_width: int,
    window_bits: int,
    group_size: int,
    block_rows: int,
    table: numpy.typing.NDArray[numpy.int16],
    type: FloatType,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Decode to bytes [rows * cols * itemsize] of `type`: scale * table[window] in f32, then
    rounded half to even. Raises ValueError for arrays of another size.
    """

def first_trellis_scales(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    bit_width: int,
    window_bits: int,
    group_size: int,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint16]:
    """
    Return the scales that quantize_trellis begins with, as f16 bits [rows, groups].
    """

def group_losses(
    errors: numpy.typing.NDArray[numpy.float32],
    sizes: numpy.typing.NDArray[numpy.int64],
    systematic: float,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    sum ||d||^2 + systematic * n ||mean d||^2 over the n rows d of each group, in f64.

    errors: [rows, cols], the first sizes[0] of them the first group's, and so on.
    """

def hadamard(
    data: numpy.typing.NDArray[numpy.float32], block: int, threads: int = 0
) -> numpy.typing.NDArray[numpy.float32]:
    """
    Multiply every `block` columns of data [rows, cols] by the orthogonal Hadamard matrix.

    It is its own inverse. Raises ValueError unless block is a power of two that divides cols.
    """

def has_openmp() -> bool:
    """
    Whether the build found OpenMP.
    """

def lsq_affine(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    bit_width: int,
    group_size: int,
    importances: numpy.typing.NDArray[numpy.float32] | None = None,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint16],
    numpy.typing.NDArray[numpy.uint16],
    QuantizationError,
]:
    """
    Quantize a row-major matrix to 2 or 4 bits by least squares.

    As quantize_affine; groups hold at most MAX_LSQ_GROUP weights. importances: [cols], finite and
    at least 0, or None for equal ones.
    """

def lsq_coded(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    bit_width: int,
    group_size: int,
    super_block: int,
    scale_bits: int,
    minimum_bits: int,
    importances: numpy.typing.NDArray[numpy.float32] | None = None,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint16],
    numpy.typing.NDArray[numpy.uint16],
    QuantizationError,
]:
    """
    Quantize a row-major matrix to 2 or 4 bits with coded group parameters, by least squares.

    Returns codes [rows, ceil(cols * bit_width / 8)], scale_codes and minimum_codes
    [rows, ceil(groups * bits / 8)], super_scale and super_minimum as f16 bits
    [rows, ceil(cols / super_block)], and the error. Raises ValueError for a scheme outside the
    limits.
    """

def lsq_q8(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    importances: numpy.typing.NDArray[numpy.float32] | None = None,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.int8], numpy.typing.NDArray[numpy.uint16], QuantizationError]:
    """
    Quantize a row-major matrix to 8 bits with sign by least squares. As quantize_q8.
    """

def pack_codes(
    codes: numpy.typing.NDArray[numpy.uint8], rows: int, cols: int, bit_width: int, threads: int = 0
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Pack codes [rows, cols], one a byte, to [rows, ceil(cols * bit_width / 8)], low bits first.
    """

def paired_moments(
    y: numpy.typing.NDArray[numpy.float32],
    q: numpy.typing.NDArray[numpy.float32],
    sizes: numpy.typing.NDArray[numpy.int64],
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    Means and central moments of y and q [rows, cols] by column: [10, groups, cols] in f64.

    The first sizes[0] rows are the first group's, and so on. mean(y) and mean(q); then, with both
    about their means, the means of yy, qq, yq, yyyy, yyyq, yyqq, yqqq and qqqq. All 0 for a group
    without rows. The same bytes on any number of threads.
    """

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
]:
    """
    Quantize a row-major matrix to 2 or 4 bits by round-to-nearest.

    source: bytes [rows * cols * itemsize] of `type`. Returns codes
    [rows, ceil(cols * bit_width / 8)],
    scale and minimum as f16 bits [rows, ceil(cols / group_size)], and the error. Raises ValueError
    for a bit width or group size that affine lacks, or a source of another size.
    """

def quantize_inputs(
    rows: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float64],
    zero_point: numpy.typing.NDArray[numpy.float64],
    sizes: numpy.typing.NDArray[numpy.int64],
    bits: int,
    error: bool = False,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    Rows [n, in] of a layer's input as codes of `bits` give them back.

    (clip(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale in f32; 0 where the
    scale is 0. scale, zero_point and sizes are by group: the first sizes[0] rows are the first
    group's, and so on. With `error`, minus the rows. The same bytes on any number of threads.
    """

def quantize_q8(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.int8], numpy.typing.NDArray[numpy.uint16], QuantizationError]:
    """
    Quantize a row-major matrix to 8 bits with sign, an f16 scale per 32 weights.

    Returns codes [rows, cols], scale as f16 bits [rows, ceil(cols / 32)], and the error.
    """

def quantize_trellis(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    bit_width: int,
    window_bits: int,
    group_size: int,
    block_rows: int,
    table: numpy.typing.NDArray[numpy.int16],
    importances: numpy.typing.NDArray[numpy.float32] | None = None,
    passes: int = 2,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint16], QuantizationError
]:
    """
    Quantize a row-major matrix to 2, 3 or 4 bits by the best path through a trellis.

    Returns the codes (the streams of all blocks and columns, one after the other), scale as f16
    bits [rows, ceil(cols / group_size)], and the error. table: [2^window_bits] in units of
    1 / TRELLIS_TABLE_UNIT. importances: [cols] or None. Raises ValueError for a scheme or a table
    outside the limits.
    """

def rotate(
    data: numpy.typing.NDArray[numpy.float32],
    order: numpy.typing.NDArray[numpy.int64],
    signs: numpy.typing.NDArray[numpy.float32],
    block: int,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    Rotate the rows of data [rows, cols].

    Column order[j] times its sign comes to place j; then Hadamard blocks as in `hadamard`. Raises
    ValueError unless order holds every column once, signs [cols] one for each.
    """

def set_simd_level(level: str) -> None:
    """
    Switch the level for the whole process; every level gives the same bits.
    """

def severity_of(scale_jump: float, zero_point_jump: float, threshold: float) -> Severity:
    """
    How bad a boundary with these jumps is; NONE unless the larger one exceeds `threshold`.
    """

def simd_level() -> str:
    """
    The SIMD level in use; raises ValueError if THERMOQ_SIMD asks for one that is not there.
    """

def solve_markov_chains(
    theta: numpy.typing.NDArray[numpy.float64],
    variance: numpy.typing.NDArray[numpy.float64],
    strength: float | numpy.typing.NDArray[numpy.float64],
    linked: numpy.typing.NDArray[numpy.bool],
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.float64]:
    """
    Estimates [rows, time_groups] that neighbouring time groups hold together.

    They minimize, for each row, sum_g (x[g] - theta[g])^2 / variance[g] + strength *
    sum_g linked[g] * (x[g+1] - x[g])^2. theta, variance: [rows, time_groups]; strength: one number
    or [rows]; linked: [time_groups - 1] or [rows, time_groups - 1]. A variance of 0 keeps theta[g],
    a strength of 0 all of them, an infinite one pools linked groups by their precision.
    """

def squared_norms(
    source: numpy.typing.NDArray[numpy.uint8],
    type: FloatType,
    rows: int,
    cols: int,
    magnitude: float,
    iterations: int,
    seed: int,
    threads: int = 0,
) -> tuple[float, float]:
    """
    sigma_1(W)^2 by `iterations` steps of the power iteration, a lower bound, and ||W||_F^2.

    `magnitude` is about ||W||_F; 0 gives zeros.
    """

def sweep(
    weights: numpy.typing.NDArray[numpy.float32],
    factor: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32],
    minimum: numpy.typing.NDArray[numpy.float32],
    group_of: numpy.typing.NDArray[numpy.int32],
    lowest: int,
    highest: int,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]:
    """
    Round the columns of weights [rows, n] in order, each making up for those before.

    factor [n, n]: the upper Cholesky factor of the inverse Gram matrix on these columns. scale and
    minimum [rows, groups]; group_of [n]; codes from lowest to highest. Returns the codes as bytes
    [rows, n] and the errors over the factor's diagonal [rows, n], from which the columns behind
    follow. Raises ValueError for more than MAX_SWEEP columns or arrays of another size.
    """

def sweep_trellis(
    weights: numpy.typing.NDArray[numpy.float32],
    factor: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32],
    group_of: numpy.typing.NDArray[numpy.int32],
    bit_width: int,
    window_bits: int,
    block_rows: int,
    table: numpy.typing.NDArray[numpy.int16],
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]:
    """
    Find the paths of the columns of weights [rows, n] in order, as `sweep` rounds them.

    scale [rows, groups] and group_of [n]; factor [n, n] as for `sweep`. Returns the streams of
    the n columns, block of rows after block, and the scaled errors [rows, n]. Raises ValueError for
    more than MAX_SWEEP columns, groups that do not exist and arrays that do not fit.
    """

def unpack_codes(
    packed: numpy.typing.NDArray[numpy.uint8],
    rows: int,
    cols: int,
    bit_width: int,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Undo `pack_codes`: one code a byte, [rows, cols].
    """

def unrotate(
    data: numpy.typing.NDArray[numpy.float32],
    order: numpy.typing.NDArray[numpy.int64],
    signs: numpy.typing.NDArray[numpy.float32],
    block: int,
    threads: int = 0,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    Undo `rotate`, each step in f32; raises as it does.
    """

MAX_LSQ_GROUP: int = 65536
MAX_MAGNITUDE: float = 65504.0
MAX_SUPER_BLOCK_GROUPS: int = 256
MAX_SWEEP: int = 256
MAX_TRELLIS_BLOCK: int = 4096
Q8_GROUP_SIZE: int = 32
TRELLIS_TABLE_UNIT: int = 4096
