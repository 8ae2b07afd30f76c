"""A directory that appears under its name complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thermoq.errors import InputError, UsageError
from thermoq.staging import Staging, final_path, published_together, refused, sync


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
        raise InputError(f"{target}: already exists; --overwrite replaces it")
    if not final.parent.is_dir():
        raise InputError(
            f"{target}: expected an existing directory to write into, got {final.parent} (missing)"
        )


@contextmanager
def new_directory(staging: Staging, target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name with all else in `staging`."""
    temporary = staging.add(target).temporary
    try:
        temporary.mkdir()
        yield temporary
    except OSError as error:
        raise refused(target, error) from None


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name when the block succeeds.

    Call `sync_tree` on it before the block ends. An existing directory is exchanged in one step and
    then deleted. On any error or interrupt the temporary directory is removed and `target` is as it
    was. Raises InputError where the disk refuses.
    """
    with published_together() as staging, new_directory(staging, target) as temporary:
        yield temporary


def sync_tree(directory: Path) -> None:
    """Make every file and folder below `directory` durable. Raises OSError."""
    for folder, _, names in os.walk(directory):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
