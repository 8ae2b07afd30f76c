"""Windows of a user's text: spread over its lines, or cut so that none shares anything."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from thermoq.calibration.windows import different_windows, repeat_note, text_windows
from thermoq.errors import InputError


class Letters:
    """A tokenizer of letters; a line's end is 27."""

    def encode(self, text: str) -> list[int]:
        return [27 if letter == "\n" else ord(letter) - ord("a") + 1 for letter in text]


LETTERS: Any = Letters()
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def test_windows_of_text() -> None:
    windows = text_windows(LETTERS, ["abc\n", "de", "f", "ghij"], 2, 6)
    assert windows == [[1, 2, 3, 27, 4, 5], [6, 27, 7, 8, 9, 10]]
    (last,) = text_windows(LETTERS, ["abc", "de"], 1, 7)
    assert last == [1, 2, 3, 27, 4, 5, 27]
    # From the last line on to the first.
    assert text_windows(LETTERS, ["abc", "de"], 2, 5)[1] == [4, 5, 27, 1, 2]
    for take in (text_windows, different_windows):
        with pytest.raises(InputError, match=r"at least 8 tokens \(--length\), got 7"):
            take(LETTERS, ["abc", "de"], 1, 8)
        with pytest.raises(InputError, match=r"at least 8 tokens \(--length\), got 7"):
            take(LETTERS, ["abc", "de"], 9, 8)


def test_windows_that_are_apart_stay_as_they_are() -> None:
    lines = ["abcd", "efgh", "ijkl", "mnop", "qrst", "uvwx"]
    assert different_windows(LETTERS, lines, 3, 9) == text_windows(LETTERS, lines, 3, 9)
    assert different_windows(LETTERS, lines, 3, 10) == text_windows(LETTERS, lines, 3, 10)


@pytest.mark.parametrize(
    ("lines", "count", "length"),
    [
        ([3 * ALPHABET], 9, 8),  # one line: every window would begin with it
        ([ALPHABET, ALPHABET[::-1]], 6, 7),
        (["abcd", "efgh", "ijkl"], 2, 7),  # the first runs on into the second's line
        (["abcd", "efgh", "ijkl", "mn"], 2, 10),  # the last runs on into the first
    ],
)
def test_windows_of_a_short_text_are_cut_end_to_end(
    lines: list[str], count: int, length: int
) -> None:
    tokens = list(itertools.chain(*(LETTERS.encode(f"{line}\n") for line in lines)))
    pieces = [tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)]
    found = different_windows(LETTERS, lines, count, length)
    assert len(found) == min(count, len(pieces))
    assert [window for window in pieces if window in found] == found


def test_what_the_text_repeats_counts_once() -> None:
    lines = ["abc"] * 20 + ["xyz"] * 20  # apart, but the same twenty times
    assert different_windows(LETTERS, lines, 16, 4) == [[1, 2, 3, 27], [24, 25, 26, 27]]
    assert different_windows(LETTERS, lines, 16, 3) == [[1, 2, 3], [27, 24, 25]]
    assert different_windows(LETTERS, ["abc"] * 9, 9, 8) == [[1, 2, 3, 27, 1, 2, 3, 27]]
    assert different_windows(LETTERS, [ALPHABET], 100, 9) == [
        list(range(first, first + 9)) for first in (1, 10, 19)
    ]


def test_pieces_are_chosen_evenly() -> None:
    found = different_windows(LETTERS, [ALPHABET + ALPHABET[::-1]], 3, 5)
    assert [window[0] for window in found] == [1, 16, 22]


def test_a_note_on_windows_that_repeat() -> None:
    lines = ["abc", "def", "ghi"]
    assert repeat_note(LETTERS, lines, 3, 4, "t.txt") is None
    assert repeat_note(LETTERS, lines, 7, 4, "t.txt") == (
        "--data: 7 samples are of 3 windows of 4 tokens, taken again with other masks; more lines "
        "of text give more"
    )
