#!/usr/bin/env python3
"""Time and peak memory of one large layer with `hessian`, in a process of its own.

As a program it stores one made-up layer and prints what that took as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import Result, note
from reports import Options, Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Shape = tuple[int, int]

DOWN: Shape = (3584, 18944)  # Dream-7B's down projection
NUM_ROWS = 2000
TARGET_S, TARGET_GB = 240.0, 6.0
# Dream-7B's other matrices: how many of each shape there are in all of its 28 blocks.
DREAM_BLOCKS = 28
DREAM: dict[Shape, int] = {(3584, 3584): 2, (512, 3584): 2, (18944, 3584): 2, DOWN: 1}
RANK = 512  # of the made-up inputs, but for some noise


def report(options: Options) -> Report:
    """One large layer in three ways; or each shape of a large model once."""
    threads = options.threads
    if options.whole_model:
        results = whole_model(threads)
    else:
        ways = (("hessian", "affine"), ("hessian", "coded"), ("lsq", "coded"))
        results = [one for way in ways for one in measure(DOWN, threads, *way)[0]]
    what = f"a process for each made-up layer; {NUM_ROWS:,} rows whose spectrum falls as 1/k"
    return Report(what, results=results)


def made_up(rows: int, cols: int, num_inputs: int) -> tuple[Floats, Floats]:
    """Return a weight [rows, cols] and inputs [num_inputs, cols] whose spectrum falls as 1/k.

    A few columns are much larger than the rest, as in transformers.
    """
    import numpy as np

    random = np.random.default_rng(0)
    weight = 0.02 * random.standard_normal((rows, cols), np.float32)
    rank = min(RANK, cols, num_inputs)
    mixture = random.standard_normal((num_inputs, rank), np.float32)
    mixture /= np.sqrt(np.arange(1, rank + 1, dtype=np.float32))
    inputs = mixture @ random.standard_normal((rank, cols), np.float32)
    inputs += 0.3 * random.standard_normal(inputs.shape, np.float32)
    inputs *= np.exp(0.7 * random.standard_normal(cols, np.float32))
    return weight, inputs


def child(
    shape: Shape, num_rows: int, settings: dict[str, object], threads: int
) -> dict[str, float]:
    """Store one layer; peaks are of the whole process, the layer and its rows included."""
    import numpy as np
    from thermoq.encodings import EncodingChoice, scheme_for

    coded = settings["encoding"] == "coded"
    choice = EncodingChoice("lsq", "coded" if coded else "affine", None if coded else 64)
    scheme = scheme_for(2, shape[1], choice)
    weight, inputs = made_up(*shape, num_rows)
    before = _peak_bytes()
    start = time.perf_counter()
    if settings["method"] == "hessian":
        from thermoq.hessian import quantize_hessian

        quantize_hessian(weight, scheme, inputs, threads=threads)
    else:
        from thermoq.weights import Matrix, quantize

        matrix = Matrix(weight.reshape(-1).view(np.uint8), "F32", *shape)
        quantize(matrix, scheme, method="lsq", threads=threads)
    elapsed_s = time.perf_counter() - start
    return {"elapsed_s": elapsed_s, "before_bytes": before, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(
    shape: Shape, threads: int, method: str = "hessian", encoding: str = "affine"
) -> tuple[list[Result], float | None]:
    """Time and peak memory of a layer; and the time by itself."""
    note(f"layer: {method} {encoding}, {shape[0]} x {shape[1]}")
    command = [sys.executable, __file__, *map(str, (*shape, NUM_ROWS, threads)), method, encoding]
    limit = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **limit}
    )
    what = f"{method} INT2 {encoding}, {shape[0]} x {shape[1]}, {NUM_ROWS:,} rows"
    limits = shape == DOWN and method == "hessian"
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        target = TARGET_S if limits else None
        return [Result(what, None, "s", target=target, at_least=False, detail=reason)], None
    found = json.loads(done.stdout)
    before, peak = found["before_bytes"] / 1e9, found["peak_bytes"] / 1e9
    elapsed_s = found["elapsed_s"]
    results = [
        Result(
            f"{what}: time", elapsed_s, "s", None, None, TARGET_S if limits else None, False,
            f"{threads} threads",
        ),
        Result(
            f"{what}: peak memory", peak, "GB", None, None, TARGET_GB if limits else None, False,
            f"of the process; {before:.2f} GB before the call",
        ),
    ]  # fmt: skip
    return results, elapsed_s


def whole_model(threads: int) -> list[Result]:
    """Each shape of Dream-7B once, and what all of its blocks would take."""
    results, total_s = [], 0.0
    for shape, count in DREAM.items():
        found, elapsed_s = measure(shape, threads)
        results += found
        if elapsed_s is None:
            return results
        total_s += DREAM_BLOCKS * count * elapsed_s
    what = "hessian INT2 affine, Dream-7B's blocks, extrapolated"
    return [*results, Result(what, total_s / 3600, "h", detail=f"{threads} threads")]


def main() -> None:
    """Run as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("rows", "cols", "inputs", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("method")
    parser.add_argument("encoding")
    options = parser.parse_args()
    shape = (options.rows, options.cols)
    settings: dict[str, object] = {"method": options.method, "encoding": options.encoding}
    print(json.dumps(child(shape, options.inputs, settings, options.threads)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
