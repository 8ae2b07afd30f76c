#!/usr/bin/env python3
"""Trellis codes: everything that is wanted of them, measured, each figure beside its target.

First bits, error and speed on MiniLM's encoder beside least squares and llama.cpp; then both models
in Phase 3 beside coded codes, with intervals (minutes; without: --no-models); with --checkpoint a
made-up checkpoint of 1 G parameters from end to end (more minutes, and 3 GB of disk in --workdir).
It needs the extras `torch` and `bench`. A missed target is printed as "missed", and the exit code
is 0.
"""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial

import command_line
import run
from reports import Report


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2, help="of what is timed")
    parser.add_argument("--every", type=int, default=1, help="take only every n-th matrix")
    parser.add_argument("--no-models", dest="models", action="store_false", help="leave them out")
    parser.add_argument("--checkpoint", action="store_true", help="1 G parameters end to end, too")
    parser.add_argument("--samples", type=int, default=64, help="held-out trajectories, or windows")
    parser.add_argument("--seeds", type=int, default=3, help="rounds of masks in the text")
    command_line.add_usual(parser)
    return parser.parse_args()


def weights(options: argparse.Namespace) -> Report:
    """The encoder's matrices."""
    import trellis_weights

    return trellis_weights.report(options.runs, options.every)


def models(options: argparse.Namespace) -> Report:
    """Both models in Phase 3."""
    what = "both models in Phase 3"
    if not options.models:
        return Report(what, missing=["not measured: --no-models"])
    if importlib.util.find_spec("torch") is None:
        return Report(what, missing=["not measured, it needs pip install 'thermoq[torch]'"])
    import torch
    import trellis_models

    torch.set_num_threads(options.threads)
    given = (options.samples, options.seeds, options.threads, options.workdir)
    return trellis_models.report(trellis_models.options(*given))


def checkpoint(options: argparse.Namespace) -> Report:
    """A whole checkpoint, by processes that are as small as they can be."""
    what = "a made-up checkpoint of 1 G parameters in 4 shards"
    if not options.checkpoint:
        return Report(what, missing=["not measured: it takes --checkpoint"])
    passed_on = ["--workdir", str(options.workdir), "--runs", str(options.runs)]
    return Report(what, results=run.results("trellis_checkpoint.py", passed_on))


def main() -> None:
    """Measure and print."""
    options = arguments()
    options.workdir.mkdir(parents=True, exist_ok=True)
    command_line.use_threads(options.threads)
    parts = {part.__name__: partial(part, options) for part in (weights, models, checkpoint)}
    command_line.print_reports(parts, options.json)


if __name__ == "__main__":
    main()
