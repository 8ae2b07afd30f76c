"""Windows of a user's text: as many as asked for, or only such as share nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thermoq.calibration.language_models import LanguageModel
from thermoq.errors import InputError
from thermoq.report.wording import counted


def text_windows(
    model: LanguageModel, lines: Sequence[str], count: int, length: int, name: str = "text"
) -> list[list[int]]:
    """Return `count` windows of `length` tokens, from lines spread evenly over the text.

    A window goes on with the following lines, and after the last with the first. In a short text
    windows overlap, and are the same where there are more of them than lines. Raises InputError if
    all the lines together are shorter than a window.
    """
    return [window.tokens for window in _spread(model, lines, count, length, name)]


def different_windows(
    model: LanguageModel, lines: Sequence[str], count: int, length: int, name: str = "text"
) -> list[list[int]]:
    """Return at most `count` windows of `length` tokens, no two the same and none overlapping.

    Those of `text_windows` where they are such, else evenly chosen ones of the pieces that the
    whole text falls into, end to end, lines that it repeats left out. Raises InputError as
    `text_windows`.
    """
    if count <= len(lines):  # else some begin with the same line
        spread = _spread(model, lines, count, length, name)
        windows = [window.tokens for window in spread]
        if _are_apart(spread, len(lines)) and len(set(map(tuple, windows))) == count:
            return windows
    pieces = list(dict.fromkeys(_pieces(model, list(dict.fromkeys(lines)), length)))
    if not pieces:  # raises, if it is not the repeated lines that lack
        return text_windows(model, lines, 1, length, name)
    chosen = min(count, len(pieces))
    return [list(pieces[number * len(pieces) // chosen]) for number in range(chosen)]


def repeat_note(
    model: LanguageModel, lines: Sequence[str], count: int, length: int, name: str
) -> str | None:
    """Return what to say of `count` windows some of which are the same; None if none are.

    Raises InputError as `text_windows`.
    """
    windows = text_windows(model, lines, count, length, name)
    different = len(set(map(tuple, windows)))
    if different == count:
        return None
    return (
        f"--data: {count} samples are of {counted(different, 'window')} of {length} tokens, taken "
        "again with other masks; more lines of text give more"
    )


@dataclass(frozen=True)
class _Window:
    """Tokens of whole lines, `first` to `last`, cut to length; counted on beyond the last line."""

    tokens: list[int]
    first: int
    last: int


def _spread(
    model: LanguageModel, lines: Sequence[str], count: int, length: int, name: str
) -> list[_Window]:
    windows = []
    for number in range(count):
        first = number * len(lines) // count
        tokens: list[int] = []
        for last, line in enumerate(itertools.chain(lines[first:], lines[:first]), first):
            tokens += _tokens_of(model, line)
            if len(tokens) >= length:
                windows.append(_Window(tokens[:length], first, last))
                break
        else:
            raise InputError(
                f"{name}: expected at least {length} tokens (--length), got {len(tokens)}"
            )
    return windows


def _are_apart(windows: Sequence[_Window], num_lines: int) -> bool:
    """Tell whether no line is in two windows; the last may run on into the first."""
    starts = [*(window.first for window in windows[1:]), num_lines]
    return all(window.last < start for window, start in zip(windows, starts, strict=True))


def _pieces(model: LanguageModel, lines: Sequence[str], length: int) -> Iterator[tuple[int, ...]]:
    tokens: list[int] = []
    for line in lines:
        tokens += _tokens_of(model, line)
        whole = len(tokens) // length * length
        for start in range(0, whole, length):
            yield tuple(tokens[start : start + length])
        del tokens[:whole]


def _tokens_of(model: LanguageModel, line: str) -> list[int]:
    return model.encode(line.rstrip("\n") + "\n")
