"""What all benchmarks share: medians with their spread, the machine, and the table of results.

A benchmark is a function from options to results. Nothing is asserted: a missed target is printed
as "missed", and the exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
THERMOQ = str(Path(sys.executable).with_name("thermoq"))


@dataclass(frozen=True)
class Result:
    """One line of the table: a median with its quartiles, beside the target if there is one.

    `value` is None if it could not be measured; `detail` then says why.
    """

    what: str
    value: float | None
    unit: str = ""
    lower: float | None = None
    upper: float | None = None
    target: float | None = None
    at_least: bool = True
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Whether the target is met, in words."""
        if self.value is None:
            return "not measured"
        if self.target is None:
            return "-"
        met = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if met else "missed"

    def row(self) -> list[str]:
        """The cells of the table."""
        spread = target = ""
        if self.lower is not None and self.upper is not None:
            spread = f"{shown(self.lower)} .. {shown(self.upper)}"
        if self.target is not None:
            bound = "at least" if self.at_least else "at most"
            target = f"{bound} {shown(self.target)} {self.unit}"
        value = "" if self.value is None else f"{shown(self.value)} {self.unit}"
        return [self.what, value, spread, target, self.verdict, self.detail]


@dataclass(frozen=True)
class Options:
    """What every benchmark is told."""

    workdir: Path
    runs: int


Benchmark = Callable[[Options], list[Result]]


def summarize(
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    target: float | None = None,
    at_least: bool = True,
    detail: str = "",
) -> Result:
    """The median and quartiles of `values`."""
    lower, median, upper = quartiles(values)
    return Result(what, median, unit, lower, upper, target, at_least, detail)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, of one value or more."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, after one call each that does not count.

    The pause lets the threads of one side stop spinning before the other side is timed.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for side, action in enumerate((ours, theirs)):
            time.sleep(0.02)
            elapsed_s = seconds(action)
            if run > 0:
                times[side].append(elapsed_s)
    return times


def shown(number: float) -> str:
    """Three significant digits, without exponents."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def gigabytes_per_s(nbytes: float, elapsed_s: float) -> str:
    """A speed in 10^9 bytes a second."""
    return f"{nbytes / elapsed_s / 1e9:.1f} GB/s"


def machine() -> str:
    """What was measured on, and what else it had to do."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    build = subprocess.run([THERMOQ, "--version"], capture_output=True, text=True, check=False)
    return (
        f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, load {load}\n"
        f"{build.stdout.strip()}; benchmarks use {THREADS} threads"
    )


def print_table(
    results: Sequence[Result], value: str = "median", spread: str = "quartiles"
) -> None:
    """Print the results with aligned columns; `value` and `spread` say what those columns hold."""
    head = ["what", value, spread, "target", "verdict", "detail"]
    print_columns([head, *(result.row() for result in results)])


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def note(message: str) -> None:
    """Say on stderr what is going on."""
    print(message, file=sys.stderr, flush=True)


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--workdir",
        type=Path,
        default=ROOT / "build" / "bench",
        help="where made-up checkpoints (2 GB) stay for the next time (default: build/bench)",
    )
    parser.add_argument("--runs", type=int, default=9, help="runs of a quick measurement")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def main(benchmark: Benchmark, description: str | None) -> None:
    """Run one benchmark as a program."""
    options = arguments(description)
    options.workdir.mkdir(parents=True, exist_ok=True)
    before = machine()
    results = benchmark(Options(options.workdir.resolve(), options.runs))
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        print(before + "\n")
        print_table(results)
