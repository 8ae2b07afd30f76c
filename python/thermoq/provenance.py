"""Where a run happened and how long its parts took."""

from __future__ import annotations

import contextlib
import datetime
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from thermoq.build import build_info
from thermoq.config import QuantizationConfig
from thermoq.report.model import Provenance


class Stopwatch:
    """Adds up wall-clock seconds under names; the clock itself starts when it is made."""

    def __init__(self) -> None:
        self.started_at = datetime.datetime.now(datetime.timezone.utc)
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def times_s(self) -> dict[str, float]:
        """Return the seconds by name, and `total_s` since the start."""
        return {**self._seconds, "total_s": time.perf_counter() - self._start}


def describe(
    config: QuantizationConfig,
    stopwatch: Stopwatch,
    *,
    command: str,
    model: Path,
    output: Path,
    input_fingerprint: str,
    calibration_fingerprint: str | None = None,
) -> Provenance:
    """Return the provenance of a run on this machine."""
    build = build_info()
    return Provenance(
        cpu=cpu_name(),
        simd_level=build.simd_level,
        openmp=build.openmp,
        threads=(config.threads or build.threads) if build.openmp else 1,
        blas=_blas(),
        python_version=build.python_version,
        platform=platform.platform(),
        seed=config.seed,
        command=command,
        started_at=stopwatch.started_at.isoformat(timespec="seconds"),
        input_path=str(model),
        output_path=str(output),
        input_fingerprint=input_fingerprint,
        calibration_fingerprint=calibration_fingerprint,
        times_s=stopwatch.times_s(),
    )


def cpu_name() -> str:
    """Return what this machine's CPU calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    """NumPy's BLAS; nothing in this phase uses it, a later phase's figures depend on it."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas.get('version', '')}".strip()
    except (TypeError, KeyError):  # older NumPy only prints
        return "unknown"
