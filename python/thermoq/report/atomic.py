"""Writing text files so that their names never hold half of them."""

from __future__ import annotations

import os
from pathlib import Path

from thermoq.errors import InputError
from thermoq.staging import Staging, published_together, refused


def stage_text(staging: Staging, path: Path, text: str) -> None:
    """Write `text` (UTF-8) under a temporary name beside `path` and sync it.

    An earlier file of that name is replaced. Raises InputError if the directory is missing, if
    something else than a file has the name, or if it cannot be written.
    """
    check_writable(path)
    try:
        with open(staging.add(path, replace=True).temporary, "xb") as file:
            # A file name of other bytes than UTF-8 shows them as JSON would.
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise refused(path, error) from None


def atomic_text(path: Path, text: str) -> None:
    """Put `text` (UTF-8) at `path`, all of it or none. Raises InputError as `stage_text` does."""
    with published_together() as staging:
        stage_text(staging, path, text)


def check_writable(path: Path) -> None:
    """Refuse a path that no file can take. Raises InputError."""
    if path.exists() and not path.is_file():  # renaming onto /dev/null would replace the device
        raise InputError(f"{path}: expected a file to write, got something else of that name")
    if not path.parent.is_dir():
        raise InputError(
            f"{path}: expected an existing directory to write into, got {path.parent} (missing)"
        )
