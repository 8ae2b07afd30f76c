"""Directories that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from thermoq import staging
from thermoq.checkpoint import atomic_directory as module
from thermoq.checkpoint.atomic_directory import (
    atomic_directory,
    check_target,
    new_directory,
    sync_tree,
)
from thermoq.errors import InputError, UsageError
from thermoq.staging import leftovers


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def fill(directory: Path, text: str) -> None:
    (directory / "below").mkdir()
    (directory / "below" / "file.txt").write_text(text)


def content(directory: Path) -> str:
    return (directory / "below" / "file.txt").read_text()


def no_such_call(one: Path, other: Path, flag: int) -> int:
    """What a system without renameat2 answers."""
    return errno.ENOSYS


@pytest.fixture(params=["in one step", "by renaming"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system can swap two names."""
    if request.param == "by renaming":
        monkeypatch.setattr(staging, "_renameat2", no_such_call)
    return str(request.param)


def test_a_new_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as temporary:
        assert temporary.parent == target.parent
        assert leftovers(target) == [temporary]
        fill(temporary, "new")
        assert not target.exists()
    assert content(target) == "new"
    assert names(tmp_path) == {"out"}


def test_an_existing_directory_is_exchanged(tmp_path: Path, exchange: str) -> None:
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    (target / "only in the old one").touch()
    with atomic_directory(target) as temporary:
        fill(temporary, "new")
        assert content(target) == "old"
    assert content(target) == "new"
    assert names(target) == {"below"}
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, InputError])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        fill(target, "old")

    def fill_and_fail(temporary: Path) -> None:
        fill(temporary, "new")
        raise error("here")

    with pytest.raises(error, match="here"), atomic_directory(target) as temporary:
        fill_and_fail(temporary)
    assert names(tmp_path) == ({"out"} if existing else set())
    if existing:
        assert content(target) == "old"


def test_what_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(InputError) as caught, atomic_directory(target):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == f"{target}: cannot be written: No space left on device"
    assert names(tmp_path) == set()


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    monkeypatch.setattr(staging, "_renameat2", no_such_call)
    rename, count = os.rename, 0

    def failing_rename(one: Path, other: Path) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(5, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(os, "rename", failing_rename)
    with (
        pytest.raises(InputError, match="out: cannot be written: Input/output error"),
        atomic_directory(target) as temporary,
    ):
        fill(temporary, "new")
    assert content(target) == "old"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file", "link"])
def test_what_appears_meanwhile_is_kept(tmp_path: Path, exchange: str, kind: str) -> None:
    target, report = tmp_path / "out", tmp_path / "report.json"
    report.write_text("old")

    def fill_while_another_appears(run: staging.Staging, temporary: Path) -> None:
        run.add(report, replace=True).temporary.write_text("new")
        fill(temporary, "new")
        if kind == "file":
            target.write_text("theirs")
        elif kind == "link":
            target.symlink_to("nowhere")
        else:
            target.mkdir()
            if kind == "directory":
                fill(target, "theirs")

    with (
        pytest.raises(InputError) as caught,
        staging.published_together() as run,
        new_directory(run, target, replace=False) as temporary,
    ):
        fill_while_another_appears(run, temporary)
    assert str(caught.value) == f"{target}: already exists; --overwrite replaces it"
    assert names(tmp_path) == {"out", "report.json"}
    assert report.read_text() == "old"
    if kind == "directory":
        assert content(target) == "theirs"
    elif kind == "file":
        assert target.read_text() == "theirs"
    else:
        assert target.is_symlink() or list(target.iterdir()) == []


@pytest.mark.parametrize("replace", [None, False])
def test_an_atomic_directory_replaces_what_was_there_at_its_start(
    tmp_path: Path, exchange: str, replace: bool | None
) -> None:
    target = tmp_path / "out"

    def another_appears(temporary: Path) -> None:
        target.mkdir()
        fill(target, "theirs")

    with (
        pytest.raises(InputError, match="out: already exists"),
        atomic_directory(target, replace=replace) as temporary,
    ):
        another_appears(temporary)
    assert content(target) == "theirs"
    with atomic_directory(target, replace=True) as temporary:
        fill(temporary, "new")
    assert content(target) == "new"
    assert names(tmp_path) == {"out"}


def test_a_file_elsewhere_is_blamed_for_itself(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(InputError) as caught, atomic_directory(target):
        (tmp_path / "gone").read_bytes()
    assert str(caught.value) == f"{tmp_path / 'gone'}: No such file or directory"
    with pytest.raises(InputError) as caught, atomic_directory(target) as temporary:
        (temporary / "gone").read_bytes()
    assert str(caught.value) == f"{target}: cannot be written: No such file or directory"


# Faults while a fault is undone.


def fail_from(monkeypatch: pytest.MonkeyPatch, name: str, first: int) -> None:
    """Let calls of `os.NAME`, or of `staging._renameat2`, fail from the one of number `first`."""
    module = staging if name == "_renameat2" else os
    function, count = getattr(module, name), 0

    def failing(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count < first:
            return function(*arguments)
        if module is staging:
            return errno.EIO
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(
    ("fails", "at_once"),
    [
        ({"rename": 2}, False),  # neither the new one nor the old one gets the name
        ({"rename": 3, "fsync": 1}, False),  # the new one has it and keeps it
        ({"rename": 4, "fsync": 1}, False),  # the new one gives it up, the old one does not get it
        ({"_renameat2": 2, "fsync": 1}, True),  # the two cannot be exchanged back
        ({"_renameat2": 2, "fsync": 1, "rename": 1}, True),  # and the old one not renamed either
    ],
)
def test_what_cannot_be_put_back_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: dict[str, int], at_once: bool
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    if not at_once:
        monkeypatch.setattr(staging, "_renameat2", no_such_call)
    for name, first in fails.items():
        fail_from(monkeypatch, name, first)
    with pytest.raises(InputError) as caught, atomic_directory(target) as temporary:
        fill(temporary, "new")
    monkeypatch.undo()
    (kept,) = leftovers(target)
    assert content(kept) == "old"
    assert str(caught.value) == (
        f"{target}: cannot be written: Input/output error; "
        f"{target} could not be put back; what it had is in {kept}"
    )
    assert not target.exists() or content(target) == "new"


def test_a_new_one_that_cannot_be_taken_back_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    fail_from(monkeypatch, "fsync", 1)
    fail_from(monkeypatch, "rename", 1)
    with pytest.raises(InputError) as caught, atomic_directory(target) as temporary:
        fill(temporary, "new")
    assert str(caught.value) == (
        f"{target}: cannot be written: Input/output error; "
        f"{target} is new and could not be taken back"
    )
    assert content(target) == "new"
    assert names(tmp_path) == {"out"}


def test_a_leftover_that_is_the_only_copy_is_not_called_safe_to_delete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    new, old = (tmp_path / f".out.thermoq-partial-0a{suffix}" for suffix in ("", "-old"))
    new.mkdir()
    old.mkdir()
    assert leftovers(target) == [new, old]
    assert staging.about_leftover(new, target) == (
        "left by a killed run; safe to delete unless one is still writing"
    )
    assert staging.about_leftover(old, target) == (
        "left by a killed run; it holds the previous output, "
        f"and renaming it to {target} restores it"
    )
    target.mkdir()
    assert staging.about_leftover(old, target) == (
        f"left by a killed run; it holds what {target} had before, perhaps only in part"
    )


def test_files_get_their_names_together_with_the_directory(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    with (
        staging.published_together() as run,
        new_directory(run, tmp_path / "out", replace=False) as temporary,
    ):
        fill(temporary, "new")
        run.add(tmp_path / "report.json", replace=True).temporary.write_text("new")
        assert (tmp_path / "report.json").read_text() == "old"
    assert (tmp_path / "report.json").read_text() == "new"
    assert content(tmp_path / "out") == "new"
    assert names(tmp_path) == {"out", "report.json"}


def test_a_file_that_cannot_be_placed_takes_the_directory_back(
    tmp_path: Path, exchange: str
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")

    def fill_and_never_write(run: staging.Staging, temporary: Path) -> None:
        fill(temporary, "new")
        run.add(tmp_path / "report.json", replace=True)

    with (
        pytest.raises(InputError, match=r"report\.json: cannot be written: No such file"),
        staging.published_together() as run,
        new_directory(run, target, replace=True) as temporary,
    ):
        fill_and_never_write(run, temporary)
    assert content(target) == "old"
    assert names(tmp_path) == {"out"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    with atomic_directory(tmp_path / "link") as temporary:
        fill(temporary, "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == "new"
    assert names(tmp_path) == {"real", "link"}


def test_leftovers_are_those_of_the_target_alone(tmp_path: Path) -> None:
    ours = [tmp_path / f".out.thermoq-partial-{suffix}" for suffix in ("0a", "1b")]
    for path in ours:
        path.mkdir()
    others = [".out2.thermoq-partial-0a", ".ou.thermoq-partial-0a", "out.thermoq-partial-0a"]
    for name in others:
        (tmp_path / name).mkdir()
    assert leftovers(tmp_path / "out") == ours
    assert leftovers(tmp_path / "o[u]t") == leftovers(tmp_path / "o*") == []
    assert leftovers(tmp_path / "missing" / "out") == []


@pytest.mark.parametrize("name", ["o[u]t", "o*", "ö\u0308 ", "x" * 255])
def test_any_name_works(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with atomic_directory(target) as temporary:
        assert leftovers(target) == [temporary]
    assert target.is_dir()
    assert leftovers(target) == []


def test_check_target(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "model").mkdir()
    check_target(tmp_path / "new", overwrite=False, inputs=(tmp_path / "model",))
    check_target(tmp_path / "there", overwrite=True)
    check_target(tmp_path / "model-2", overwrite=False, inputs=(tmp_path / "model",))
    for target, message in {
        "file": "expected a directory to write, got a file of that name",
        "there": "already exists; --overwrite replaces it",
        "missing/out": "expected an existing directory to write into",
        "file/out": "expected an existing directory to write into",
    }.items():
        with pytest.raises(InputError, match=message):
            check_target(tmp_path / target, overwrite=False)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "alias").symlink_to("model")
    with pytest.raises(InputError, match="expected a directory to write"):
        check_target(tmp_path / "dangling", overwrite=True)
    for target in ("model", "model/out", ".", "alias", "alias/out", "there/../model"):
        with pytest.raises(UsageError, match="expected an output"):
            check_target(tmp_path / target, overwrite=True, inputs=(tmp_path / "model",))


def test_everything_below_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "text")
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync", synced.append)
    sync_tree(tmp_path)
    assert set(synced) == {tmp_path, tmp_path / "below", tmp_path / "below" / "file.txt"}
