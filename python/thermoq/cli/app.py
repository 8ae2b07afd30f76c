"""The `thermoq` command: registers one function a command and maps errors to exit codes."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer

from thermoq.cli.demo import demo
from thermoq.cli.export import export
from thermoq.cli.inspect import inspect
from thermoq.cli.quantize import baseline, quantize
from thermoq.cli.verify import verify
from thermoq.errors import ThermoqError

app = typer.Typer(
    name="thermoq",
    help="Time-aware low-bit quantization of diffusion models, with a report you can check.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (baseline, quantize, inspect, verify, export, demo):
    app.command()(command)

# What the parser raises for wrong usage: the base of its error classes, wherever typer keeps it.
# It has a `format_message`.
_PARSER_ERROR: Any = typer.BadParameter.__bases__[0].__bases__[0]

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


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
    """Run the command line: exit code 0 done, 1 failed, 2 wrong usage."""
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        result = app(standalone_mode=False)
    except ThermoqError as error:
        _fail(str(error), error.exit_code)
    except _PARSER_ERROR as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; nothing was written", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has left; what was asked for is done.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    else:
        if result == _INTERRUPTED:
            _fail("interrupted; nothing was written", _INTERRUPTED)
        sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, exit_code: int) -> None:
    typer.echo(f"error: {message}" if message else "error", err=True)
    sys.exit(exit_code)
