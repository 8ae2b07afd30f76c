"""A directory that appears under its name complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thermoq.errors import InputError, UsageError
from thermoq.staging import (
    Staging,
    already_there,
    final_path,
    published_together,
    refused,
    sync,
)


def check_target(target: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse a target that exists, cannot be made, or would bury one of the `inputs`.

    Raises UsageError for a target in, around or at an input, else InputError. To be called before
    any work is done.
    """
    final = final_path(target)
    for source in inputs:
        origin = final_path(source)
        if final == origin or final in origin.parents:
            raise UsageError(
                f"{target}: expected an output apart from the input, got one that holds {source}"
            )
        if origin in final.parents:
            raise UsageError(
                f"{target}: expected an output outside the input directory, got one inside {source}"
            )
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target}: expected a directory to write, got a file of that name")
    if target.exists() and not overwrite:
        raise already_there(target)
    if not final.parent.is_dir():
        raise InputError(
            f"{target}: expected an existing directory to write into, got {final.parent} (missing)"
        )


@contextmanager
def new_directory(staging: Staging, target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name with all else in `staging`.

    Raises InputError where the disk refuses, naming the target unless a file elsewhere is at fault.
    Without `replace`, publishing fails if the name is taken by then.
    """
    temporary = staging.add(target, replace=replace).temporary
    try:
        temporary.mkdir()
        yield temporary
    except OSError as error:
        at_fault = _file_elsewhere(error, temporary)
        if at_fault is not None:
            raise InputError(f"{at_fault}: {error.strerror or error}") from None
        raise refused(target, error) from None


def _file_elsewhere(error: OSError, directory: Path) -> Path | None:
    """Return the file that `error` names, None if it names none or one below `directory`."""
    if not isinstance(error.filename, str):
        return None
    path = Path(error.filename)
    return None if directory in (path, *path.parents) else path


@contextmanager
def atomic_directory(target: Path, *, replace: bool | None = None) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name when the block succeeds.

    Call `sync_tree` on it before the block ends. An existing directory is exchanged in one step and
    then deleted. On any error or interrupt the temporary directory is removed and `target` is as it
    was. Raises InputError where the disk refuses, and without `replace` if something has the name;
    None: replace only what has it now.
    """
    if replace is None:
        replace = os.path.lexists(final_path(target))
    with (
        published_together() as staging,
        new_directory(staging, target, replace=replace) as temporary,
    ):
        yield temporary


def sync_tree(directory: Path) -> None:
    """Make every file and folder below `directory` durable. Raises OSError."""
    for folder, _, names in os.walk(directory):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
