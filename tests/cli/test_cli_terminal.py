"""At a terminal and in a shell: progress, tables of 80 columns, completion; and a light start."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import (
    COMMAND,
    WEIGHTS,
    run,
    run_process,
    small_pipeline,
    stored,
    succeed,
)
from models import dit, replace_tensors

SCRIPT = Path(sysconfig.get_path("scripts")) / "thermoq"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COMMANDS = [
    *("baseline", "quantize", "calibrate", "evaluate", "compare"),
    *("inspect", "verify", "export", "demo"),
]


def in_terminal(
    *arguments: object,
    command: Sequence[str] = COMMAND,
    interrupted: bool = False,
    columns: int = 80,
) -> tuple[int, str, str]:
    """Run with stdout and stderr on a terminal each; the code and what each got."""
    mains, sides = zip(pty.openpty(), pty.openpty(), strict=True)
    for side in sides:
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=sides[0],
        stderr=sides[1],
        env={**environment, "TERM": "xterm"},
    )
    for side in sides:
        os.close(side)
    if interrupted:
        os.read(mains[1], 1)  # the first sign of progress
        process.send_signal(signal.SIGINT)
    shown = [read_all(main) for main in mains]
    return process.wait(), shown[0], shown[1]


def read_all(descriptor: int) -> str:
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # EIO: the other side is closed
            part = b""
        if not part:
            os.close(descriptor)
            return data.decode()
        data += part


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_pipeline(tmp_path / "model")


def test_progress_shows_and_goes(model: Path) -> None:
    code, stdout, stderr = in_terminal("baseline", "--model", model, "--output", model / "../out")
    assert code == 0
    assert "6/6 tensors" in stderr
    assert "quantize" in stderr
    assert stderr.count("\x1b[?25l") == stderr.count("\x1b[?25h")  # the cursor came back
    assert "\x1b[2K" in stderr  # the bar was wiped away
    assert stdout.startswith("output ")
    code, _, stderr = in_terminal("verify", model / "../out")
    assert code == 0
    assert "6/6 tensors" in stderr


def test_quiet_shows_nothing(model: Path) -> None:
    arguments = ["baseline", "--model", model, "--output", model / "../out", "--quiet"]
    assert in_terminal(*arguments) == (0, "", "")


STUCK = """
import time
import thermoq.work
from thermoq.cli.app import main
thermoq.work.quantize = lambda *arguments, **settings: time.sleep(60)
main()
"""


def test_an_interrupt_gives_the_cursor_back(model: Path) -> None:
    arguments = ["baseline", "--model", model, "--output", model / "../out"]
    stuck = [sys.executable, "-c", STUCK]
    code, stdout, stderr = in_terminal(*arguments, command=stuck, interrupted=True)
    assert code == 130
    assert stdout == ""
    assert stderr.rstrip().endswith("error: interrupted; nothing unfinished is left behind")
    assert stderr.count("\x1b[?25l") == stderr.count("\x1b[?25h")
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_tables_fit_80_columns(tmp_path: Path) -> None:
    long = "transformer_blocks.27.attn1.processor.add_k_proj.lora_adapter.weight_of_nothing_at_all"
    model = dit(tmp_path / "model")
    path = model / "transformer" / WEIGHTS
    replace_tensors(path, lambda tensors: {**tensors, long: stored([[0.25] * 64] * 8)})
    succeed("baseline", "--model", model, "--output", tmp_path / "out")
    for directory in (model, tmp_path / "out"):
        code, stdout, stderr = in_terminal("inspect", directory)
        assert (code, stderr) == (0, "")
        lines = [ESCAPES.sub("", line) for line in stdout.splitlines()]
        # A long name has its line, and none is cut off; only a name or a reason can be longer.
        assert f"transformer/{long}" in lines
        assert "…" not in stdout
        assert max(len(re.split("same as|copied: |transformer/", line)[0]) for line in lines) <= 80
        usual = [line for line in lines if not re.search("same as|weight_of|layer weight", line)]
        assert len(usual) > 60
        assert max(map(len, usual)) <= 80


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_plan_fits_its_terminal(tmp_path: Path, columns: int) -> None:
    model = dit(tmp_path / "model", blocks=8)
    arguments = ["quantize", "--model", model, "--max-size", "300KB", "--dry-run"]
    code, stdout, _ = in_terminal(*arguments, columns=columns)
    assert code == 0
    shown = ESCAPES.sub("", stdout)
    classes, totals = re.split(r"^size ", shown, maxsplit=1, flags=re.MULTILINE)
    assert max(map(len, classes.splitlines())) <= columns
    assert "…" not in shown
    for row in json.loads(succeed(*arguments, "--json").stdout)["layer_classes"]:
        for key in ("num_weights", "stored_bytes"):
            assert f"{row[key]:,}" in classes
        for scheme in row["schemes"]:
            assert re.search(
                rf"\b{scheme['num_tensors']} in {scheme['encoding']} {scheme['bit_width']}, "
                rf"groups of {scheme['group_size']}\b",
                classes,
            )
    assert totals


# Completion.


def completions(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    done = subprocess.run(
        [str(SCRIPT)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "_THERMOQ_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["thermoq", *words]),
            "COMP_CWORD": str(len(words)),
        },
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_gives_commands_and_flags() -> None:
    assert completions("") == COMMANDS
    assert completions("ver") == ["verify"]
    assert "--num-time-groups" in completions("baseline", "--num")


def test_show_completion() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    # `true` keeps bash alive as the parent that the shell is recognised by.
    done = subprocess.run(
        [bash, "-c", f'"{SCRIPT}" --show-completion && true'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "_THERMOQ_COMPLETE=complete_bash" in done.stdout
    script = done.stdout + "\ncomplete -p thermoq\n"
    loaded = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert "_thermoq_completion" in loaded.stdout


# Start.


def test_version_and_help() -> None:
    version = succeed("--version").stdout
    assert re.fullmatch(
        r"thermoq \S+ \(SIMD \w+; (OpenMP, \d+ threads|built without OpenMP: 1 thread); "
        r".+; Python [\d.]+\)\n",
        version,
    )
    for command in COMMANDS:
        for flag in ("--help", "-h"):
            assert succeed(command, flag).stdout.startswith("Usage: ")
    assert all(command in succeed("--help").stdout for command in COMMANDS)
    assert "--encoding" not in succeed("demo", "--help").stdout
    for command, has_trellis in (("demo", False), ("quantize", True)):
        assert ("trellis" in succeed(command, "--help").stdout) == has_trellis
    defaults = " ".join(succeed("quantize", "--help").stdout.split())
    assert "[default: (trellis at 2 bits, else coded; affine with minmax)]" in defaults


def test_the_installed_script_and_the_module_are_the_same() -> None:
    for command in ([str(SCRIPT)], COMMAND):
        finished = run_process("--version", command=command)
        assert finished.exit_code == 0
        assert finished.stdout == run("--version").stdout


HEAVY = [
    *("numpy", "pydantic", "pydantic_core", "rich", "torch", "jinja2", "yaml", "xxhash"),
    *("transformers", "diffusers", "safetensors", "thermoq._core"),
]


@pytest.mark.parametrize(
    "code",
    [
        "import thermoq; assert thermoq.__version__; dir(thermoq)",
        "import thermoq.cli.app",
        "import sys; sys.argv = ['thermoq', '--help']; from thermoq.cli.app import main; main()",
    ],
)
def test_heavy_libraries_are_imported_where_used(code: str) -> None:
    tail = f"import json; print('HEAVY', json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    program = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit:\n    pass\n{tail}\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.rpartition("HEAVY ")[2]) == []


def test_no_command_needs_torch(model: Path) -> None:
    program = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'diffusers', 'sklearn'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from thermoq.cli.app import main\n"
        "main()\n"
    )
    out, page = model.parent / "out", model.parent / "r.html"
    for arguments in [
        ["baseline", "--model", model, "--output", out, "--html-report", page],
        ["export", out, model.parent / "dense"],
    ]:
        finished = run_process(*arguments, command=[sys.executable, "-c", program])
        assert finished.exit_code == 0, finished.stderr
