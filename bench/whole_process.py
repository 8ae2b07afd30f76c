#!/usr/bin/env python3
"""How fast and how large are `thermoq baseline` and `quantize`, on 1 G parameters in 4 shards?

Times come from outside the process and from its report. This file imports nothing heavy: a child's
peak memory can not be told apart from its parent's size at the moment of the fork.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measuring import (
    ROOT,
    THERMOQ,
    THREADS,
    Options,
    Result,
    gigabytes_per_s,
    main,
    note,
    seconds,
    summarize,
)

RUNS = 5
QUANTIZE_RUNS = 3
TWO_BITS = ("--bit-width", "2")
CODED = ("--encoding", "coded")  # what trellis takes: trellis.py --checkpoint
POWER_ITERATIONS = 4  # what the prior takes
_READ_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Run:
    """One process: wall-clock seconds, peak resident bytes, and the seconds in its report."""

    elapsed_s: float
    peak_bytes: int
    times_s: dict[str, float]


def measure(options: Options) -> list[Result]:
    """Speed, memory, and what the validation costs."""
    model = synthetic_checkpoint(options.workdir)
    shards = sorted(model.glob("*.safetensors"))
    tensors = [nbytes for shard in shards for nbytes in tensor_bytes(shard)]
    weights = sum(tensors) / 2
    note("whole process: warming the cache")
    read(shards)
    read_s = seconds(lambda: read(shards))
    output = options.workdir / "out"
    note("whole process: thermoq baseline")
    runs, bare = [], []
    for _ in range(RUNS):
        runs.append(run(model, output, "baseline", *TWO_BITS))
        bare.append(run(model, output, "baseline", *TWO_BITS, "--no-validation"))
    note("whole process: thermoq quantize")
    fitted, budgeted = [], []
    for _ in range(QUANTIZE_RUNS):
        fitted.append(run(model, output, "quantize", *TWO_BITS, *CODED))
        budgeted.append(run(model, output, "quantize", "--target-bits", "3.5", *CODED))
    shutil.rmtree(output)
    limit_mb = (2 * max(tensors) + 250e6) / 1e6
    elapsed_s = median(one.elapsed_s for one in runs)
    source_s = median(one.times_s["parameter_source_s"] for one in runs)
    return [
        summarize(
            f"thermoq baseline, {weights / 1e6:,.0f} M weights, warm cache",
            [weights / one.elapsed_s / 1e6 for one in runs],
            "M weights/s",
            target=120,
            detail=(
                f"{elapsed_s:.2f} s, {gigabytes_per_s(sum(tensors), elapsed_s)}; "
                f"reading alone {gigabytes_per_s(sum(tensors), read_s)}"
            ),
        ),
        summarize(
            "peak resident memory",
            [one.peak_bytes / 1e6 for one in runs],
            "MB",
            target=limit_mb,
            at_least=False,
            detail=f"largest tensor {max(tensors) / 1e6:.0f} MB",
        ),
        summarize(
            "validation and building the report",
            [
                100 * (one.times_s["validation_s"] + one.times_s["report_s"]) / total(one)
                for one in runs
            ],
            "% of the time",
            target=1,
            at_least=False,
            detail=f"validation {1000 * median(o.times_s['validation_s'] for o in runs):.1f} ms",
        ),
        summarize(
            "prior's power iteration",
            [100 * one.times_s["parameter_source_s"] / total(one) for one in runs],
            "% of the time",
            detail=f"{POWER_ITERATIONS} passes, {weights / source_s / 1e6:,.0f} M weights/s",
        ),
        summarize(
            "with --no-validation",
            [weights / one.elapsed_s / 1e6 for one in bare],
            "M weights/s",
            detail="without the power iteration too",
        ),
        *least_squares(fitted, weights, limit_mb, "thermoq quantize, lsq coded INT2", 70),
        *least_squares(
            budgeted, weights, limit_mb, "thermoq quantize --target-bits 3.5, coded", None
        ),
    ]


def least_squares(
    runs: list[Run], weights: float, limit_mb: float, what: str, target: float | None
) -> list[Result]:
    """Speed and memory of runs of `quantize`."""
    fit_s = median(one.times_s["quantize_s"] for one in runs)
    return [
        summarize(
            f"{what}, {weights / 1e6:,.0f} M weights",
            [weights / one.elapsed_s / 1e6 for one in runs],
            "M weights/s",
            target=target,
            detail=f"{fit_s:.2f} s of {median(one.elapsed_s for one in runs):.2f} in the core",
        ),
        summarize(
            f"{what}, peak resident memory",
            [one.peak_bytes / 1e6 for one in runs],
            "MB",
            target=limit_mb,
            at_least=False,
        ),
    ]


def total(one: Run) -> float:
    """Seconds of the whole run as its report has them."""
    return one.times_s["total_s"]


def run(model: Path, output: Path, verb: str, *flags: str) -> Run:
    """Quantize `model` in a process of its own."""
    report = output.with_suffix(".json")
    shutil.rmtree(output, ignore_errors=True)
    command = [THERMOQ, verb, "--model", str(model), "--output", str(output), "--quiet"]
    command += ["--num-time-groups", "4", "--threads", str(THREADS)]
    command += ["--report", str(report), "--html-report", str(report.with_suffix(".html")), *flags]
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    elapsed_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command)
    times_s = json.loads(report.read_text(encoding="utf-8"))["provenance"]["times_s"]
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(elapsed_s, usage.ru_maxrss * unit, times_s)


def tensor_bytes(shard: Path) -> list[int]:
    """The sizes of a safetensors file's tensors, all of 16-bit floats here."""
    with open(shard, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return [2 * math.prod(entry["shape"]) for name, entry in header.items() if name[0] != "_"]


def read(files: list[Path]) -> None:
    """A plain pass over the bytes of the files, into one buffer."""
    buffer = bytearray(_READ_AT_ONCE)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def synthetic_checkpoint(workdir: Path) -> Path:
    """The checkpoint of 1 G parameters, made on first use."""
    directory = workdir / "dream-1g"
    if not directory.exists():
        note(f"whole process: making {directory} (2 GB)")
        script = ROOT / "scripts" / "make_synthetic_checkpoint.py"
        unfinished = directory.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run([sys.executable, str(script), str(unfinished)], check=True)
        unfinished.rename(directory)
    return directory


if __name__ == "__main__":
    main(measure, __doc__)
