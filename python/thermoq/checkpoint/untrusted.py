"""What every reader of other people's files here shares: how they are opened, how errors read.

A checkpoint comes from strangers. Whatever is wrong with it must become one `InputError` of one
printable line that names the file, never a traceback and never a hang.
"""

from __future__ import annotations

import os
import reprlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from thermoq.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 160
_SHORT.maxlist = _SHORT.maxdict = 8
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """`value` as it may stand in an error line: quoted, escaped and cut to a readable length."""
    return _SHORT.repr(value)


def shown_path(path: Path) -> str:
    """`path` as it may stand in an error line; a name with control characters comes escaped."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def bad_file(path: Path, problem: str) -> InputError:
    """The error that says what is wrong with the file or directory at `path`."""
    return InputError(f"{shown_path(path)}: {problem}")


def bad_tensor(path: Path, name: str, problem: str) -> InputError:
    """The error that says what is wrong with the tensor `name` of the file at `path`."""
    return bad_file(path, f"tensor {shown(name)}: {problem}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into an `InputError`."""
    try:
        yield
    except OSError as error:
        at_fault = Path(error.filename) if isinstance(error.filename, str) else path
        raise bad_file(at_fault, f"cannot be read: {error.strerror or error}") from error


@contextmanager
def naming(path: Path, tensor: str) -> Iterator[None]:
    """Put the file and the tensor in front of an `InputError` that does not know them."""
    try:
        yield
    except InputError as error:
        raise bad_tensor(path, tensor, str(error)) from None


def open_regular_file(path: Path) -> BinaryIO:
    """Open `path` for reading, unless it is a pipe, device or directory (a pipe would block).

    Raises OSError if it cannot be opened, InputError if it is no regular file or a link to nothing.
    """
    if path.is_symlink() and not path.exists():
        raise bad_file(path, f"expected a file, got a link to nothing: {shown(os.readlink(path))}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise bad_file(path, "expected a regular file, got something else")
    return path.open("rb")
