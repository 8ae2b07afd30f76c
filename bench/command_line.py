"""What the benchmarks that quantize models share: their command line, threads, and printing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from measuring import ROOT, THREADS, machine
from reports import Report


def parser(
    description: str | None, questions: Iterable[str], samples: str
) -> argparse.ArgumentParser:
    """What both output_error.py and phases.py are told; `samples` says of what."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("what", nargs="+", choices=list(questions), help="what to measure")
    found.add_argument("--samples", type=int, default=64, help=samples)
    found.add_argument("--steps", type=int, default=50, help="of a trajectory")
    found.add_argument("--guidance", type=float, default=1.0, help="of trajectories (1: none)")
    calibration = "of the demo model, instead of a fresh one"
    found.add_argument("--calibration", type=Path, help=calibration)
    add_usual(found)
    return found


def add_usual(found: argparse.ArgumentParser) -> None:
    """What every one of them is told."""
    found.add_argument("--threads", type=int, default=THREADS)
    found.add_argument("--workdir", type=Path, default=ROOT / "build" / "bench")
    found.add_argument("--json", action="store_true", help="print JSON instead of tables")


def parsed(given: argparse.ArgumentParser) -> tuple[list[str], bool, dict[str, Any]]:
    """What to measure, whether to print JSON, and the rest."""
    found = vars(given.parse_args())
    if found["samples"] < 8:
        given.error(f"--samples: expected at least 8, got {found['samples']}")
    return found.pop("what"), found.pop("json"), found


def use_threads(count: int) -> None:
    """Have libraries take this many; to be called before NumPy and torch are imported."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as the command line has it


def need_torch(threads: int) -> None:
    """Leave with a line if there is none."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("these benchmarks need the extra torch: pip install 'thermoq[torch]'")
    use_threads(threads)
    import torch

    torch.set_num_threads(threads)


def print_reports(parts: Mapping[str, Callable[[], Report]], as_json: bool) -> None:
    """Measure one after the other, each printed when it is there, or all as JSON in the end."""
    before = machine().rpartition(";")[0]
    if not as_json:
        print(before)
    reports = {}
    for name, part in parts.items():
        found = part()
        reports[name] = found.content()
        if not as_json:
            found.print()
    if as_json:
        print(json.dumps({"machine": before, **reports}))
