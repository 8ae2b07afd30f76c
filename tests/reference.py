"""What the core has to compute, in plain NumPy: short, slow, and obviously right.

Arithmetic that decides bits is float32, one operation at a time; everything measured is float64.
Weights are matrices [rows, cols] of float32 here; `decode_dtype` and `encode_dtype` go from and to
the bytes of a checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Doubles = NDArray[np.float64]
Codes = NDArray[Any]  # uint8, or int8 with q8

Q8_GROUP_SIZE = 32


# Bytes and numbers.


def decode_dtype(data: bytes, dtype: str) -> Floats:
    """The float32 values of a checkpoint's bytes of dtype F32, F16 or BF16, exactly."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(F32)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(F32)


def encode_dtype(values: NDArray[np.floating], dtype: str) -> bytes:
    """The bytes of finite `values` in dtype F32, F16 or BF16, rounded half to even from float32."""
    floats = np.ascontiguousarray(values, F32)
    if dtype == "BF16":
        bits = floats.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        return floats.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def half_down(x: Floats) -> Halves:
    """The largest float16 not above `x`."""
    half = x.astype(np.float16)
    with np.errstate(over="ignore"):  # of the lowest one, where it is not needed
        below = np.nextafter(half, np.float16(-np.inf))
    return np.where(half.astype(F32) > x, below, half)


def half_up(x: Floats) -> Halves:
    """The smallest float16 not below `x`."""
    return -half_down(-x)


# Quantization.


def grouped(matrix: Floats, group_size: int) -> Floats:
    """[rows, cols] -> [rows, groups, group_size]; a row's last group repeats its last weight."""
    padding = -matrix.shape[1] % group_size
    padded = np.pad(matrix, ((0, 0), (0, padding)), mode="edge")
    groups: Floats = padded.reshape(matrix.shape[0], -1, group_size)
    return groups


def ungrouped(groups: Codes, cols: int) -> Codes:
    """Undo `grouped`."""
    rows, count, size = groups.shape
    return groups.reshape(rows, count * size)[:, :cols]


def inverse_of(scale: Floats) -> Floats:
    """1 / scale, and 0 where it is 0."""
    inverse: Floats = np.divide(F32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    return inverse


def quantize_affine(
    matrix: Floats, bit_width: int, group_size: int
) -> tuple[Codes, Halves, Halves]:
    """Codes [rows, cols], scale and minimum [rows, groups]."""
    levels = F32(2**bit_width - 1)
    x = grouped(matrix, group_size)
    low = x.min(axis=2) + F32(0)  # -0 becomes +0
    high = x.max(axis=2)
    constant = low == high
    minimum = np.where(constant, low.astype(np.float16), half_down(low))
    step = (high - minimum.astype(F32)) / levels
    scale = np.where(constant, np.float16(0), half_up(step))
    steps = (x - minimum.astype(F32)[..., None]) * inverse_of(scale.astype(F32))[..., None]
    codes = np.rint(steps).astype(np.uint8)
    return ungrouped(codes, matrix.shape[1]), scale, minimum


def quantize_q8(matrix: Floats) -> tuple[Codes, Halves]:
    """Codes [rows, cols] from -127 to 127, scale [rows, groups]."""
    x = grouped(matrix, Q8_GROUP_SIZE)
    scale = half_up(np.abs(x).max(axis=2) / F32(127))
    codes = np.rint(x * inverse_of(scale.astype(F32))[..., None]).astype(np.int8)
    return ungrouped(codes, matrix.shape[1]), scale


def dequantize_affine(codes: Codes, scale: Halves, minimum: Halves, group_size: int) -> Floats:
    """scale * code + minimum: a float32 multiplication, then a float32 addition."""
    return dequantize_q8(codes, scale, group_size) + per_weight(minimum, codes.shape, group_size)


def dequantize_q8(codes: Codes, scale: Halves, group_size: int = Q8_GROUP_SIZE) -> Floats:
    """scale * code."""
    return codes.astype(F32) * per_weight(scale, codes.shape, group_size)


def per_weight(parameter: Halves, shape: tuple[int, ...], group_size: int) -> Floats:
    """A parameter [rows, groups], repeated for every weight [rows, cols] of its group."""
    return np.repeat(parameter.astype(F32), min(group_size, max(shape[1], 1)), axis=1)[
        :, : shape[1]
    ]


def exact_error(groups: Doubles) -> Doubles:
    """The least squared error [count] of 2-bit affine codes, for each of the groups [count, n].

    The codes of the sorted weights never fall, so they are one of C(n+3, 3) splits into four runs;
    each has its best scale and minimum in closed form. Parameters are real numbers here.
    """
    x = np.sort(groups.astype(np.float64), axis=1)
    count, n = x.shape
    sums = np.concatenate([np.zeros((count, 1)), np.cumsum(x, axis=1)], axis=1)
    total = sums[:, -1]
    explained = np.zeros(count)
    for a, b, c in itertools.combinations_with_replacement(range(n + 1), 3):  # codes 1, 2, 3 begin
        codes = (n - a) + (n - b) + (n - c)
        squares = (n - a) + 3 * (n - b) + 5 * (n - c)
        variance = n * squares - codes * codes
        if variance > 0:
            products = 3 * total - sums[:, a] - sums[:, b] - sums[:, c]
            covariance = n * products - codes * total
            explained = np.maximum(explained, covariance**2 / (n * variance))
    return np.maximum(((x - total[:, None] / n) ** 2).sum(axis=1) - explained, 0.0)


# Packing.


def pack(codes: Codes, bit_width: int) -> Codes:
    """[rows, cols] -> [rows, bytes]; code i lies in byte i*b // 8, from bit i*b % 8 upwards."""
    per_byte = 8 // bit_width
    rows, cols = codes.shape
    padded = np.pad(codes.astype(np.uint8), ((0, 0), (0, -cols % per_byte)))
    in_place = padded.reshape(rows, -(-cols // per_byte), per_byte) << shifts(bit_width)
    packed: Codes = np.bitwise_or.reduce(in_place, axis=2)
    return packed


def unpack(packed: Codes, cols: int, bit_width: int) -> Codes:
    """Undo `pack`."""
    codes = (packed[..., None] >> shifts(bit_width)) & np.uint8(2**bit_width - 1)
    return ungrouped(codes, cols)


def pack_stream(codes: Codes, bits: int) -> Codes:
    """[rows, n] -> [rows, ceil(n * bits / 8)]: code i begins at bit i * bits, low bits first."""
    each = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")


def unpack_stream(packed: Codes, count: int, bits: int) -> Codes:
    """Undo `pack_stream` for rows of `count` codes."""
    each = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little")
    weights = 1 << np.arange(bits)
    codes: Codes = (each.reshape(len(packed), count, bits) * weights).sum(axis=2).astype(np.uint8)
    return codes


def shifts(bit_width: int) -> NDArray[np.uint8]:
    """Where each code of a byte begins."""
    return np.arange(0, 8, bit_width, dtype=np.uint8)


# Figures.


@dataclass(frozen=True)
class ErrorFigures:
    """How far a decoded matrix is from its source, in float64."""

    squared_error: float
    source_energy: float
    decoded_energy: float
    max_error: float
    max_magnitude: float
    cosine_similarity: float


def error_figures(source: Floats, decoded: Floats) -> ErrorFigures:
    """Every figure straight from its definition."""
    w, d = source.astype(np.float64).ravel(), decoded.astype(np.float64).ravel()
    norms = np.sqrt(np.sum(w**2)) * np.sqrt(np.sum(d**2))
    both_zero = not w.any() and not d.any()
    return ErrorFigures(
        squared_error=float(np.sum((d - w) ** 2)),
        source_energy=float(np.sum(w**2)),
        decoded_energy=float(np.sum(d**2)),
        max_error=float(np.abs(d - w).max(initial=0.0)),
        max_magnitude=float(np.abs(w).max(initial=0.0)),
        cosine_similarity=float(np.sum(w * d) / norms) if norms else float(both_zero),
    )


def spectral_concentration(matrix: Floats) -> float:
    """kappa = in * sigma_1^2 / ||W||_F^2, by singular values; 1 for W = 0."""
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    energy = float(np.sum(values**2))
    return float(matrix.shape[1] * values[0] ** 2 / energy) if energy else 1.0


# Jumps.


def scale_jump(before: float, after: float) -> float:
    """Relative change; 0 if both are 0, 1 if only `before` is."""
    if before == 0:
        return 0.0 if after == 0 else 1.0
    return float(abs(after - before) / before)


def zero_point_jump(
    before: tuple[float, float], after: tuple[float, float], activation_bits: int
) -> float:
    """Change as a share of the range, between two (scale, zero_point); 0 if a scale is 0."""
    if before[0] == 0 or after[0] == 0:
        return 0.0
    return float(abs(after[1] - before[1]) / (2**activation_bits - 1))


def severity(jump: float, threshold: float) -> str | None:
    """None unless the larger of a boundary's jumps exceeds the threshold."""
    if not jump > threshold:
        return None
    return "high" if jump > 0.50 else "medium" if jump >= 0.30 else "low"


@dataclass(frozen=True)
class Jumps:
    """Arrays [layers, boundaries] and, over the whole model, [boundaries]."""

    layer_scale_jump: Doubles
    layer_zero_point_jump: Doubles
    layer_boundary_score: Doubles
    scale_jump: Doubles
    zero_point_jump: Doubles
    unclipped_scale_jump: Doubles
    unclipped_zero_point_jump: Doubles
    boundary_score: Doubles
    severity: list[str | None]

    @property
    def smoothness_score(self) -> float:
        """1 - sum of jumps / (2 * (G - 1)); 1 without boundaries."""
        total = float(np.sum(self.scale_jump + self.zero_point_jump))
        return 1.0 - total / (2 * len(self.scale_jump)) if len(self.scale_jump) else 1.0


def boundary_jumps(
    scale: Doubles,
    zero_point: Doubles,
    weight: Doubles,
    activation_bits: Sequence[int],
    threshold: float,
) -> Jumps:
    """From parameters [layers, groups], the layers' weights and the bits of their inputs."""
    layers, boundaries = scale.shape[0], scale.shape[1] - 1
    ds, dz = np.zeros((layers, boundaries)), np.zeros((layers, boundaries))
    for layer in range(layers):
        for i in range(boundaries):
            before = (scale[layer, i], zero_point[layer, i])
            after = (scale[layer, i + 1], zero_point[layer, i + 1])
            ds[layer, i] = scale_jump(before[0], after[0])
            dz[layer, i] = zero_point_jump(before, after, activation_bits[layer])
    clipped_ds, clipped_dz = np.minimum(ds, 1), np.minimum(dz, 1)
    share = weight / weight.sum() if weight.sum() else np.zeros(layers)
    model_ds, model_dz = share @ clipped_ds, share @ clipped_dz
    return Jumps(
        layer_scale_jump=ds,
        layer_zero_point_jump=dz,
        layer_boundary_score=1 - (clipped_ds + clipped_dz) / 2,
        scale_jump=model_ds,
        zero_point_jump=model_dz,
        unclipped_scale_jump=share @ ds,
        unclipped_zero_point_jump=share @ dz,
        boundary_score=1 - (model_ds + model_dz) / 2,
        severity=[severity(max(a, b), threshold) for a, b in zip(model_ds, model_dz, strict=True)],
    )
