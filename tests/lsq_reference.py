"""Least squares as the core has to do it, in plain NumPy: float32, one operation at a time.

Rows are independent, so everything is an array over rows; sums run over the columns in order. What
the optimum is, whatever the way to it, is `reference.exact_error`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from reference import F32, Codes, Doubles, Floats, Halves, half_down, half_up, inverse_of

STARTS = {
    2: [*product((0, 0.15, 0.3), repeat=2), (-0.5, 0), (0, -0.5)],
    4: [
        *product((0, 0.03, 0.07), repeat=2),
        *((-0.03, -0.03), (-0.03, 0), (0, -0.03), (-0.03, 0.03)),
        *((0.03, -0.03), (-0.03, 0.07), (0.07, -0.03)),
    ],
}
ROUNDS_PER_START, LAST_ROUNDS, ROUNDS_OF_CODES = 2, 3, 3
STEPS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1)]
SINGULAR = F32(1e-6)
MAX_HALF = F32(65504)


@dataclass(frozen=True)
class Group:
    """A group of every row, x [rows, n], with the weights of its columns [n]; None: equal."""

    x: Floats
    weights: Floats | None
    levels: int

    def weighted(self, values: Floats, column: int) -> Floats:
        return values if self.weights is None else values * self.weights[column]

    @property
    def total(self) -> np.float32:
        if self.weights is None:
            return F32(self.x.shape[1])
        total = F32(0)
        for weight in self.weights:
            total = total + weight
        return total

    def codes(self, scale: Floats, minimum: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            steps = (self.x - minimum[:, None]) * inverse_of(scale)[:, None]
        return np.rint(np.fmin(np.fmax(steps, F32(0)), F32(self.levels)))

    def sums(self, scale: Floats, minimum: Floats) -> tuple[Floats, Floats, Floats]:
        """Weighted sums of q, q * q and q * x."""
        codes = self.codes(scale, minimum)
        sums = [np.zeros(len(self.x), F32) for _ in range(3)]
        for i in range(self.x.shape[1]):
            code = self.weighted(codes[:, i], i)
            sums = [sums[0] + code, sums[1] + code * codes[:, i], sums[2] + code * self.x[:, i]]
        return sums[0], sums[1], sums[2]

    def sum(self) -> Floats:
        total = np.zeros(len(self.x), F32)
        for i in range(self.x.shape[1]):
            total = total + self.weighted(self.x[:, i], i)
        return total

    def error(self, scale: Floats, minimum: Floats) -> Floats:
        codes = self.codes(scale, minimum)
        total = np.zeros(len(self.x), F32)
        for i in range(self.x.shape[1]):
            error = (codes[:, i] * scale + minimum) - self.x[:, i]
            total = total + self.weighted(error * error, i)
        return total


def refitted(group: Group, scale: Floats, minimum: Floats) -> tuple[Floats, Floats, Floats]:
    """The best parameters for the codes of these, and what they gain over a constant."""
    codes, squares, products = group.sums(scale, minimum)
    scaled_squares = group.total * squares
    variance = scaled_squares - codes * codes
    covariance = group.total * products - codes * group.sum()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        new = covariance / variance
        regular = scaled_squares * SINGULAR < variance
        gain = np.where(regular, covariance * new, F32(0))
        new_minimum = (group.sum() - new * codes) / group.total
    return np.where(regular, new, scale), np.where(regular, new_minimum, minimum), gain


def fitted(group: Group, last_rounds: int) -> tuple[Floats, Floats]:
    """The best parameters that the starts lead to."""
    low, high = group.x.min(1), group.x.max(1)
    centre = (low + high) * F32(0.5)
    centred = Group(group.x - centre[:, None], group.weights, group.levels)
    width, bottom = high - low, low - centre
    best: tuple[Floats, Floats] | None = None
    best_gain = np.full(len(low), -1, F32)
    for clip in STARTS[2 if group.levels == 3 else 4]:
        below, above = F32(clip[0]), F32(clip[1])
        scale = (width * (F32(1) - below - above)) / F32(group.levels)
        minimum = bottom + width * below
        best = best or (scale, minimum)
        for _ in range(ROUNDS_PER_START):
            scale, minimum, gain = refitted(centred, scale, minimum)
        better = best_gain < gain
        best_gain = np.where(better, gain, best_gain)
        best = (np.where(better, scale, best[0]), np.where(better, minimum, best[1]))
    assert best is not None
    for _ in range(last_rounds):
        best = refitted(centred, *best)[:2]
    return best[0], best[1] + centre


def affine_group(group: Group) -> tuple[Halves, Halves, Codes]:
    """Scale, minimum and codes of a group with f16 parameters."""
    scale, minimum = fitted(group, LAST_ROUNDS)
    minimum16 = np.clip(minimum, -MAX_HALF, MAX_HALF).astype(np.float16)
    codes, squares, products = group.sums(scale, minimum16.astype(F32))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(squares > 0, (products - minimum16.astype(F32) * codes) / squares, scale)
    scale16 = np.clip(scale, F32(0), MAX_HALF).astype(np.float16)

    low, high = group.x.min(1) + F32(0), group.x.max(1)
    plain_minimum = np.where(low < high, half_down(low), low.astype(np.float16))
    step = np.where(low < high, (high - plain_minimum.astype(F32)) / F32(group.levels), F32(0))
    plain_scale = half_up(step)
    better = group.error(scale16.astype(F32), minimum16.astype(F32)) < group.error(
        plain_scale.astype(F32), plain_minimum.astype(F32)
    )
    scale16 = np.where(better, scale16, plain_scale)
    minimum16 = np.where(better, minimum16, plain_minimum)
    final = group.codes(scale16.astype(F32), minimum16.astype(F32))
    return scale16, minimum16, final.astype(np.uint8)


def lsq_affine(
    matrix: Floats, bit_width: int, group_size: int, importances: Floats | None = None
) -> tuple[Codes, Halves, Halves]:
    """Codes [rows, cols], scale and minimum [rows, groups]."""
    weights = normalized(importances, group_size)
    levels = 2**bit_width - 1
    parts = [
        affine_group(Group(matrix[:, part], weights if weights is None else weights[part], levels))
        for part in stretches(matrix.shape[1], group_size)
    ]
    scale, minimum, codes = zip(*parts, strict=True)
    return np.concatenate(codes, 1), np.stack(scale, 1), np.stack(minimum, 1)


def lsq_q8(matrix: Floats, importances: Floats | None = None) -> tuple[Codes, Halves]:
    """Codes [rows, cols] with sign and scale [rows, groups]."""
    weights = normalized(importances, 32)
    codes, scales = [], []
    for part in stretches(matrix.shape[1], 32):
        group = Group(matrix[:, part], weights if weights is None else weights[part], 127)
        scale = _best_q8_scale(group)
        scales.append(scale)
        codes.append(_q8_codes(group, scale.astype(F32)).astype(np.int8))
    return np.concatenate(codes, 1), np.stack(scales, 1)


def _q8_codes(group: Group, scale: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        steps = group.x * inverse_of(scale)[:, None]
    return np.rint(np.fmin(np.fmax(steps, F32(-127)), F32(127)))  # NaN becomes -127


def _best_q8_scale(group: Group) -> Halves:
    def error(scale: Halves) -> Floats:
        decoded = _q8_codes(group, scale.astype(F32)) * scale.astype(F32)[:, None]
        total = np.zeros(len(group.x), F32)
        for i in range(group.x.shape[1]):
            square = (decoded[:, i] - group.x[:, i]) * (decoded[:, i] - group.x[:, i])
            total = total + group.weighted(square, i)
        return total

    largest = np.abs(group.x).max(1)
    best = half_up(largest / F32(127))
    least = error(best)
    for candidate in range(16):
        started = largest / F32(127.5 - 0.5 * candidate)
        scale = _q8_refit(group, started).astype(np.float16)
        its_error = error(scale)
        better = its_error < least
        least, best = np.where(better, its_error, least), np.where(better, scale, best)
    return best


def _q8_refit(group: Group, scale: Floats) -> Floats:
    codes = _q8_codes(group, scale)
    squares = products = np.zeros(len(group.x), F32)
    for i in range(group.x.shape[1]):
        code = group.weighted(codes[:, i], i)
        squares, products = squares + code * codes[:, i], products + code * group.x[:, i]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares > 0, products / squares, scale)


@dataclass
class SuperBlock:
    """A super-block of every row: its groups, its pair and the codes under it."""

    groups: list[Group]
    top_scale: np.float32
    top_minimum: np.float32
    scale: Floats
    minimum: Floats
    scale_codes: list[Floats]
    minimum_codes: list[Floats]

    @classmethod
    def started(cls, groups: list[Group], scale_bits: int, minimum_bits: int) -> SuperBlock:
        """Fit each group by itself; the largest scale and minimum get the top codes."""
        top_scale, top_minimum = F32(2**scale_bits - 1), F32(2**minimum_bits - 1)
        fits = [fitted(group, 0) for group in groups]
        zero = np.zeros(len(groups[0].x), F32)
        largest = np.max([zero, *(fit[0] for fit in fits)], 0)
        lowest = np.min([zero, *(fit[1] for fit in fits)], 0)
        highest = np.max([zero, *(fit[1] for fit in fits)], 0)
        scale = half_up(np.minimum(largest / top_scale, MAX_HALF)).astype(F32)
        negative = highest < -lowest
        extent = np.minimum(np.maximum(highest, -lowest) / top_minimum, MAX_HALF)
        magnitude = half_up(extent).astype(F32)
        block = cls(
            groups,
            top_scale,
            top_minimum,
            scale,
            np.where(negative, magnitude, -magnitude),
            [np.rint(np.clip(fit[0] * inverse_of(scale), 0, top_scale)) for fit in fits],
            [
                np.rint(
                    np.clip(
                        np.where(negative, -fit[1], fit[1]) * inverse_of(magnitude), 0, top_minimum
                    )
                )
                for fit in fits
            ],
        )
        return block

    def decoded(self, scale_code: Floats, minimum_code: Floats) -> tuple[Floats, Floats]:
        return self.scale * scale_code, F32(0) - self.minimum * minimum_code

    def choose_codes(self) -> Floats:
        """Step to the best neighbours; returns the error of all groups."""
        total = np.zeros(len(self.scale), F32)
        for g, group in enumerate(self.groups):
            scale, minimum = self.scale_codes[g], self.minimum_codes[g]
            best = group.error(*self.decoded(scale, minimum))
            for up, out in STEPS[1:]:
                tried = np.clip(scale + F32(up), F32(0), self.top_scale)
                tried_minimum = np.clip(minimum + F32(out), F32(0), self.top_minimum)
                error = group.error(*self.decoded(tried, tried_minimum))
                better = error < best
                best = np.where(better, error, best)
                self.scale_codes[g] = np.where(better, tried, self.scale_codes[g])
                self.minimum_codes[g] = np.where(better, tried_minimum, self.minimum_codes[g])
            total = total + best
        return total

    def refit(self) -> None:
        """Fit the pair to the codes and round it."""
        uu = uv = vv = ux = vx = np.zeros(len(self.scale), F32)
        for group, u, v in zip(self.groups, self.scale_codes, self.minimum_codes, strict=True):
            codes, squares, products = group.sums(*self.decoded(u, v))
            uu, uv, vv = uu + u * u * squares, uv + u * v * codes, vv + v * v * group.total
            ux, vx = ux + u * products, vx + v * group.sum()
        determinant = uu * vv - uv * uv
        regular = uu * vv * SINGULAR < determinant
        with np.errstate(divide="ignore", invalid="ignore"):
            lone_scale = np.where(vv < uu * SINGULAR, ux / uu, self.scale)
            lone_minimum = np.where(uu < vv * SINGULAR, -vx / vv, self.minimum)
            scale = np.where(regular, (ux * vv - vx * uv) / determinant, lone_scale)
            minimum = np.where(regular, (ux * uv - vx * uu) / determinant, lone_minimum)
        rounded = np.minimum(scale, MAX_HALF).astype(np.float16).astype(F32)
        self.scale = np.where(rounded > 0, rounded, self.scale)
        limited = np.clip(minimum, -MAX_HALF, MAX_HALF)
        self.minimum = limited.astype(np.float16).astype(F32)

    def searched(self) -> tuple[Floats, Floats, list[Floats], list[Floats]]:
        """The best pair and codes of all rounds."""
        best: tuple[Floats, Floats, list[Floats], list[Floats]] | None = None
        least = np.zeros(len(self.scale), F32)
        for round_number in range(ROUNDS_OF_CODES):
            error = self.choose_codes()
            now = (self.scale, self.minimum, list(self.scale_codes), list(self.minimum_codes))
            if best is None:
                best, least = now, error
            else:
                better = error < least
                least = np.where(better, error, least)
                best = (
                    np.where(better, now[0], best[0]),
                    np.where(better, now[1], best[1]),
                    [np.where(better, a, b) for a, b in zip(now[2], best[2], strict=True)],
                    [np.where(better, a, b) for a, b in zip(now[3], best[3], strict=True)],
                )
            if round_number + 1 < ROUNDS_OF_CODES:
                self.refit()
        assert best is not None
        return best


@dataclass(frozen=True)
class CodedMatrix:
    """Unpacked codes [rows, cols], parameter codes [rows, groups], pairs [rows, super-blocks]."""

    codes: Codes
    scale_codes: Codes
    minimum_codes: Codes
    super_scale: Halves
    super_minimum: Halves


def lsq_coded(
    matrix: Floats,
    bit_width: int,
    group_size: int,
    super_block: int,
    scale_bits: int,
    minimum_bits: int,
    importances: Floats | None = None,
) -> CodedMatrix:
    """Quantize with coded group parameters."""
    weights = normalized(importances, group_size)
    found: list[list[NDArray[np.generic]]] = [[], [], [], [], []]
    for block in stretches(matrix.shape[1], super_block):
        x, w = matrix[:, block], weights if weights is None else weights[block]
        groups = [
            Group(x[:, part], w if w is None else w[part], 2**bit_width - 1)
            for part in stretches(x.shape[1], group_size)
        ]
        searched = SuperBlock.started(groups, scale_bits, minimum_bits)
        searched.scale, searched.minimum, scale_codes, minimum_codes = searched.searched()
        codes = [
            group.codes(*searched.decoded(scale, minimum))
            for group, scale, minimum in zip(groups, scale_codes, minimum_codes, strict=True)
        ]
        found[0].append(np.concatenate(codes, 1).astype(np.uint8))
        found[1].append(np.stack(scale_codes, 1).astype(np.uint8))
        found[2].append(np.stack(minimum_codes, 1).astype(np.uint8))
        found[3].append(searched.scale[:, None].astype(np.float16))
        found[4].append(searched.minimum[:, None].astype(np.float16))
    return CodedMatrix(*(np.concatenate(parts, 1) for parts in found))


def decode_coded(coded: CodedMatrix, group_size: int, super_block: int) -> Floats:
    """W^ = (super_scale * scale_code) * code - (super_minimum * minimum_code) in float32."""
    columns = np.arange(coded.codes.shape[1])
    group, block = columns // group_size, columns // super_block
    scale = coded.super_scale.astype(F32)[:, block] * coded.scale_codes.astype(F32)[:, group]
    minimum = coded.super_minimum.astype(F32)[:, block] * coded.minimum_codes.astype(F32)[:, group]
    decoded: Floats = scale * coded.codes.astype(F32) - minimum
    return decoded


def normalized(importances: Floats | None, group_size: int) -> Floats | None:
    """Importances with mean 1; where all of a group are 0, equal and tiny."""
    if importances is None:
        return None
    tiny = 2.0**-40
    total = importances.astype(np.float64).sum()
    unit = len(importances) / total if total > 0 else 0.0
    scaled: Doubles = np.where(
        importances > 0, np.maximum(importances.astype(np.float64) * unit, tiny), 0.0
    )
    for part in stretches(len(importances), group_size):
        if not importances[part].any():
            scaled[part] = tiny
    return scaled.astype(F32)


def stretches(length: int, size: int) -> list[slice]:
    """Cut `length` columns into pieces of `size`."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]
