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

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

import command_line

if TYPE_CHECKING:
    from phase_variants import PhaseOptions
    from reports import Report

QUESTIONS = ("demo", "language", "activations", "samples", "time", "knee")


def arguments() -> tuple[list[str], bool, dict[str, Any]]:
    """The command line: what to measure, whether to print JSON, and the rest."""
    parser = command_line.parser(__doc__, QUESTIONS, "held-out trajectories, or windows")
    parser.add_argument("--images", type=int, default=2000, help="for their quality, a seed")
    parser.add_argument("--seeds", type=int, default=3, help="of noise for images, text's masks")
    parser.add_argument("--repeats", type=int, default=7, help="of what is timed")
    without = "the phases alone, without the steps of Phase 3 one by one"
    parser.add_argument("--no-ablation", dest="ablation", action="store_false", help=without)
    only = "of samples: codes by name (affine, defaults, lsq affine); may be given again"
    parser.add_argument("--only", action="append", default=[], metavar="CODES", help=only)
    return command_line.parsed(parser)


def report(name: str, options: PhaseOptions) -> Report:
    """Answer one of the questions."""
    found: Report = importlib.import_module(f"phase_{name}").report(options)
    return found


def main() -> None:
    """Measure and print."""
    chosen, as_json, given = arguments()
    given["workdir"].mkdir(parents=True, exist_ok=True)
    command_line.need_torch(given["threads"])
    from phase_variants import PhaseOptions

    options = PhaseOptions(**given, rounds=1, whole_model=False, also=())
    command_line.print_reports({name: partial(report, name, options) for name in chosen}, as_json)


if __name__ == "__main__":
    main()
