"""What a run leaves appears under its final names complete and together, or not at all.

Every file or directory is first made under a temporary name beside its final one. At the end all of
a run's get their names, or none if one of them fails. A killed process leaves temporary names
behind, which `leftovers` finds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from thermoq.errors import InputError
from thermoq.interrupts import signals_held

_MARK = ".thermoq-partial-"
_ASIDE = "-old"
_MAX_NAME_BYTES = 200  # of 255; the rest is for the mark
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


@dataclass
class Staged:
    """A file or directory that lies at `temporary` and belongs at `target` (links resolved).

    `shown` is the target as the user wrote it, for messages. Without `replace`, what gets the final
    name in the meantime keeps it. `trouble` says what could not be undone, and where it lies.
    """

    shown: Path
    target: Path
    temporary: Path
    replace: bool
    trouble: str = field(default="", init=False)

    def place(self) -> None:
        """Take the final name; what had it takes a temporary one.

        Raises OSError, undone then but for `trouble`; FileExistsError for a name that is taken.
        """
        try:
            if not self.replace:
                _rename_to_new(self.temporary, self.target)
            elif not os.path.lexists(self.target):
                os.rename(self.temporary, self.target)
            elif not _exchange_at_once(self.temporary, self.target):
                os.rename(self.target, self._aside)
                os.rename(self.temporary, self.target)
        except OSError:
            if os.path.lexists(self._aside):
                self.take_back()
            raise
        try:
            sync(self.target.parent)
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Undo `place`, or what was done of it; where that fails, `trouble` says so."""
        try:
            if os.path.lexists(self._aside):
                if os.path.lexists(self.target):
                    os.rename(self.target, self.temporary)
                os.rename(self._aside, self.target)
            elif not os.path.lexists(self.temporary):
                os.rename(self.target, self.temporary)
            elif not _exchange_at_once(self.temporary, self.target):
                with contextlib.suppress(OSError):  # so that `leftovers` can tell what it is
                    os.rename(self.temporary, self._aside)
                self._note_trouble()
        except OSError:
            self._note_trouble()

    def discard(self) -> None:
        """Remove what has no final name: the new one before `place`, the old one after it.

        What has lost its name for good is all there is of it, and stays.
        """
        aside_exists = os.path.lexists(self._aside)
        if not self.trouble or aside_exists:
            _remove(self.temporary)
        if not self.trouble and os.path.lexists(self.target):
            _remove(self._aside)

    def _note_trouble(self) -> None:
        for place in (self._aside, self.temporary):
            if os.path.lexists(place):
                self.trouble = f"{self.shown} could not be put back; what it had is in {place}"
                return
        self.trouble = f"{self.shown} is new and could not be taken back"

    @property
    def _aside(self) -> Path:
        return self.temporary.with_name(self.temporary.name + _ASIDE)


class Staging:
    """The files and directories of one run; made by `published_together`."""

    def __init__(self) -> None:
        self._everything: list[Staged] = []

    def add(self, target: Path, *, replace: bool) -> Staged:
        """Choose a temporary name for `target`; the caller makes what has it.

        Without `replace`, publishing fails if the name is taken then.
        """
        final = final_path(target)
        name = f".{_shortened(final.name)}{_MARK}{secrets.token_hex(4)}"
        one = Staged(target, final, final.with_name(name), replace)
        self._everything.append(one)
        return one

    def publish(self) -> None:
        """Give all their final names, in the order of adding, or none.

        Raises InputError that names the one that the disk refuses, and what could not be undone.
        """
        placed: list[Staged] = []
        for one in self._everything:
            try:
                one.place()
            except OSError as error:
                for other in reversed(placed):
                    other.take_back()
                troubles = [other.trouble for other in (one, *placed) if other.trouble]
                raise InputError("; ".join([_why_not_placed(one, error), *troubles])) from None
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


def already_there(path: Path) -> InputError:
    """Return the error of an output whose name is taken."""
    return InputError(f"{path}: already exists; --overwrite replaces it")


def leftovers(target: Path) -> list[Path]:
    """Return what killed runs left beside `target`; `about_leftover` tells what each is."""
    final = final_path(target)
    if not final.parent.is_dir():
        return []
    beginning = f".{_shortened(final.name)}{_MARK}"
    return sorted(path for path in final.parent.iterdir() if path.name.startswith(beginning))


def about_leftover(leftover: Path, target: Path) -> str:
    """Return what one of the `leftovers` of `target` is good for, for a warning."""
    if not leftover.name.endswith(_ASIDE):
        return "left by a killed run; safe to delete unless one is still writing"
    if not os.path.lexists(final_path(target)):
        return (
            "left by a killed run; it holds the previous output, "
            f"and renaming it to {target} restores it"
        )
    return f"left by a killed run; it holds what {target} had before, perhaps only in part"


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


def _renameat2(one: Path, other: Path, flag: int) -> int:
    """Rename `one` to `other` as `flag` says; the error's number, 0 if done."""
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "renameat2", None)
    if function is None:
        return errno.ENOSYS
    names = os.fsencode(one), os.fsencode(other)
    if function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flag) == 0:
        return 0
    return ctypes.get_errno() or errno.EIO


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    return _renameat2(one, other, _RENAME_EXCHANGE) == 0


def _rename_to_new(one: Path, other: Path) -> None:
    """Rename to a name that nothing has. Raises FileExistsError if something has it."""
    problem = _renameat2(one, other, _RENAME_NOREPLACE)
    if problem == 0:
        return
    if problem == errno.EEXIST or os.path.lexists(other):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(one, other)  # where the system or the file system knows no such call


def _why_not_placed(one: Staged, error: OSError) -> str:
    if not one.replace and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return str(already_there(one.shown))
    return str(refused(one.shown, error))


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
