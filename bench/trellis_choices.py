#!/usr/bin/env python3
"""The choices behind trellis codes, at 2 bits: where a stream starts, and which way it runs.

    start      a stream of its own start and end beside one that bites its own tail, which saves
               L - 2 bits a stream and takes two searches; on Gaussian columns
    direction  `hessian` with streams down the rows of a column (as thermoq has them) beside streams
               along a row, of which some columns are decided before what they lost goes to those
               behind; rotated, on the layers of both models: error of the output on held-out rows

Paths other than thermoq's own are found here, in NumPy, by float costs. Without calibrations in
--workdir it makes them first. It needs the extra `torch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import demo_model
import gptq
import language_model
import numpy as np
import trellis_models
from measuring import ROOT, THREADS, machine, note
from numpy.typing import NDArray
from reports import Report
from thermoq.hessian import DAMPING
from thermoq.inverse_gram import damping_of
from thermoq.rotation import Rotation
from thermoq.trellis import (
    TABLE_SEED,
    dequantize_trellis,
    first_scales,
    table_of,
    trellis_scheme_for,
)
from thermoq.trellis_hessian import quantize_trellis_hessian
from variants import MODEL_ITSELF

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

BITS, UNIT = 2, np.float32(4096)
SEED = 7
SCALE, ROOM = np.float32(1.03), np.float32(1.07)  # about what thermoq's scales begin with
LENGTHS, COLUMNS = (384, 1024), 96
AT_ONCE = (8, 16, 32, 64)
WINDOW_BITS = 8  # of the directions


def entries(window_bits: int) -> Floats:
    """The values of all windows."""
    return table_of(TABLE_SEED, BITS, window_bits).astype(np.float32) / UNIT


def paths(
    values: Floats, window_bits: int, begin: Integers | None = None, end: Integers | None = None
) -> Integers:
    """The best windows [n, columns] for columns of `values` [n, columns], the first row first.

    `begin` [columns]: the L - b oldest bits of the first window, `end` [columns]: the newest of the
    last one; each free if None.
    """
    n, columns = values.shape
    shared, fan = 1 << (window_bits - BITS), 1 << BITS
    table, numbers = entries(window_bits), np.arange(columns)
    reached = np.empty((n, columns, shared), np.uint8)
    costs = np.square(values[0][:, None] - table)
    if begin is not None:
        costs[(np.arange(table.size) % shared)[None, :] != begin[:, None]] = np.inf
    for row in range(1, n):
        before = costs.reshape(columns, shared, fan)
        reached[row] = before.argmin(axis=2)
        least = before.min(axis=2)
        costs = np.tile(least, (1, fan)) + np.square(values[row][:, None] - table)
    if end is not None:
        costs[(np.arange(table.size) // fan)[None, :] != end[:, None]] = np.inf
    found = np.empty((n, columns), np.int64)
    found[-1] = costs.argmin(axis=1)
    for row in range(n - 1, 0, -1):
        middle = found[row] % shared
        found[row - 1] = middle * fan + reached[row, numbers, middle]
    return found


def tail_biting(values: Floats, window_bits: int) -> Integers:
    """Windows whose stream is a ring: where it closes comes from a search half a ring away."""
    half = len(values) // 2
    around = paths(np.roll(values, half, axis=0), window_bits)
    closing = around[half - 1] >> BITS
    return paths(values, window_bits, closing, closing)


def start() -> Report:
    """Both on the same columns."""
    head = ["L", "rows", "own start: bits", "error", "ring: bits", "error"]
    head += ["ring over own start, at equal bits"]
    rows = [head]
    rng = np.random.default_rng(SEED)
    for length in LENGTHS:
        values = rng.standard_normal((length, COLUMNS)).astype(np.float32)
        for window_bits in (8, 10, 12):
            note(f"start: {length} rows, L = {window_bits}")
            errors = [
                fitted_error(values, entries(window_bits)[search(values / SCALE, window_bits)])
                for search in (paths, tail_biting)
            ]
            extra = (window_bits - BITS) / length
            equal = errors[1] / (errors[0] * 4.0**extra)
            rows.append([
                str(window_bits), str(length), f"{BITS + extra:.4f}", f"{errors[0]:.5f}",
                f"{BITS:.4f}", f"{errors[1]:.5f}", f"{equal:.4f}",
            ])  # fmt: skip
    what = (
        f"{COLUMNS} Gaussian columns, scales and whole bytes left out; at equal bits: had the bits "
        "that a ring saves been spent at 6 dB each"
    )
    return Report(what, rows)


def fitted_error(values: Floats, found: Floats) -> float:
    """The relative squared error with the best scale for all."""
    scale = float((values * found).sum(dtype=np.float64) / np.square(found).sum(dtype=np.float64))
    lost = np.square(scale * found - values).sum(dtype=np.float64)
    return float(lost / np.square(values).sum(dtype=np.float64))


def models(workdir: Path, threads: int) -> Iterator[tuple[str, list[gptq.Layer]]]:
    """Yield the layers of both models, rotated."""
    given = trellis_models.options(64, 1, threads, workdir)
    demo = demo_model.calibrations(given)[MODEL_ITSELF]
    text = language_model.calibrations(given)[language_model.TEXT]
    for name, model, calibration in (
        ("demo model", demo_model.MODEL, demo),
        ("language model", language_model.MODEL, text),
    ):
        turned = []
        for one in gptq.layers(model, calibration):
            rotation = Rotation(SEED, one.weight.shape[1])
            parts = (rotation.forward(x, 1) for x in (one.weight, one.rows, one.held_out))
            turned.append(gptq.Layer(one.name, *parts))
        yield name, turned


def direction(workdir: Path, threads: int) -> Report:
    """Each way on every layer; ratios to the streams down the rows, their geometric mean."""
    head = ["streams"]
    names = ["down the rows of a column", *(f"along a row, {n} columns at once" for n in AT_ONCE)]
    names.append("along a row, all at once (no feedback)")
    columns = []
    for name, layers in models(workdir, threads):
        head.append(name)
        ratios = []
        for layer in layers:
            note(f"direction: {name}, {layer.name}")
            down = layer.error(down_the_rows(layer, threads))
            lengths = (*AT_ONCE, layer.weight.shape[1])
            along = [layer.error(along_the_rows(layer, count)) for count in lengths]
            ratios.append(np.log(np.array([down, *along]) / down))
        columns.append(np.exp(np.mean(ratios, axis=0)))
    lines = np.stack(columns, axis=1).tolist()
    rows = [head]
    rows += [
        [name, *(f"{one:.3f}" for one in line)] for name, line in zip(names, lines, strict=True)
    ]
    return Report("output error over that of streams down the rows", rows)


def down_the_rows(layer: gptq.Layer, threads: int) -> Floats:
    """What thermoq stores, decoded."""
    shape = layer.weight.shape
    scheme = trellis_scheme_for(*shape, BITS, WINDOW_BITS)
    parts = quantize_trellis_hessian(
        layer.weight, scheme, layer.rows, by_activation=True, threads=threads
    )
    return (
        dequantize_trellis(parts, scheme, *shape, threads=threads).view(np.float32).reshape(shape)
    )


def along_the_rows(layer: gptq.Layer, at_once: int) -> Floats:
    """A stream a row, decided `at_once` columns at a time; else the same scales, order, damping."""
    inputs = layer.rows.astype(np.float64)
    order = np.argsort(-np.square(inputs).sum(axis=0), kind="stable")
    inputs, source = inputs[:, order], layer.weight[:, order].astype(np.float64)
    gram = inputs.T @ inputs / len(inputs)
    gram[np.diag_indices_from(gram)] += damping_of(layer.rows, DAMPING)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    rows, cols = source.shape
    scheme = trellis_scheme_for(rows, cols, BITS, WINDOW_BITS)
    scale = first_scales(ROOM * layer.weight, scheme, 1).astype(np.float32)[:, None]
    weights, found = source.copy(), np.empty((rows, cols))
    begin = None
    for first in range(0, cols, at_once):
        own, behind = slice(first, first + at_once), slice(first + at_once, cols)
        values = (weights[:, own] / scale).astype(np.float32)
        windows = paths(values.T, WINDOW_BITS, begin)
        begin = windows[-1] >> BITS
        found[:, own] = entries(WINDOW_BITS)[windows].T
        errors = np.linalg.solve(upper[own, own].T, (weights[:, own] - scale * found[:, own]).T).T
        weights[:, behind] -= errors @ upper[own, behind]
    fitted = np.einsum("rc,cd,rd->r", found, gram, source, optimize=True)
    fitted /= np.einsum("rc,cd,rd->r", found, gram, found, optimize=True)
    decoded = np.empty((rows, cols), np.float32)
    decoded[:, order] = fitted[:, None] * found
    return decoded


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=("start", "direction"))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--workdir", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    print(machine().rpartition(";")[0])
    for what in options.what:
        found = start() if what == "start" else direction(options.workdir, options.threads)
        found.print()


if __name__ == "__main__":
    main()
