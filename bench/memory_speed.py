#!/usr/bin/env python3
"""How close does the core come to the speed of memory? (bench/core.cpp, built and run)"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from measuring import ROOT, THREADS, Options, Result, main, note

MILLION_WEIGHTS = 64  # far more bytes than any cache holds


def measure(options: Options) -> list[Result]:
    """Each operation against a plain pass over the same memory."""
    if shutil.which("cmake") is None:
        return [Result("minmax in memory", None, detail="needs cmake")]
    note("memory speed: building bench_core")
    for command in (
        ["cmake", "--preset", "release"],
        ["cmake", "--build", "--preset", "release", "--target", "bench_core"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    note("memory speed: running bench_core")
    program = ROOT / "build" / "release" / "bench_core"
    command = [str(program), str(MILLION_WEIGHTS), str(THREADS), str(options.runs), "--json"]
    cases = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [
        Result(
            f"{case['name']}, against a sum",
            100 * case["ratio"],
            "%",
            100 * case["lower"],
            100 * case["upper"],
            100 * case["target"] or None,
            detail=(
                f"{case['million_weights_per_s']:,.0f} M weights/s, "
                f"{case['gb_per_s']:.1f} GB/s; sum {case['sum_gb_per_s']:.1f} GB/s"
            ),
        )
        for case in cases
    ]


if __name__ == "__main__":
    main(measure, __doc__)
