"""A process that forks runs of the command line and kills each before its Nth call to the disk.

`python killed_runs.py ARGUMENTS...` reads N from standard input, a line a run, and answers with the
number of the signal that ended it, or 0. Forking spares each run its start, and makes the moment
exact. It needs runs on one thread: with more, OpenMP would hang in the child. A whole run at the
beginning, on the same arguments, loads and compiles what the others then have.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from thermoq import staging
from thermoq.cli.app import main


def die_at(number: int, renameat2: Callable[..., int] | None) -> None:
    """Have this process killed right before call `number` that changes something on the disk."""
    count = 0

    def killing(function: Callable[..., Any], opens: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            how = args[1] if opens and len(args) > 1 else "r"
            writes = how & os.O_CREAT if isinstance(how, int) else set(how) & set("wxa")
            if writes or not opens:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("mkdir", "pwrite", "rename", "replace", "link", "unlink", "rmdir"):
        setattr(os, name, killing(getattr(os, name)))
    os.fsync = killing(lambda descriptor: None)  # the page cache outlives a killed process
    for module in (os, io, builtins):
        module.open = killing(module.open, opens=True)  # type: ignore[attr-defined]
    shutil.copyfile = killing(shutil.copyfile)
    staging._renameat2 = killing(renameat2 or staging._renameat2)


def exit_code_of_main() -> int:
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 1


def run_until(number: int) -> int:
    """Fork a run that dies at call `number`; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        missing = "THERMOQ_TEST_NO_RENAMEAT2" in os.environ
        die_at(number, (lambda *arguments: errno.ENOSYS) if missing else None)
        os._exit(exit_code_of_main())
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
        return 0
    return os.WTERMSIG(status)


if __name__ == "__main__":
    assert exit_code_of_main() == 0
    print(0, flush=True)
    for line in sys.stdin:
        print(run_until(int(line)), flush=True)
