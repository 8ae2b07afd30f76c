"""What this build of thermoq is and can do."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from thermoq import _core
from thermoq.errors import UsageError


@dataclass(frozen=True)
class BuildInfo:
    """Versions, the SIMD level in use and the threads that `--threads 0` stands for."""

    version: str
    simd_level: str
    openmp: bool
    threads: int
    compiler: str
    python_version: str

    def __str__(self) -> str:
        """Return the line that `thermoq --version` prints."""
        threads = (
            f"OpenMP, {self.threads} threads" if self.openmp else "built without OpenMP: 1 thread"
        )
        return (
            f"thermoq {self.version} (SIMD {self.simd_level}; {threads}; {self.compiler}; "
            f"Python {self.python_version})"
        )


def version() -> str:
    """Return thermoq's version."""
    return metadata.version("thermoq")


def build_info() -> BuildInfo:
    """Return the facts of this build.

    Raises UsageError if the environment variable THERMOQ_SIMD asks for a level that is not there.
    """
    try:
        level = _core.simd_level()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return BuildInfo(
        version=version(),
        simd_level=level,
        openmp=_core.has_openmp(),
        threads=_core.default_threads(),
        compiler=_core.compiler(),
        python_version=platform.python_version(),
    )
