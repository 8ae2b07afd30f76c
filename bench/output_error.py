#!/usr/bin/env python3
"""What calibration gains: the weight methods with and without it, at INT2 and the same bits.

    denoiser   the demo model's output against full precision, by quarter of the trajectory
    language   masked-token cross-entropy of the language model on held-out text
    samples    accuracy and Frechet distance of the demo model's samples
    gptq       `hessian` beside an independent GPTQ: output error of layers, speed
    layer      time and peak memory on a layer of Dream-7B

Held-out noise, text, masks and rows are none that calibration saw. Models are calibrated on the
first run, and the files kept in --workdir. It needs the extra `torch`. A missed target is printed
as "missed", and the exit code is 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from measuring import ROOT, THREADS, machine
from reports import Options, Report

MODULES = {
    "denoiser": "demo_model",
    "language": "language_model",
    "samples": "samples",
    "gptq": "gptq",
    "layer": "layer",
}


def arguments() -> tuple[list[str], bool, Options]:
    """The command line: what to measure, whether to print JSON, and the rest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=MODULES, help="what to measure")
    parser.add_argument("--samples", type=int, default=64, help="held-out trajectories")
    parser.add_argument("--steps", type=int, default=50, help="of a trajectory")
    parser.add_argument("--guidance", type=float, default=1.0, help="of trajectories (1: none)")
    parser.add_argument("--images", type=int, default=1000, help="for their quality")
    parser.add_argument("--rounds", type=int, default=2, help="of masks in the text")
    parser.add_argument("--whole-model", action="store_true", help="all shapes of Dream-7B")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="variants")
    also = "a variant more, such as method=hessian,encoding=coded,group_size=32"
    parser.add_argument("--also", action="append", default=[], metavar="SETTINGS", help=also)
    calibration = "of the demo model, instead of a fresh one"
    parser.add_argument("--calibration", type=Path, help=calibration)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--workdir", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = vars(parser.parse_args())
    if given["samples"] < 8:
        parser.error(f"--samples: expected at least 8, got {given['samples']}")
    return given.pop("what"), given.pop("json"), Options(**given)


def main() -> None:
    """Measure and print."""
    chosen, as_json, options = arguments()
    options.workdir.mkdir(parents=True, exist_ok=True)
    before = machine().rpartition(";")[0]
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy and torch are imported, below
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as the command line has it
    try:
        import torch
    except ImportError:
        sys.exit("these benchmarks need the extra torch: pip install 'thermoq[torch]'")
    torch.set_num_threads(options.threads)
    if not as_json:
        print(before)
    reports = {}
    for name in chosen:
        found: Report = importlib.import_module(MODULES[name]).report(options)
        reports[name] = found.content()
        if not as_json:
            found.print()
    if as_json:
        print(json.dumps({"machine": before, **reports}))


if __name__ == "__main__":
    main()
