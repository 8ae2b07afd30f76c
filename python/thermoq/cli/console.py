"""What the commands print: results on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thermoq.progress import NoProgress, NoSteps, Progress, StepProgress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.table import Table

ONE_LINE_WIDTH = 120  # below this what a table has of an item takes more than one line
_PIPED_WIDTH = 10_000


@contextmanager
def shown_progress(quiet: bool) -> Iterator[Progress]:
    """Yield a progress that draws on a terminal's stderr, and is silent when piped or quiet."""
    if quiet or not sys.stderr.isatty():
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )

    bars = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[done]}/{task.fields[tensors]} tensors"),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield _Bar(bars)


class _Bar:
    """Tensors, bytes and time left on one line."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._done = 0
        self._task = bars.add_task("", total=None, done=0, tensors=0)

    def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
        self._done = 0
        self._bars.update(
            self._task, description=task, total=total_bytes, completed=0, tensors=total_tensors
        )

    def advance(self, tensor: str, nbytes: int) -> None:
        self._done += 1
        self._bars.update(self._task, advance=nbytes, done=self._done)


@contextmanager
def shown_steps(quiet: bool) -> Iterator[StepProgress]:
    """The same for a sampler's steps."""
    if quiet or not sys.stderr.isatty():
        yield NoSteps()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bars = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[where]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield _Steps(bars)


class _Steps:
    """Which step of which sample, and the time left, on one line."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task = bars.add_task("loading", total=None, where="")

    def start(self, task: str, total_steps: int, done: int) -> None:
        self._bars.update(self._task, description=task, total=total_steps, completed=done)

    def advance(self, where: str) -> None:
        self._bars.update(self._task, advance=1, where=where)


def one_line(message: str) -> str:
    """Return `message` with escapes for control characters, which names may hold."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in message
    )


def warn(message: str) -> None:
    """Print a warning line on stderr."""
    typer.echo(f"warning: {one_line(message)}", err=True)


def warn_of_leftovers(*targets: Path | None) -> None:
    """Name what killed runs left beside what is to be written now."""
    from thermoq.staging import about_leftover, leftovers

    for target in filter(None, targets):
        for leftover in leftovers(target):
            warn(f"{leftover}: {about_leftover(leftover, target)}")


def print_json(value: DataclassInstance) -> None:
    """Print a dataclass as JSON on stdout; paths become strings."""
    typer.echo(json.dumps(dataclasses.asdict(value), indent=2, default=str, ensure_ascii=False))


def console_and_table() -> tuple[Console, Table]:
    """Return a console for stdout and an empty table; where a program reads, nothing is cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    console = Console(
        width=None if terminal else _PIPED_WIDTH, highlight=False, markup=False, emoji=False
    )
    return console, Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)


def megabytes(nbytes: int) -> str:
    """Return bytes in units of 10^6, or of 10^9 from there on, as the report counts them."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def typed_flags(arguments: list[str], left_out: dict[str, bool]) -> list[str]:
    """Return the flags among `arguments` but those of `left_out`, which tells whether a flag takes
    a value; both `--flag value` and `--flag=value` are understood.
    """
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        flag = word.partition("=")[0]
        if flag not in left_out:
            kept.append(word)
        elif left_out[flag] and "=" not in word:
            next(words, None)
    return kept
