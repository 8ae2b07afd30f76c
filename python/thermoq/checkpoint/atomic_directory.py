"""A directory that appears under its name complete, or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thermoq.errors import InputError

_TEMPORARY = ".thermoq-partial-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_target(target: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse a target that exists, cannot be made, or would bury one of the `inputs`.

    Raises InputError. To be called before any work is done.
    """
    resolved = target.resolve()
    for source in inputs:
        if resolved == source.resolve() or resolved in source.resolve().parents:
            raise InputError(
                f"{target}: expected an output apart from the input, got one that holds {source}"
            )
        if source.resolve() in resolved.parents:
            raise InputError(
                f"{target}: expected an output outside the input directory, got one inside {source}"
            )
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target}: expected a directory to write, got a file of that name")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already exists; --overwrite replaces it")
    if not resolved.parent.is_dir():
        raise InputError(
            f"{target}: expected an existing directory to write into, "
            f"got {resolved.parent} (missing)"
        )


def leftovers(target: Path) -> list[Path]:
    """Return what killed runs left beside `target`; safe to delete if no run is still writing."""
    resolved = target.resolve()
    if not resolved.parent.is_dir():
        return []
    return sorted(resolved.parent.glob(f".{_escaped(resolved.name)}{_TEMPORARY}*"))


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name when the block succeeds.

    Call `sync_tree` on it before the block ends. An existing directory is exchanged in one step
    and then deleted. On any error or interrupt the temporary directory is removed and `target` is
    as it was. Raises InputError where the disk refuses.
    """
    resolved = target.resolve()
    temporary = resolved.with_name(f".{resolved.name}{_TEMPORARY}{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
    try:
        yield temporary
        _move_into_place(temporary, resolved)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        # After the exchange this is the old directory; after a plain rename nothing.
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, target: Path) -> None:
    if target.exists():
        _exchange(temporary, target)
    else:
        os.rename(temporary, target)
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step: at every moment `other` is a complete directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is not None:
        result = renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        if result == 0:
            return
    # No such call or file system: two renames, and back if the second fails.
    aside = one.with_name(f"{one.name}-old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def sync_tree(directory: Path) -> None:
    """Make every file and folder below `directory` durable. Raises OSError."""
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
