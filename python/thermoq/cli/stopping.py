"""The signal that stops a run, and what the last line says of it."""

from __future__ import annotations

import signal


class Stopped(BaseException):
    """Signal `number` stops the program; `left` says what the run leaves behind.

    Not KeyboardInterrupt, of which the parser makes something else.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.left = "nothing unfinished is left behind"

    def __str__(self) -> str:
        """Return the line for the console."""
        what = "interrupted" if self.number == signal.SIGINT else "terminated"
        return f"{what}; {self.left}"
