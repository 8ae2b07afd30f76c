"""What goes wrong in other packages while a model is loaded or run, as errors of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import ThermoqError

_LONGEST = 300
# Of torch's allocators: on a CPU a plain RuntimeError, on devices a class of its own.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
_WANTED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


@contextmanager
def one_line(directory: Path, what: str, less_memory: str = "") -> Iterator[None]:
    """Turn whatever is raised in the block into an InputError that names `directory`.

    `what` says what has failed; `less_memory` what would need less memory, if anything.
    """
    try:
        yield
    except ThermoqError:
        raise
    except Exception as error:  # whatever a strange model provokes in them
        reason = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        if isinstance(error, MemoryError) or _NO_MEMORY.search(reason):
            raise bad_file(directory, _out_of_memory(what, reason, less_memory)) from None
        raise bad_file(directory, f"{what}: {reason}") from error


def _out_of_memory(what: str, reason: str, less_memory: str) -> str:
    wanted = _WANTED.search(reason)
    asked = ""
    if wanted and wanted[2] == "bytes":
        asked = f" for {float(wanted[1]) / 1e6:,.2f} MB more"
    elif wanted:
        asked = f" for {wanted[1]} {wanted[2]} more"
    hint = f"; {less_memory} needs less" if less_memory else ""
    return f"{what}: expected enough memory{asked}, got too little{hint}"
