#!/usr/bin/env python3
"""How long until thermoq answers: importing it, its help, and a look into a large checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from measuring import ROOT, THERMOQ, Options, Result, main, note, seconds, summarize

TIMED_IMPORT = """
import time
start = time.perf_counter()
import thermoq{what}
print(time.perf_counter() - start)
"""


def measure(options: Options) -> list[Result]:
    """Medians over whole processes."""
    note("startup")
    checkpoint = sparse_checkpoint(options.workdir)
    size_gb = sum(path.stat().st_size for path in checkpoint.iterdir()) / 1e9
    inspect = [THERMOQ, "inspect", str(checkpoint)]
    return [
        summarize("import thermoq", imports("", options.runs), "s", target=0.15, at_least=False),
        summarize("import thermoq.pipeline", imports(".pipeline", options.runs), "s"),
        summarize(
            "thermoq --help",
            processes([THERMOQ, "--help"], options.runs),
            "s",
            target=0.3,
            at_least=False,
        ),
        summarize(
            f"thermoq inspect, {size_gb:.1f} GB",
            processes(inspect, options.runs),
            "s",
            target=1.0,
            at_least=False,
        ),
    ]


def imports(what: str, runs: int) -> list[float]:
    """Seconds of the import alone, each in a process of its own."""
    command = [sys.executable, "-c", TIMED_IMPORT.format(what=what)]
    return [
        float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(runs)
    ]


def processes(command: list[str], runs: int) -> list[float]:
    """Seconds from start to exit."""

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return [seconds(run) for _ in range(runs)]


def sparse_checkpoint(workdir: Path) -> Path:
    """A checkpoint of about 10 GB that takes nearly no room: its weights are holes."""
    directory = workdir / "sparse-10gb"
    if not directory.exists():
        script = ROOT / "scripts" / "make_synthetic_checkpoint.py"
        shape = ["--blocks", "18", "--vocabulary", "152064", "--shards", "8", "--sparse"]
        subprocess.run([sys.executable, str(script), str(directory), *shape], check=True)
    return directory


if __name__ == "__main__":
    main(measure, __doc__)
