"""A disk that fills up, at every step: one line, no new output, the old one as it was.

Two ways to have it without a disk of one's own: a limit on the size of files, which the kernel
enforces on real writes, and calls to the system that fail, the first, the second and so on, until a
run comes through untouched (SQLite tests its I/O errors so).
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run, run_process, small_pipeline, succeed, tree
from thermoq import staging

_mkdir = os.mkdir
FULL = "No space left on device"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a model, an output of it and its reports."""
    small_pipeline(tmp_path / "model")
    (tmp_path / "model" / "vocabulary.txt").write_bytes(b"word\n" * 4000)
    succeed(*arguments(tmp_path, "--bit-width", 8), "--output", tmp_path / "old")
    return tmp_path


def arguments(there: Path, *more: object) -> list[object]:
    words: list[object] = ["baseline", "--model", there / "model", "--output", there / "new"]
    words += ["--max-shard-size", "4KB", "--threads", 1]
    return [*words, "--report", there / "r.json", "--html-report", there / "r.html", *more]


VARIANTS: dict[str, Callable[[Path], list[object]]] = {
    "fresh": arguments,
    "overwriting": lambda there: arguments(there, "--output", there / "old", "--overwrite"),
    "export": lambda there: ["export", there / "old", there / "new"],
    "export overwriting": lambda there: ["export", there / "old", there / "dense", "--overwrite"],
}


def file_of(problem: str) -> str:
    return Path(problem.removeprefix("error: ").partition(":")[0]).name


# A limit on the size of files.


@contextlib.contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("variant", ["fresh", "overwriting", "export"])
def test_every_file_that_can_be_too_large(variant: str, there: Path) -> None:
    """The limit falls just below the size of each file of the result: weights, carried files,
    manifest, reports."""
    command = VARIANTS[variant](there)
    scratch = there.parent / "scratch"
    shutil.copytree(there, scratch)
    old = tree(there)
    succeed(*[str(word).replace(str(there), str(scratch)) for word in command])
    written = {name: data for name, data in tree(scratch).items() if old.get(name) != data}
    shutil.rmtree(scratch)
    sizes = {len(data) for data in written.values() if isinstance(data, bytes) and data}
    named: set[str] = set()
    for size in sorted(sizes):
        with files_of_at_most(size - 1):
            finished = run(*command)
        # A size in the reports, such as that of the time, may vary by a few bytes.
        if finished.exit_code != 0:
            problem = finished.problem()
            assert finished.exit_code == 1
            assert problem.endswith("cannot be written: File too large")
            named.add(file_of(problem))
            assert tree(there) == old
        else:
            assert size > max(sizes) - 200
            break
    assert len(sizes) > 5
    if variant == "export":
        assert named == {"new"}
    else:
        assert named == {"new" if variant == "fresh" else "old", "r.json", "r.html"}


@pytest.mark.parametrize("limit", [1000, 10_000, 60_000])
def test_a_process_with_small_files(limit: int, there: Path) -> None:
    old = tree(there)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    finished = run_process(*VARIANTS["overwriting"](there), preexec_fn=limited)
    assert finished.exit_code == 1
    assert finished.problem().endswith("cannot be written: File too large")
    assert tree(there) == old


# Calls that fail.


class Faults:
    """Counts the calls that need the disk, and fails one of them, or all from it on."""

    def __init__(self, number: int, lasting: bool) -> None:
        self._number = number
        self._lasting = lasting
        self.count = 0

    def strike(self, path: object = None) -> None:
        self.count += 1
        if self.count == self._number or (self._lasting and self.count > self._number):
            raise OSError(errno.ENOSPC, FULL, path if isinstance(path, str) else None)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if function is not _mkdir or not os.path.isdir(path):
                self.strike(path)
            return function(path, *args, **kwargs)

        return call

    def opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Of `open` and `os.open`, only for writing."""

        def call(path: Any, how: Any = "r", *args: Any, **kwargs: Any) -> Any:
            writes = how & os.O_CREAT if isinstance(how, int) else set(how) & set("wxa+")
            if writes:
                self.strike(path)
            return function(path, how, *args, **kwargs)

        return call


def with_faults(
    number: int, lasting: bool, renames: bool, exchanges: bool, command: list[object]
) -> tuple[Any, bool]:
    """Run `command` with fault `number`; the second value tells whether it was reached."""
    faults = Faults(number, lasting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", faults.wrapped(lambda descriptor: None))  # the real one is slow
        for module, name in [(os, "mkdir"), (os, "pwrite"), (shutil, "copyfile")]:
            patch.setattr(module, name, faults.wrapped(getattr(module, name)))
        for module in (os, io, builtins):
            patch.setattr(module, "open", faults.opening(module.open))  # type: ignore[attr-defined]
        if renames:
            for name in ("rename", "replace", "link"):
                patch.setattr(os, name, faults.wrapped(getattr(os, name)))
        if not exchanges:  # as where the file system knows no such call
            patch.setattr(staging, "_renameat2", lambda *arguments: errno.ENOSYS)
        finished = run(*command)
    return finished, faults.count >= number


@pytest.mark.parametrize(
    ("variant", "lasting", "exchanges"),
    [
        ("fresh", False, True),
        ("fresh", False, False),
        ("fresh", True, True),
        ("overwriting", False, True),
        ("overwriting", False, False),
        ("export", False, True),
        ("export overwriting", False, False),
    ],
)
def test_every_call_that_can_fail(
    variant: str, lasting: bool, exchanges: bool, there: Path
) -> None:
    if variant == "export overwriting":
        succeed("export", there / "old", there / "dense", "--dtype", "float16")
    command = VARIANTS[variant](there)
    old = tree(there)
    number = 0
    named: set[str] = set()
    while True:
        number += 2 if lasting else 1
        finished, reached = with_faults(number, lasting, not lasting, exchanges, command)
        if not reached:
            break
        problem = finished.problem()
        assert finished.exit_code == 1
        assert problem.endswith(f"cannot be written: {FULL}"), (number, problem)
        assert tree(there) == old, (number, problem)
        named.add(file_of(problem))
    assert finished.exit_code == 0
    assert number > 20
    if not variant.startswith("export"):
        assert named >= {"r.json", "r.log", "r.html"}
        assert len(named) == 4
        succeed("verify", there / ("new" if variant == "fresh" else "old"))
