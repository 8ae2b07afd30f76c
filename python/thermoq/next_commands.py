"""The exact command to type after a run: to calibrate, to run again, or to export.

It repeats what was typed and changes what the advice changes.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from thermoq.calibration.file import DEFAULT_NUM_BINS
from thermoq.terms import Encoding, Interpolation, Method, Phase


@dataclass(frozen=True)
class Run:
    """What was typed, so that the next command can repeat it.

    `carried` are the words of all other flags that were given, to be repeated as they are: not the
    model, output, bit width, time groups or reports. `lsq_fits` tells whether they would be
    accepted with the method lsq. With a size budget, which is carried, `bit_width` is what most of
    the body got. `most_time_groups` are the model's timesteps, or the calibration's bins.
    `encoding` is that of most of the body, for a `quantize` that has to choose the same codes.
    """

    model: str
    output: str
    bit_width: int
    num_time_groups: int
    most_time_groups: int
    method: Method = "lsq"
    lsq_fits: bool = True
    has_budget: bool = False
    command: Literal["baseline", "quantize"] = "baseline"
    carried: tuple[str, ...] = ()
    writes_report: bool = False
    writes_html_report: bool = False
    phase: Phase = "baseline"
    encoding: Encoding | None = None


@dataclass(frozen=True)
class Step:
    """The settings that the next run should have; None where this run should be used as it is.

    `widens`: with windows of `window` timesteps, None standing for the widest that fit.
    `smooths`: with Phase 2 beside Phase 3.
    """

    bit_width: int | None = None
    num_time_groups: int | None = None
    method: Method | None = None
    phase: Phase | None = None
    interpolation: Interpolation | None = None
    widens: bool = False
    window: float | None = None
    smooths: bool = False

    @property
    def concerns_phases(self) -> bool:
        """Whether it is a step from one phase to the next, or within Phases 2 and 3."""
        return self.phase is not None or self.interpolation is not None or self.widens


def _calibration_file(run: Run) -> str:
    return f"{_stem(run.output)}-calibration.safetensors"


def calibrate_command(run: Run) -> str:
    """Return the command that measures what this run took from the prior."""
    words = ["thermoq", "calibrate", "--model", run.model, "--output", _calibration_file(run)]
    more = ["--bins", str(run.num_time_groups)] if run.num_time_groups > DEFAULT_NUM_BINS else []
    return shlex.join(words + more)


def calibrated_command(run: Run) -> str:
    """Return this run again, with that calibration."""
    output = f"{_without_ending(run.output)}-calibrated"
    words = ["thermoq", run.command, "--model", run.model, "--output", output]
    words += ["--bit-width", str(run.bit_width)] if not run.has_budget else []
    words += ["--num-time-groups", str(run.num_time_groups), *_phase(run.phase)]
    words += ["--calibration", _calibration_file(run), *_without(run.carried, "--phase")]
    return shlex.join(words + _reports(run, output))


def _reports(run: Run, output: str) -> list[str]:
    words = ["--report", f"{output}.json"] if run.writes_report else []
    return words + (["--html-report", f"{output}.html"] if run.writes_html_report else [])


def evaluate_command(run: Run) -> str:
    """Return the command that measures what the quantized model does."""
    return shlex.join(["thermoq", "evaluate", "--model", run.model, "--quantized", run.output])


def next_command(run: Run, step: Step) -> str:
    """Return this run again with the settings of `step`; without any, what to do with its output.

    That is its export after Phase 1, and its evaluation after a later phase.
    """
    stem = _stem(run.output)
    if step == Step():
        if run.phase != "baseline":
            return evaluate_command(run)
        return shlex.join(["thermoq", "export", run.output, f"{stem}-dense"])
    bits = step.bit_width or run.bit_width
    size = f"int{bits}" if not run.has_budget else "budget"
    groups = step.num_time_groups or run.num_time_groups
    phase = step.phase or run.phase
    output = f"{stem}-{size}-g{groups}" + (f"-{step.method}" if step.method else "")
    output += f"-{phase}" if phase != "baseline" else ""
    if os.path.abspath(output) == os.path.abspath(run.output):  # it tells of settings not used
        output += "-next"
    is_baseline = run.command == "baseline" and phase == "baseline" and not step.method
    words = ["thermoq", "baseline" if is_baseline else "quantize"]
    words += ["--model", run.model, "--output", output]
    words += ["--bit-width", str(bits)] if not run.has_budget else []
    words += ["--num-time-groups", str(groups), *_phase(phase), *_windows(step)]
    words += _codes(run, step, phase) + _carried(run, step)
    return shlex.join(words + _reports(run, output))


def _phase(phase: Phase) -> list[str]:
    return [] if phase == "baseline" else ["--phase", phase]


def _windows(step: Step) -> list[str]:
    words = ["--interpolation", step.interpolation] if step.interpolation else []
    if step.widens and step.window is not None:
        words += ["--window", f"{step.window:g}"]
    return words


def _codes(run: Run, step: Step, phase: Phase) -> list[str]:
    """Return the flags for the codes that `baseline` chose, where `quantize` has other defaults.

    Phases are held against each other on the same codes.
    """
    if step.method:
        return ["--method", step.method]
    if run.command == "quantize" or phase == "baseline":
        return []
    words = [] if _given(run.carried, "--method") else ["--method", run.method]
    if run.encoding in ("affine", "coded", "trellis") and not _given(run.carried, "--encoding"):
        words += ["--encoding", run.encoding]
    return words


def _carried(run: Run, step: Step) -> list[str]:
    dropped = ["--phase"]
    dropped += ["--method"] if step.method else []
    dropped += ["--interpolation"] if step.interpolation else []
    dropped += ["--window"] if step.widens else []
    words = _without(run.carried, *dropped)
    switches = {"--no-smoothing"} if step.smooths or step.phase == "smooth" else set()
    switches |= {"--no-optimization"} if step.phase == "optimize" else set()
    return [word for word in words if word not in switches]


def _given(words: Sequence[str], flag: str) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """Return the words but these flags and their values."""
    given = iter(words)
    kept = []
    for word in given:
        if word in flags:
            next(given, None)
        elif not word.startswith(tuple(f"{flag}=" for flag in flags)):
            kept.append(word)
    return kept


def _stem(output: str) -> str:
    """Return the output's path without endings that tell of settings, as earlier advice gave it."""
    path = PurePath(_without_ending(output))
    return str(
        path.with_name(
            re.sub(r"(?<!^)(-int[248]|-g\d+|-lsq|-calibrated|-smooth|-optimize)+$", "", path.name)
        )
    )


def _without_ending(output: str) -> str:
    """Return the output's path as other names can be made of it.

    Never inside the output: where that is `.` or ends in `..`, beside it.
    """
    path = PurePath(output)
    if path.name in ("", ".."):
        path = path / ".." / (os.path.basename(os.path.abspath(output)) or "thermoq")
    return str(path)
