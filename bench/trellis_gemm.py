#!/usr/bin/env python3
"""Multiplying with trellis codes tile by tile, beside a dense bf16 linear layer of torch.

A tile of rows is decoded into a small buffer and multiplied before the next one is decoded, so that
the whole matrix is never there. Beside it: the whole matrix decoded at each call, and a matrix that
lies decoded in bf16 (eight times the bytes). Milliseconds, medians of --runs, by number of tokens.
It needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import machine
from thermoq import _core
from thermoq.encodings import EncodingChoice, scheme_for
from thermoq.weights import Matrix, QuantizedMatrix, dequantize, quantize
from torch import Tensor

TOKENS = (1, 64, 256, 1024)
TILE = 256  # rows; a block, so that its streams are a matrix of their own
Layer = Callable[[Tensor], Tensor]


def stored(rows: int, cols: int, effort: int) -> list[QuantizedMatrix]:
    """Random weights in trellis codes, as tiles of rows."""
    choice = EncodingChoice("lsq", "trellis", effort=effort)
    tiles = []
    rng = np.random.default_rng(0)
    for first in range(0, rows, TILE):
        part = rng.standard_normal((min(TILE, rows - first), cols), np.float32) / np.sqrt(cols)
        matrix = Matrix(part.astype(np.float32).reshape(-1).view(np.uint8), "F32", *part.shape)
        scheme = scheme_for(2, cols, choice, matrix.rows)
        tiles.append(quantize(matrix, scheme, method="lsq")[0])
    return tiles


def decoded(tile: QuantizedMatrix, threads: int) -> Tensor:
    """A tile's weights in bf16."""
    data = dequantize(tile, "BF16", threads=threads)
    return torch.from_numpy(data).view(torch.bfloat16).reshape(tile.rows, tile.cols)


def by_tiles(tiles: list[QuantizedMatrix], threads: int) -> Layer:
    """Decode a tile, multiply, go on."""

    def run(x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], sum(tile.rows for tile in tiles), dtype=torch.bfloat16)
        first = 0
        for tile in tiles:
            out[:, first : first + tile.rows] = torch.mm(x, decoded(tile, threads).T)
            first += tile.rows
        return out

    return run


def whole(tiles: list[QuantizedMatrix], threads: int) -> Layer:
    """Decode all, then multiply."""
    return lambda x: torch.mm(x, torch.cat([decoded(tile, threads) for tile in tiles]).T)


def dense(tiles: list[QuantizedMatrix], threads: int) -> Layer:
    """What torch does with decoded weights."""
    weight = torch.cat([decoded(tile, threads) for tile in tiles])
    return lambda x: torch.nn.functional.linear(x, weight)


def milliseconds(layer: Layer, x: Tensor, runs: int) -> float:
    """The median of some calls after one that does not count."""
    layer(x)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--effort", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tiles = stored(options.rows, options.cols, options.effort)
    ways = {"by tiles": by_tiles, "decoded whole": whole, "dense bf16": dense}
    layers = {name: make(tiles, options.threads) for name, make in ways.items()}
    x = torch.randn(TOKENS[0], options.cols).bfloat16()
    assert torch.allclose(layers["by tiles"](x).float(), layers["dense bf16"](x).float(), atol=0.1)
    print(machine())
    print(f"[{options.rows}, {options.cols}], {options.threads} threads, {_core.simd_level()}")
    print(f"{'tokens':>6}" + "".join(f"{name:>16}" for name in layers) + f"{'tiles/dense':>14}")
    for tokens in TOKENS:
        x = torch.randn(tokens, options.cols).bfloat16()
        found = [milliseconds(layer, x, options.runs) for layer in layers.values()]
        cells = "".join(f"{one:16.1f}" for one in found)
        print(f"{tokens:>6}{cells}{found[0] / found[-1]:14.2f}", flush=True)


if __name__ == "__main__":
    main()
