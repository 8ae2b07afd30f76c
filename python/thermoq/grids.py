"""The values that a unit of columns can take: a pair of f16 numbers a row, and codes under it.

A unit is a group, or a super-block of coded groups. Row by row,
W^ = (first * scale_codes) * code + second * minimum_codes, with the codes of a column's group;
`affine` and `q8` have one group and codes of 1 (`q8` a second one of 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq.bit_streams import unpack
from thermoq.terms import Encoding
from thermoq.weights import QuantizedMatrix

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

PAIR: Final = ("super_scale", "super_minimum")
CODES: Final = ("scale_codes", "minimum_codes")

_PARALLEL: Final = 1e-6  # below this share of independence two directions count as one


@dataclass(frozen=True)
class Grid:
    """The values of a unit's weights [rows, columns]."""

    kind: Encoding
    first: Halves  # [rows, 1]
    second: Halves
    scale_codes: Floats  # [rows, groups of the unit]
    minimum_codes: Floats  # the same; at most 0 for `coded`

    @property
    def scale(self) -> Floats:
        """What a step of the code is worth [rows, groups]."""
        return self.first.astype(np.float32) * self.scale_codes

    @property
    def minimum(self) -> Floats:
        """What the code 0 stands for [rows, groups]."""
        return self.second.astype(np.float32) * self.minimum_codes

    def where(self, other: Grid, chosen: NDArray[np.bool_]) -> Grid:
        """Return this grid with the rows `chosen` [rows] of another."""
        rows = chosen[:, None]
        return Grid(
            self.kind,
            np.where(rows, other.first, self.first),
            np.where(rows, other.second, self.second),
            np.where(rows, other.scale_codes, self.scale_codes),
            np.where(rows, other.minimum_codes, self.minimum_codes),
        )

    def refitted(
        self,
        codes: Floats,
        errors: Floats,
        factor: Floats,
        group_of: NDArray[np.int32],
        product: Callable[[Floats, Floats], Floats],
    ) -> Grid:
        """Return the grid whose pair costs least if the `codes` [rows, columns] stay.

        `errors` are the scaled errors E R of the unit, and `factor` its part of R: a change of the
        pair by (a, b) leaves E R - a A - b B, with A and B what the pair is multiplied with, times
        R. That is least squares in two unknowns. `product` multiplies (`blas_threads`).
        """
        if self.kind == "coded":
            codes = codes * self.scale_codes[:, group_of]
        by_first = product(codes, factor)
        # The same in all rows of `affine`, and 0 in `q8`.
        minimum_codes = self.minimum_codes if self.kind == "coded" else self.minimum_codes[:1]
        by_second = product(minimum_codes[:, group_of], factor)
        aa, ab = _dot(by_first, by_first), _dot(by_first, by_second)
        bb = _dot(by_second, by_second)
        ea, eb = _dot(errors, by_first), _dot(errors, by_second)
        both = aa * bb - ab * ab
        enough = both > _PARALLEL * aa * bb
        both[~enough] = 1.0
        one = np.divide(ea, aa, out=np.zeros_like(ea), where=aa > 0.0)
        first = self.first[:, 0] + np.where(enough, (ea * bb - eb * ab) / both, one)
        second = self.second[:, 0] + np.where(enough, (eb * aa - ea * ab) / both, 0.0)
        largest = float(np.finfo(np.float16).max)
        kept = (first >= 0.0) & (first < largest) & (np.abs(second) < largest)
        return replace(
            self,
            first=np.where(kept, first, self.first[:, 0]).astype(np.float16)[:, None],
            second=np.where(kept, second, self.second[:, 0]).astype(np.float16)[:, None],
        )


def grid_of(fitted: QuantizedMatrix) -> Grid:
    """Return the grid of a unit's columns, quantized as a matrix."""
    parts, scheme = fitted.parts, fitted.scheme
    if scheme.encoding == "coded":
        groups = -(-fitted.cols // scheme.group_size)
        scales, minima = (
            unpack(parts[name].view(np.uint8), bits, groups).astype(np.float32)
            for name, bits in zip(CODES, (scheme.scale_bits, scheme.minimum_bits), strict=True)
        )
        first, second = (parts[name].view(np.float16) for name in PAIR)
        return Grid(scheme.encoding, first, second, scales, 0 - minima)
    first = parts["scale"].view(np.float16)
    one = np.ones(first.shape, np.float32)
    if scheme.encoding == "q8":
        return Grid(scheme.encoding, first, np.zeros_like(first), one, np.zeros_like(one))
    return Grid(scheme.encoding, first, parts["minimum"].view(np.float16), one, one)


def _dot(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return the dot product of each row of `a` with its row of `b`, or with the only one."""
    if len(b) == 1:
        return np.asarray(np.einsum("ij,j->i", a, b[0]), np.float64)
    return np.asarray(np.einsum("ij,ij->i", a, b), np.float64)
