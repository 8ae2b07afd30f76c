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

import importlib
from functools import partial

import command_line
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
    parser = command_line.parser(__doc__, MODULES, "held-out trajectories")
    parser.add_argument("--images", type=int, default=1000, help="for their quality")
    parser.add_argument("--rounds", type=int, default=2, help="of masks in the text")
    parser.add_argument("--whole-model", action="store_true", help="all shapes of Dream-7B")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="variants")
    also = "a variant more, such as method=hessian,encoding=coded,group_size=32"
    parser.add_argument("--also", action="append", default=[], metavar="SETTINGS", help=also)
    chosen, as_json, given = command_line.parsed(parser)
    return chosen, as_json, Options(**given)


def report(name: str, options: Options) -> Report:
    """Answer one of the questions."""
    found: Report = importlib.import_module(MODULES[name]).report(options)
    return found


def main() -> None:
    """Measure and print."""
    chosen, as_json, options = arguments()
    options.workdir.mkdir(parents=True, exist_ok=True)
    command_line.need_torch(options.threads)
    command_line.print_reports({name: partial(report, name, options) for name in chosen}, as_json)


if __name__ == "__main__":
    main()
