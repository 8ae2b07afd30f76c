"""Interrupted, terminated and killed runs: under the final name is nothing, or all of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from command_line import (
    COMMAND,
    WEIGHTS,
    noise,
    run,
    small_model,
    stored,
    succeed,
    tree,
)
from safetensors_files import write_json, write_safetensors
from thermoq import interrupts, staging
from thermoq.checkpoint import atomic_directory
from thermoq.report import atomic

REPORTED = ["new", "r.json", "r.log", "r.html"]
MARK = ".thermoq-partial-"
STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a small model and a finished output of other settings."""
    model = tmp_path / "model"
    write_json(model / "config.json", {"_class_name": "DiTTransformer2DModel"})
    tensors = {"blocks.0.fc.weight": stored(noise(8, 16)), "blocks.0.fc.bias": stored(noise(8))}
    write_safetensors(model / WEIGHTS, tensors)
    succeed(*arguments(tmp_path, "old", "--bit-width", 8))
    return tmp_path


def arguments(there: Path, output: str, *more: object) -> list[object]:
    words: list[object] = ["baseline", "--model", there / "model", "--output", there / output]
    return [*words, "--threads", 1, *more]


def with_reports(there: Path, output: str, *more: object) -> list[object]:
    reports = ["--report", there / "r.json", "--html-report", there / "r.html"]
    return arguments(there, output, *reports, *more)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if MARK in path.name]


# Signals that can be handled, at every line of what puts things in place, and at some elsewhere.


def lines_of(modules: list[Any], act: Callable[[], None], when: int) -> Callable[..., Any]:
    """A trace function that calls `act` before the line number `when` run in `modules`."""
    files = {module.__file__ for module in modules}
    count = 0

    def trace_line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        if event == "line":
            count += 1
            if count == when:
                act()
        return trace_line

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return trace_line if frame.f_code.co_filename in files else None

    return trace


def stopped_run(number: int, modules: list[Any], when: int, command: list[object]) -> Any:
    """Run `command` with the signal `number` before a line; None if there are fewer lines."""
    sent = []

    def stop() -> None:
        sent.append(number)
        signal.raise_signal(number)

    before = sys.gettrace()
    sys.settrace(lines_of(modules, stop, when))
    try:
        finished = run(*command)
    finally:
        sys.settrace(before)
    return finished if sent else None


PLACING = [staging, atomic_directory, atomic, interrupts]


def anywhere() -> list[Any]:
    """All modules of the library; not the command line's own, which installs the handlers."""
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("thermoq.") and not name.startswith("thermoq.cli")
    ]


# A signal between the opening of a file and the `with` that closes it leaves that to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("where", "step", "overwrite"),
    [("placing", 7, False), ("placing", 7, True), ("anywhere", 997, True)],
)
def test_stopping_signals_at_many_lines(
    where: str, step: int, overwrite: bool, there: Path
) -> None:
    command = with_reports(there, "old" if overwrite else "new", *["--overwrite"] * overwrite)
    output = there / ("old" if overwrite else "new")
    old, old_output = tree(there), tree(output)
    succeed(*arguments(there, "reference"))
    reference = tree(there / "reference")
    subprocess.run(["rm", "-r", there / "reference"], check=True)
    modules = PLACING if where == "placing" else anywhere()
    when = 1
    finished_ones = 0
    while True:
        number = list(STOPS)[when % len(STOPS)]
        finished = stopped_run(number, modules, when, command)
        if finished is None:
            break
        assert leftovers(there) == [], when
        if finished.exit_code != 0:
            expected = f"error: {STOPS[number]}; nothing unfinished is left behind\n"
            assert (finished.exit_code, finished.stderr) == (128 + number, expected), when
        if finished.exit_code == 0 or tree(there) != old:
            # The signal came when everything was in place.
            finished_ones += 1
            assert tree(output) == reference
            names = {path.name for path in there.iterdir()}
            assert names == {"model", "old", output.name, "r.json", "r.log", "r.html"}
            restore(there, old, old_output, output)
        when += step
    assert when > 20 * step
    assert finished_ones < when / step


def restore(there: Path, old: Any, old_output: Any, output: Path) -> None:
    """Make the folder what it was before a run."""
    subprocess.run(["rm", "-r", output], check=True)
    for name in ("r.json", "r.log", "r.html"):
        (there / name).unlink()
    if old_output:
        succeed(*arguments(there, output.name, "--bit-width", 8))
    assert tree(there) == old


def test_a_signal_is_held_and_then_takes_its_course() -> None:
    seen = []

    def go_on_after_a_signal() -> None:
        signal.raise_signal(signal.SIGINT)
        seen.append("the block went on")

    with pytest.raises(KeyboardInterrupt), interrupts.signals_held():
        go_on_after_a_signal()
    assert seen == ["the block went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored(there: Path) -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        when = 30
        finished = stopped_run(signal.SIGHUP, PLACING, when, arguments(there, "new"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert finished.exit_code == 0
    succeed("verify", there / "new")


# SIGKILL, before every call that changes something on the disk.


@pytest.fixture
def killer(there: Path) -> Iterator[Callable[[list[object]], Callable[[int], int]]]:
    processes = []

    def start(command: list[object], **environment: str) -> Callable[[int], int]:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_runs.py")), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | environment,
        )
        processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "0\n"

        def kill_at(number: int) -> int:
            stdin.write(f"{number}\n")
            stdin.flush()
            return int(stdout.readline())

        return kill_at

    yield start
    for process in processes:
        process.communicate()


def test_killed_at_every_call(there: Path, killer: Any) -> None:
    reference, old = tree_of_reference(there), set(tree(there))
    kill_at = killer(with_reports(there, "new", "--quiet"))
    clean(there, REPORTED)
    number = warned = 0
    while True:
        number += 1
        if kill_at(number) == 0:
            break
        new = [name for name in set(tree(there)) - old if MARK not in name]
        if new:  # all of it; the reports may miss
            assert tree(there / "new") == reference
        if number % 6 == 0 or new:
            remains = leftovers(there)
            finished = succeed(*with_reports(there, "new", "--overwrite"))
            assert [line for line in finished.stderr.splitlines() if "assumed" not in line] == [
                f"warning: {path}: left by a killed run; safe to delete unless one is still writing"
                for path in sorted(remains, key=order)
            ]
            assert leftovers(there) == remains
            assert tree(there / "new") == reference
            warned += bool(remains)
        clean(there, REPORTED)
    assert number > 30
    assert warned > 3


def test_killed_at_every_call_while_overwriting(there: Path, killer: Any) -> None:
    reference, old = tree_of_reference(there), tree(there / "old")
    kill_at = killer(arguments(there, "old", "--quiet", "--overwrite"))
    assert tree(there / "old") == reference
    clean(there, ["old"])
    succeed(*arguments(there, "old", "--bit-width", 8))
    number = 0
    seen = []
    while True:
        number += 1
        killed = kill_at(number)
        now = tree(there / "old")
        assert now in (old, reference), number
        seen.append(now == reference)
        clean(there, [])
        if now == reference:
            succeed("verify", there / "old")
            clean(there, ["old"])
            succeed(*arguments(there, "old", "--bit-width", 8))
        if not killed:
            break
    assert seen == sorted(seen)  # from the exchange on the new one
    assert seen.count(False) > 10
    assert seen.count(True) > 5  # while the old one was deleted


def test_killed_at_every_call_without_an_exchange(there: Path, killer: Any) -> None:
    """Between two renames the old output has no name, and the next run tells where it is."""
    reference, old = tree_of_reference(there), tree(there / "old")
    kill_at = killer(
        arguments(there, "old", "--quiet", "--overwrite"), THERMOQ_TEST_NO_RENAMEAT2="1"
    )
    clean(there, ["old"])
    succeed(*arguments(there, "old", "--bit-width", 8))
    number = without = 0
    while True:
        number += 1
        killed = kill_at(number)
        if not (there / "old").exists():
            without += 1
            (kept,) = [path for path in leftovers(there) if path.name.endswith("-old")]
            finished = succeed(*arguments(there, "old"))
            shutil.rmtree(there / "old")
            said = f"it holds the previous output, and renaming it to {there / 'old'} restores it"
            assert f"warning: {kept}: left by a killed run; {said}\n" in finished.stderr
            kept.rename(there / "old")
        now = tree(there / "old")
        assert now in (old, reference), number
        clean(there, [])
        if now == reference:
            clean(there, ["old"])
            succeed(*arguments(there, "old", "--bit-width", 8))
        if not killed:
            break
    assert without == 1


def tree_of_reference(there: Path) -> Any:
    succeed(*arguments(there, "reference"))
    reference = tree(there / "reference")
    clean(there, ["reference"])
    return reference


def clean(there: Path, names: list[str]) -> None:
    paths = [*leftovers(there), *(there / name for name in names)]
    subprocess.run(["rm", "-rf", *map(str, paths)], check=True)


def order(path: Path) -> tuple[int, Path]:
    """The output's leftovers come first, then those of the JSON report, the log, the page."""
    return next(
        i for i, name in enumerate(REPORTED) if path.name.startswith(f".{name}{MARK}")
    ), path


# Processes of some size, at random moments.


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 MB in 8 tensors, and an output of it."""
    folder = tmp_path_factory.mktemp("large")
    weight = noise(1024, 2560)
    names = [f"blocks.{i}.fc.weight" for i in range(8)]
    small_model(folder / "model", {n: stored(weight * (i + 1)) for i, n in enumerate(names)})
    succeed("baseline", "--model", folder / "model", "--output", folder / "old", "--bit-width", 4)
    assert (folder / "model" / WEIGHTS).stat().st_size > 80e6
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("overwrite", [False, True])
def test_real_processes_at_random_moments(number: int, overwrite: bool, large: Path) -> None:
    random_moment = random.Random(f"{number} {overwrite}")
    output = large / ("old" if overwrite else "new")
    words = ["baseline", "--model", large / "model", "--output", output, "--overwrite"]
    for _ in range(1 + overwrite):
        process = subprocess.Popen([*COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        while process.poll() is None and not leftovers(large):
            time.sleep(0.002)
        try:
            process.wait(random_moment.uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, stderr = process.communicate()
        assert "Traceback" not in stderr
        assert process.returncode in (0, -number if number == signal.SIGKILL else 128 + number)
        if number == signal.SIGKILL:
            clean(large, [])
        assert leftovers(large) == []
        if overwrite or output.exists():
            succeed("verify", output)
        if not overwrite:
            clean(large, ["new"])
