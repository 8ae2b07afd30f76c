"""`trellis`: b bits a weight, spent as one path through 2^L states (docs/format.md).

    W^[r, c] = scale[r, c / group_size] * table[window(r, c)]

In a block of rows, a column is a stream of bits; row r's window is the L bits from bit b * r on.
The encoder finds the stream of least squared error (the bit-shift trellis of QTIP, Tseng et al.,
arXiv 2406.11235). A sequence runs down the rows of one column, so that `hessian` can make up for
the error of a column in those that follow, and eight neighbouring rows decode from one load.

The table is that of `table_of`. Its order decides how good the codes are: windows are dealt into
2^b classes so that the windows that may follow one another, and those that may lead to the same
one, are each of another class, and each class has a range of values of its own. From any state the
next weight finds something near it (as in Ungerboeck's set partitioning); at L = 8 the error is
lower by a tenth than in a shuffled table, as low as there with L = 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thermoq import _core
from thermoq.matrices import (
    FLOAT_TYPES,
    Matrix,
    StoredParts,
    WeightError,
    check_range,
    checked_importances,
)
from thermoq.rotation import sequence_of

MIN_WINDOW_BITS: Final = 8
MAX_WINDOW_BITS: Final = 12
MAX_BLOCK_ROWS: Final = 4096  # the core's limit
TABLE_SEED: Final = 1

WINDOW_BITS: Final = {1: 8, 2: 9, 3: 10, 4: 11, 5: 12}
"""L by effort."""

SECONDS_PER_MILLION: Final = {8: 0.02, 9: 0.027, 10: 0.044, 11: 0.075, 12: 0.14}
"""What a million weights of 2 bits take by L, on one thread of a server of 2022 (bench/trellis.py);
those of 3 and 4 bits up to twice as long. Measure on the machine where it matters."""

Parts = dict[str, NDArray[np.generic]]

_MAX_ROWS: Final = 1024  # of a block by default: what a longer one saves is below 0.01 bits
_MAX_GROUP: Final = 4096  # columns; a scale for less than a row costs more than it brings
_PASSES: Final = 3  # at most; one is enough unless a fit moves the scales


@dataclass(frozen=True)
class TrellisScheme:
    """How a matrix is stored: codes of 2, 3 or 4 bits, an f16 scale per row and group.

    `window_bits`: L. `block_rows`: rows of a column that are one stream, a multiple of 8.
    """

    bit_width: int
    window_bits: int
    group_size: int
    block_rows: int
    table_seed: int = TABLE_SEED

    @property
    def table(self) -> NDArray[np.int16]:
        """The values of the windows [2^L], in units of 1 / 4096."""
        return table_of(self.table_seed, self.bit_width, self.window_bits)

    def groups(self, cols: int) -> int:
        """Return the scales of a row."""
        return -(-cols // self.group_size)

    def stream_bits(self, rows: int) -> int:
        """Return the bits of a column's stream in a block of `rows` rows."""
        return self.bit_width * rows + self.window_bits - self.bit_width

    def stream_bytes(self, rows: int) -> int:
        """Return the bytes of a column's stream in a block of `rows` rows."""
        return -(-self.stream_bits(rows) // 8)

    def codes_bytes(self, rows: int, cols: int) -> int:
        """Return the bytes of all streams, block after block, in each column after column."""
        blocks, rest = divmod(rows, self.block_rows)
        last = self.stream_bytes(rest) if rest else 0
        return cols * (blocks * self.stream_bytes(self.block_rows) + last)

    def stored_parts(self, rows: int, cols: int) -> StoredParts:
        """Return safetensors dtype and shape by suffix, in the order of the checksum."""
        return {
            "scale": ("F16", (rows, self.groups(cols))),
            "codes": ("U8", (self.codes_bytes(rows, cols),)),
        }

    def _arguments(self) -> tuple[int, int, int, int, NDArray[np.int16]]:
        return self.bit_width, self.window_bits, self.group_size, self.block_rows, self.table


def trellis_scheme_for(rows: int, cols: int, bit_width: int, window_bits: int) -> TrellisScheme:
    """Return how a matrix is stored where nothing else is asked for.

    A scale a row, up to 4,096 columns. Blocks are equal, as few as have at most 1,024 rows.
    """
    return TrellisScheme(
        bit_width,
        window_bits,
        group_size=default_group_size(cols),
        block_rows=default_block_rows(rows),
    )


def default_group_size(cols: int) -> int:
    """Return the columns of a group: a whole row, cut into equal groups where it is long."""
    return _equal_pieces(cols, _MAX_GROUP)


def default_block_rows(rows: int) -> int:
    """Return the rows of a block."""
    return _equal_pieces(rows, _MAX_ROWS)


def _equal_pieces(count: int, most: int) -> int:
    """Cut `count` into equal pieces of at most `most`; their length, rounded up to eights."""
    pieces = max(1, -(-count // most))
    return 8 * max(1, -(-count // (8 * pieces)))


@cache
def table_of(seed: int, bit_width: int, window_bits: int) -> NDArray[np.int16]:
    """Return the table [2^window_bits] that a seed from 0 to 2^64 - 1 gives. It is read-only.

    Its values are the quantiles (i + 1/2) / 2^L of the normal distribution, in 1 / 4096 to the
    nearest, in ascending order over the windows sorted by class and then by key. Keys are the
    first 2^L numbers of the splitmix64 sequence of the seed. A window's class is the exclusive or
    of its newest (lowest) and oldest (highest) b bits and the top b bits of the sequence's number
    2^L + m, m being the L - 2 b bits in the middle.
    """
    count, middles = 1 << window_bits, 1 << (window_bits - 2 * bit_width)
    keys = sequence_of(seed, 0, count + middles)
    windows = np.arange(count, dtype=np.uint64)
    oldest = windows >> np.uint64(window_bits - bit_width)
    middle = (windows >> np.uint64(bit_width)) & np.uint64(middles - 1)
    turn = keys[count:][middle] >> np.uint64(64 - bit_width)
    classes = (windows ^ oldest ^ turn) & np.uint64((1 << bit_width) - 1)
    normal = NormalDist()
    quantiles = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    table = np.empty(count, np.int16)
    table[np.lexsort((keys[:count], classes))] = np.rint(
        _core.TRELLIS_TABLE_UNIT * np.array(quantiles)
    )
    table.flags.writeable = False
    return table


def first_scales(
    weights: NDArray[np.float32], scheme: TrellisScheme, threads: int = 0
) -> NDArray[np.float16]:
    """Return the scales that `quantize_trellis` begins with for rows that are one group [rows]."""
    rows, cols = weights.shape
    found = _core.first_trellis_scales(
        np.ascontiguousarray(weights).reshape(-1).view(np.uint8),
        FLOAT_TYPES["F32"],
        rows,
        cols,
        scheme.bit_width,
        scheme.window_bits,
        8 * max(1, -(-cols // 8)),
        threads,
    )
    scales: NDArray[np.float16] = found.view(np.float16).reshape(rows)
    return scales


def quantize_trellis(
    matrix: Matrix,
    scheme: TrellisScheme,
    *,
    importances: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> tuple[Parts, WeightError]:
    """Find the codes and scales of least squared error; returns them by suffix, and the error.

    `importances` [cols] weigh the fit of the scales; the paths of columns do not depend on them.
    Raises InputError as `weights.quantize` does.
    """
    if importances is not None:
        importances = checked_importances(importances, matrix.cols)
    codes, scale, error = _core.quantize_trellis(
        matrix.data,
        FLOAT_TYPES[matrix.dtype],
        matrix.rows,
        matrix.cols,
        *scheme._arguments(),
        importances,
        _PASSES,
        threads,
    )
    check_range(error.nan_count, error.infinity_count, error.max_magnitude)
    measured = WeightError(
        error.squared_error, error.source_energy, error.decoded_energy, error.max_error
    )
    return {"scale": scale.view(np.float16), "codes": codes}, measured


def dequantize_trellis(
    parts: Parts,
    scheme: TrellisScheme,
    rows: int,
    cols: int,
    dtype: str = "F32",
    *,
    threads: int = 0,
) -> NDArray[np.uint8]:
    """Decode to bytes of `dtype` ("F32", "F16" or "BF16"), row-major [rows, cols]."""
    return _core.dequantize_trellis(
        parts["codes"].view(np.uint8),
        parts["scale"].view(np.uint16),
        rows,
        cols,
        *scheme._arguments(),
        FLOAT_TYPES[dtype],
        threads,
    )
