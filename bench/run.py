#!/usr/bin/env python3
"""Run all benchmarks, each in a process of its own, and print one table of ratios and targets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from measuring import Result, arguments, machine, print_table

ORDER = ("memory_speed.py", "peers.py", "whole_process.py", "startup.py")


def results(script: str, passed_on: list[str]) -> list[Result]:
    """What one benchmark found, or why it did not."""
    command = [sys.executable, str(Path(__file__).with_name(script)), "--json", *passed_on]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        return [Result(script, None, detail=f"exit code {done.returncode}, see above")]
    return [Result(**fields) for fields in json.loads(done.stdout)]


def main() -> None:
    """Measure, then print."""
    options = arguments(__doc__)
    passed_on = ["--workdir", str(options.workdir), "--runs", str(options.runs)]
    before = machine()
    table = [result for script in ORDER for result in results(script, passed_on)]
    if options.json:
        print(json.dumps([asdict(result) for result in table]))
        return
    print(before + "\n")
    print_table(table)
    missed = sum(result.verdict == "missed" for result in table)
    met = sum(result.verdict == "met" for result in table)
    print(f"\n{met} targets met, {missed} missed")


if __name__ == "__main__":
    main()
