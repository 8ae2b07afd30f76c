"""The `thermoq` command: registers one function a command and maps errors to exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from thermoq.cli.calibrate import calibrate
from thermoq.cli.compare import compare
from thermoq.cli.console import one_line
from thermoq.cli.demo import demo
from thermoq.cli.evaluate import evaluate
from thermoq.cli.export import export
from thermoq.cli.inspect import inspect
from thermoq.cli.quantize import baseline, quantize
from thermoq.cli.stopping import Stopped
from thermoq.cli.verify import verify
from thermoq.errors import ThermoqError
from thermoq.interrupts import STOPPING_SIGNALS

app = typer.Typer(
    name="thermoq",
    help="Time-aware low-bit quantization of diffusion models, with a report you can check.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (baseline, quantize, calibrate, evaluate, compare, inspect, verify, export, demo):
    app.command()(command)

# What the parser raises for wrong usage: the base of its error classes, wherever typer keeps it.
# It has a `format_message`.
_PARSER_ERROR: Any = typer.BadParameter.__bases__[0].__bases__[0]


def _print_version(wanted: bool) -> None:
    if wanted:
        from thermoq.build import build_info

        typer.echo(str(build_info()))
        raise typer.Exit()


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print version and build."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong usage, 128 + N on signal N."""
    try:
        for number in STOPPING_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, _stop)
        exit_code, problem = _run()
    except Stopped as stopped:
        exit_code, problem = 128 + stopped.number, str(stopped)
    for number in STOPPING_SIGNALS:  # all is done, and it is too late to say otherwise
        signal.signal(number, signal.SIG_IGN)
    if problem:
        typer.echo(f"error: {one_line(problem)}", err=True)
    sys.exit(exit_code)


def _run() -> tuple[int, str]:
    """Run the command that was typed and return the exit code and what went wrong."""
    # Read when OpenMP is loaded: threads that wait must leave the cores to NumPy's, and back.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _prepare_streams()
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()  # what is buffered can still fail, and must not fail at exit
    except ThermoqError as error:
        return error.exit_code, str(error)
    except _PARSER_ERROR as error:
        return 2, error.format_message()
    except MemoryError as error:
        return 1, f"not enough memory{f': {error}' if str(error) else ''}"
    except BrokenPipeError:  # the reader has left, as `head` does
        _discard_output()
        return 1, ""
    except OSError as error:
        _discard_output()
        return 1, f"{error.filename or 'system'}: {error.strerror or error}"
    return (result if isinstance(result, int) else 0), ""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _discard_output() -> None:
    """Let what is still buffered for stdout go nowhere, or the interpreter fails on it at exit."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor: nothing that could fail
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _prepare_streams() -> None:
    """Make printing never fail on a closed stream, nor on a file name that is not valid text."""
    if sys.stdout is None:  # closed by `>&-`; the descriptor must not become an output file's
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
