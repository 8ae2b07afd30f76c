"""Trellis codes on MiniLM's encoder: bits, error and speed beside least squares and llama.cpp."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from measuring import ROOT, Result, note
from numpy.typing import NDArray
from peer_quantizers import peers
from points import encoder_matrices, use_threads
from quantizers import OURS, Missing, Quantizer, ours
from reports import Report
from thermoq.rotation import Rotation
from thermoq.trellis import (
    Parts,
    TrellisScheme,
    dequantize_trellis,
    first_scales,
    quantize_trellis,
    trellis_scheme_for,
)
from thermoq.weights import Matrix, QuantizedMatrix, dequantize

Floats = NDArray[np.float32]
Stored = tuple[TrellisScheme, Parts, tuple[int, ...]]
AFFINE = "lsq INT2 affine g64"
OURS_TOO = (AFFINE, "lsq INT2 coded g16 4+4", "lsq INT4 coded g32 6+6")
PEERS = ("Q2_K", "Q3_K", "Q4_K")
HEAD = ("", "bits/weight", "error", "rotated", "coding M/s", "decoding M/s")
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


def verdicts(lines: dict[str, Line]) -> list[Result]:
    """The targets of 2 bits, Q2_K's and affine's speeds beside."""
    affine, peer = lines[AFFINE], lines.get(PEERS[0])
    results = []
    for name, (error, bits, speed) in TARGETS.items():
        line = lines[f"trellis INT2 {name}"]
        beside = "" if peer is None else f"{peer.name} {peer.coding / 1e6:.1f}"
        results += [
            Result(f"{name}: error, rotated", line.rotated, "", None, None, error, False),
            Result(
                f"{name}: bits per weight", line.bits, "", None, None, bits, False,
                f"{line.bits:.4f}",
            ),
            Result(
                f"{name}: coding, on a thread", line.coding / 1e6, "M/s",
                target=speed / 1e6, detail=beside,
            ),
            Result(
                f"{name}: decoding, on a thread", line.decoding / 1e6, "M/s",
                target=DECODE / 1e6, detail=f"{affine.name} {affine.decoding / 1e6:.0f}",
            ),
            Result(
                f"{name}: decoding, over affine's", line.decoding / affine.decoding, "x",
                target=OF_AFFINE,
            ),
        ]  # fmt: skip
    return results


def beside_float64(matrices: list[Floats]) -> Result:
    """The error beside that of the best paths in float64, on rows of three kinds."""
    sys.path.insert(0, str(ROOT / "tests"))
    from trellis_reference import UNIT, windows

    rng = np.random.default_rng(SEED)
    kinds = {
        "Gaussian": rng.standard_normal((64, 48)).astype(np.float32),
        "Laplace": rng.laplace(size=(64, 48)).astype(np.float32),
        "real": np.ascontiguousarray(matrices[0][:64, :48]),
    }
    ratios = {}
    for kind, weights in kinds.items():
        for window_bits in (8, 12):
            scheme = trellis_scheme_for(*weights.shape, 2, window_bits)
            matrix = Matrix(weights.reshape(-1).view(np.uint8), "F32", *weights.shape)
            _, error = quantize_trellis(matrix, scheme, threads=1)
            scale = first_scales(weights, scheme).astype(np.float64)[:, None]
            path = windows(weights / scale * UNIT, scheme.table, 2, window_bits, exact=True)
            values = scheme.table[path].astype(np.float64)
            fitted = (weights * values).sum(1) / np.square(values).sum(1)
            best = np.square(fitted[:, None] * values - weights).sum()
            ratios[f"{kind} L={window_bits}"] = error.squared_error / float(best)
    detail = ", ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items())
    worst = max(ratios.values())
    return Result("error over float64's, worst", worst, "x", None, None, 1.02, False, detail)


def report(runs: int, every: int) -> Report:
    """Measure everybody on every n-th matrix."""
    use_threads(1)
    plain = [np.ascontiguousarray(x, np.float32) for x in encoder_matrices()[::every]]
    rotated = [Rotation(SEED, x.shape[1]).forward(x, 1) for x in plain]
    quantizers = [trellis(*way) for way in WAYS]
    known = {one.name: one for one in ours()}
    quantizers += [replace(known[name], decode=decode_alone) for name in OURS_TOO]
    missing = []
    for one in peers():
        if isinstance(one, Quantizer) and one.name in PEERS:
            quantizers.append(one)
        elif isinstance(one, Missing):
            missing.append(f"{one.family}: not measured, {one.reason}")
    lines = {}
    for one in quantizers:
        note(f"trellis: {one.label}")
        bits, turned, coding, decoding = measure(one, rotated, runs)
        lines[one.name] = Line(one.label, bits, measure(one, plain, 1)[1], turned, coding, decoding)
    what = (
        f"{len(plain)} encoder matrices of all-MiniLM-L6-v2, without calibration data, everything "
        "stored counted: squared error, relative, of the weights as they are and rotated, and "
        f"millions of weights per second of CPU time on one thread, the fastest of {runs}"
    )
    rows = [list(HEAD), *(line.cells() for line in lines.values())]
    return Report(what, rows, missing, [*verdicts(lines), beside_float64(plain)], "value", "")
