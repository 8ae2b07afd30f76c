#!/usr/bin/env python3
"""What Phases 2 and 3 gain over Phase 1, on the same codes, and what they cost.

    demo         smoothness, violations and output error of the demo model at INT2; each step of
                 Phase 3 by itself; static and dynamic parameters beside
    language     KL, cross-entropy and top-1 accuracy of the language model on held-out text
    activations  the demo model with 4-bit inputs and weights at full precision
    samples      accuracy and Frechet distance of the demo model's samples
    time         quantization and inference time, and the bytes of time parameters
    knee         error against smoothness over --coupling and --window

Held-out noise, text and masks are none that calibration saw. Models are calibrated on the first
run, and the files kept in --workdir. It needs the extra `torch`. A missed target is printed as
"missed", and the exit code is 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import ROOT, THREADS, machine

if TYPE_CHECKING:
    from reports import Report

QUESTIONS = ("demo", "language", "activations", "samples", "time", "knee")


def arguments() -> tuple[list[str], bool, dict[str, Any]]:
    """The command line: what to measure, whether to print JSON, and the rest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=QUESTIONS, help="what to measure")
    parser.add_argument("--samples", type=int, default=64, help="held-out trajectories, or windows")
    parser.add_argument("--steps", type=int, default=50, help="of a trajectory")
    parser.add_argument("--guidance", type=float, default=1.0, help="of trajectories (1: none)")
    parser.add_argument("--images", type=int, default=2000, help="for their quality, a seed")
    parser.add_argument("--seeds", type=int, default=3, help="of noise for images, text's masks")
    parser.add_argument("--repeats", type=int, default=7, help="of what is timed")
    without = "the phases alone, without the steps of Phase 3 one by one"
    parser.add_argument("--no-ablation", dest="ablation", action="store_false", help=without)
    calibration = "of the demo model, instead of a fresh one"
    parser.add_argument("--calibration", type=Path, help=calibration)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--workdir", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = vars(parser.parse_args())
    if given["samples"] < 8:
        parser.error(f"--samples: expected at least 8, got {given['samples']}")
    return given.pop("what"), given.pop("json"), given


def main() -> None:
    """Measure and print."""
    chosen, as_json, given = arguments()
    given["workdir"].mkdir(parents=True, exist_ok=True)
    before = machine().rpartition(";")[0]
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy and torch are imported, below
        os.environ[f"{library}_NUM_THREADS"] = str(given["threads"])
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as the command line has it
    try:
        import torch
    except ImportError:
        sys.exit("these benchmarks need the extra torch: pip install 'thermoq[torch]'")
    torch.set_num_threads(given["threads"])
    from phase_variants import PhaseOptions

    options = PhaseOptions(**given, rounds=1, whole_model=False, only=(), also=())
    if not as_json:
        print(before)
    reports = {}
    for name in chosen:
        found: Report = importlib.import_module(f"phase_{name}").report(options)
        reports[name] = found.content()
        if not as_json:
            found.print()
    if as_json:
        print(json.dumps({"machine": before, **reports}))


if __name__ == "__main__":
    main()
