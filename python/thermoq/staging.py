"""What a run leaves appears under its final names complete and together, or not at all.

Every file or directory is first made under a temporary name beside its final one. At the end all of
a run's get their names, or none if one of them fails. A killed process leaves temporary names
behind, which `leftovers` finds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thermoq.errors import InputError
from thermoq.interrupts import signals_held

_MARK = ".thermoq-partial-"
_ASIDE = "-old"
_MAX_NAME_BYTES = 200  # of 255; the rest is for the mark
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Staged:
    """A file or directory that lies at `temporary` and belongs at `target` (links resolved).

    `shown` is the target as the user wrote it, for messages.
    """

    shown: Path
    target: Path
    temporary: Path

    def place(self) -> None:
        """Take the final name; what had it takes the temporary one. Raises OSError, undone then."""
        if not os.path.lexists(self.target):
            os.rename(self.temporary, self.target)
        elif not _exchange_at_once(self.temporary, self.target):
            _exchange_by_renaming(self.temporary, self._aside, self.target)
        try:
            sync(self.target.parent)
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Undo `place`. Raises OSError."""
        if os.path.lexists(self._aside):
            os.rename(self.target, self.temporary)
            os.rename(self._aside, self.target)
        elif os.path.lexists(self.temporary):
            _exchange_at_once(self.temporary, self.target)
        else:
            os.rename(self.target, self.temporary)

    def discard(self) -> None:
        """Remove what has no final name: the new one before `place`, the old one after it."""
        _remove(self.temporary)
        if os.path.lexists(self.target):  # else it could not be put back, and is all there is
            _remove(self._aside)

    @property
    def _aside(self) -> Path:
        return self.temporary.with_name(self.temporary.name + _ASIDE)


class Staging:
    """The files and directories of one run; made by `published_together`."""

    def __init__(self) -> None:
        self._everything: list[Staged] = []

    def add(self, target: Path) -> Staged:
        """Choose a temporary name for `target`; the caller makes what has it."""
        final = final_path(target)
        name = f".{_shortened(final.name)}{_MARK}{secrets.token_hex(4)}"
        one = Staged(target, final, final.with_name(name))
        self._everything.append(one)
        return one

    def publish(self) -> None:
        """Give all their final names, in the order of adding, or none.

        Raises InputError that names the one that the disk refuses.
        """
        placed: list[Staged] = []
        for one in self._everything:
            try:
                one.place()
            except OSError as error:
                for other in reversed(placed):
                    with contextlib.suppress(OSError):
                        other.take_back()
                raise refused(one.shown, error) from None
            placed.append(one)

    def discard(self) -> None:
        """Remove what has no final name: the new before `publish`, the old after it."""
        for one in self._everything:
            one.discard()


@contextmanager
def published_together() -> Iterator[Staging]:
    """Publish what the block adds when it succeeds; on any error or interrupt remove it.

    Raises InputError where the disk refuses; all final names are as they were then.
    """
    staging = Staging()
    try:
        yield staging
        with signals_held():
            staging.publish()
            staging.discard()
    except BaseException:
        with signals_held():
            staging.discard()
        raise


def final_path(path: Path) -> Path:
    """Return `path` absolute and without links; of a link to itself, the link."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError there, before 3.13


def refused(path: Path, error: OSError) -> InputError:
    """Return the error that says that `path` cannot be written, and why."""
    return InputError(f"{path}: cannot be written: {error.strerror or error}")


def leftovers(target: Path) -> list[Path]:
    """Return what killed runs left beside `target`; safe to delete if no run is still writing."""
    final = final_path(target)
    if not final.parent.is_dir():
        return []
    beginning = f".{_shortened(final.name)}{_MARK}"
    return sorted(path for path in final.parent.iterdir() if path.name.startswith(beginning))


def is_leftover(path: Path) -> bool:
    """Whether `path` has a temporary name of ours."""
    return path.name.startswith(".") and _MARK in path.name


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _exchange_by_renaming(temporary: Path, aside: Path, target: Path) -> None:
    """Give `target` to `temporary` and leave the old one at `aside`; back if that fails."""
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(aside, target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _shortened(name: str) -> str:
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name
