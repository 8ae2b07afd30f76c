#!/usr/bin/env python3
"""Trellis codes on MiniLM's encoder: bits, error and speed beside least squares and llama.cpp.

Each line: bits per weight with everything counted, squared error relative to the weights as they
are and rotated, and weights per second of CPU time on one thread, coding (the fastest of --runs)
and decoding. The last lines judge the targets. A missed target is printed as "missed", and the exit
code is 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from measuring import Result, machine
from numpy.typing import NDArray
from peer_quantizers import peers
from points import encoder_matrices, use_threads
from quantizers import OURS, Missing, Quantizer, ours
from thermoq.rotation import Rotation
from thermoq.trellis import (
    Parts,
    TrellisScheme,
    dequantize_trellis,
    quantize_trellis,
    trellis_scheme_for,
)
from thermoq.weights import Matrix, QuantizedMatrix, dequantize

Floats = NDArray[np.float32]
Stored = tuple[TrellisScheme, Parts, tuple[int, ...]]
AFFINE = "lsq INT2 affine g64"
OURS_TOO = (AFFINE, "lsq INT2 coded g16 4+4", "lsq INT4 coded g32 6+6")
PEERS = ("Q2_K", "Q3_K", "Q4_K")
FORMAT = "{:32} {:>7} {:>8} {:>8} {:>11} {:>13}"
SEED = 7  # of the rotation
WAYS = [(2, bits) for bits in (8, 9, 10, 11, 12)] + [(3, 8), (4, 8)]
# What is wanted: error of rotated weights and bits; weights per second.
TARGETS = {"L=8": (0.0861, 2.065, 40e6), "L=12": (0.0715, 2.08, 4.5e6)}
DECODE, OF_AFFINE = 600e6, 0.4


@dataclass(frozen=True)
class Line:
    """What was measured: a line of the table."""

    name: str
    bits: float
    error: float
    rotated: float
    coding: float
    decoding: float

    def cells(self) -> list[str]:
        return [
            self.name,
            f"{self.bits:.4f}",
            f"{self.error:.4f}",
            f"{self.rotated:.4f}",
            f"{self.coding / 1e6:.1f}",
            f"{self.decoding / 1e6:.0f}",
        ]


def trellis(bit_width: int, window_bits: int) -> Quantizer:
    """The codes that this is about."""

    def store(weight: Floats, threads: int) -> Stored:
        matrix = Matrix(weight.reshape(-1).view(np.uint8), "F32", *weight.shape)
        scheme = trellis_scheme_for(*weight.shape, bit_width, window_bits)
        parts, _ = quantize_trellis(matrix, scheme, threads=threads)
        return scheme, parts, weight.shape

    def decode(stored: Stored) -> Floats:
        scheme, parts, (rows, cols) = stored
        values = dequantize_trellis(parts, scheme, rows, cols, threads=1)
        return values.view(np.float32).reshape(rows, cols)

    return Quantizer(
        OURS,
        f"trellis INT{bit_width} L={window_bits}",
        quantize=store,
        bits=lambda stored: 8 * sum(part.nbytes for part in stored[1].values()),
        decode=decode,
    )


def decode_alone(stored: QuantizedMatrix) -> Floats:
    """Decode on one thread, as CPU time counts all."""
    return dequantize(stored, threads=1).view(np.float32).reshape(stored.rows, stored.cols)


def cpu_s(action: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """CPU seconds of the fastest of some calls, and what the last returned."""
    fastest, found = float("inf"), None
    for _ in range(runs):
        start = time.process_time()
        found = action()
        fastest = min(fastest, time.process_time() - start)
    return fastest, found


def measure(quantizer: Quantizer, matrices: list[Floats], runs: int) -> tuple[float, ...]:
    """Bits, error, and weights per second coded and decoded."""
    bits = count = 0
    lost = energy = coding_s = decoding_s = 0.0
    for weight in matrices:
        prepared = quantizer.prepare(weight)
        elapsed_s, stored = cpu_s(partial(quantizer.quantize, prepared, 1), runs)
        coding_s += elapsed_s
        elapsed_s, decoded = cpu_s(partial(quantizer.decode, stored), max(5, runs))
        decoding_s += elapsed_s
        lost += float(np.square(decoded - weight, dtype=np.float64).sum())
        energy += float(np.square(weight, dtype=np.float64).sum())
        bits, count = bits + quantizer.bits(stored), count + weight.size
    return bits / count, lost / energy, count / coding_s, count / decoding_s


def verdicts(lines: dict[str, Line], affine: Line) -> list[Result]:
    """The targets."""
    results = []
    for name, (error, bits, speed) in TARGETS.items():
        line = lines.get(f"trellis INT2 {name}")
        if line is not None:
            results += [
                Result(f"{name}: error, rotated", line.rotated, target=error, at_least=False),
                Result(f"{name}: bits", line.bits, target=bits, at_least=False),
                Result(f"{name}: coding", line.coding / 1e6, "M/s", target=speed / 1e6),
                Result(f"{name}: decoding", line.decoding / 1e6, "M/s", target=DECODE / 1e6),
                Result(
                    f"{name}: decoding, of affine's", line.decoding / affine.decoding,
                    target=OF_AFFINE,
                ),
            ]  # fmt: skip
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th matrix")
    options = parser.parse_args()
    use_threads(1)
    plain = [np.ascontiguousarray(x, np.float32) for x in encoder_matrices()[:: options.every]]
    rotated = [Rotation(SEED, x.shape[1]).forward(x, 1) for x in plain]
    quantizers = [trellis(*way) for way in WAYS]
    known = {one.name: one for one in ours()}
    quantizers += [replace(known[name], decode=decode_alone) for name in OURS_TOO]
    for one in peers():
        if isinstance(one, Quantizer) and one.name in PEERS:
            quantizers.append(one)
        elif isinstance(one, Missing):
            print(f"no {one.family}: {one.reason}")
    print(machine())
    print(FORMAT.format("", "bits", "error", "rotated", "coding M/s", "decoding M/s"))
    lines = {}
    for one in quantizers:
        bits, turned, coding, decoding = measure(one, rotated, options.runs)
        line = Line(one.label, bits, measure(one, plain, 1)[1], turned, coding, decoding)
        print(FORMAT.format(*line.cells()), flush=True)
        lines[one.name] = line
    for result in verdicts(lines, lines[AFFINE]):
        print("  ".join(cell for cell in result.row() if cell))


if __name__ == "__main__":
    main()
