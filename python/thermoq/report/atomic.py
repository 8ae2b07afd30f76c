"""Writing text files so that their names never hold half of them."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from types import TracebackType

from thermoq.errors import InputError


class StagedFile:
    """A text that lies complete on the disk under a temporary name, beside where it belongs."""

    def __init__(self, path: Path, text: str) -> None:
        """Write `text` (UTF-8) and sync it.

        Raises InputError if the directory is missing, if something else than a file has the name,
        or if it cannot be written; the temporary file is gone then.
        """
        check_writable(path)
        self.path = path
        self._temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(6)}.tmp")
        try:
            with open(self._temporary, "xb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.discard()
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        except BaseException:
            self.discard()
            raise

    def publish(self) -> None:
        """Give the file its name; an existing file is replaced in one step."""
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None

    def discard(self) -> None:
        """Remove the temporary file, if it still is one."""
        with contextlib.suppress(OSError):
            self._temporary.unlink()


class StagedFiles:
    """Several files that get their names together; what was not published is discarded."""

    def __init__(self) -> None:
        self._files: list[StagedFile] = []

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.discard()

    def add(self, path: Path, text: str) -> None:
        """Stage `text` for `path`. Raises InputError as `StagedFile` does."""
        self._files.append(StagedFile(path, text))

    def publish(self) -> None:
        """Give every file its name."""
        for file in self._files:
            file.publish()


def atomic_text(path: Path, text: str) -> None:
    """Put `text` (UTF-8) at `path`, all of it or none. Raises InputError as `StagedFile` does."""
    with StagedFiles() as files:
        files.add(path, text)
        files.publish()


def check_writable(path: Path) -> None:
    """Refuse a path that no file can take. Raises InputError."""
    if path.exists() and not path.is_file():  # renaming onto /dev/null would replace the device
        raise InputError(f"{path}: expected a file to write, got something else of that name")
    if not path.parent.is_dir():
        raise InputError(
            f"{path}: expected an existing directory to write into, got {path.parent} (missing)"
        )
