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
from typing import Final, Literal

from thermoq.calibration.file import DEFAULT_NUM_BINS
from thermoq.encodings import MatrixEncoding
from thermoq.terms import Encoding, Interpolation, Method, Phase

OF_OTHER_ENCODINGS: Final = ("--group-size", "--super-block", "--scale-bits", "--minimum-bits")
"""What trellis refuses, or has a good default for: a scale for a row."""


@dataclass(frozen=True)
class Run:
    """What was typed, so that the next command can repeat it.

    `carried` are the words of all other flags that were given, to be repeated as they are: not the
    model, output, bit width, time groups or reports. `lsq_fits` tells whether they would be
    accepted with the method lsq. With a size budget, which is carried, `bit_width` is what most of
    the body got. `most_time_groups` are the model's timesteps, or the calibration's bins.
    `encoding` is that of most of the body, for a `quantize` that has to choose the same codes, and
    `effort` what it took, where it is trellis. `trellis_fits` tells whether trellis would be
    accepted with what is set but not typed as a flag, and not cost more for it. `report` and
    `html_report` are the paths of the reports that it wrote.
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
    report: str | None = None
    html_report: str | None = None
    phase: Phase = "baseline"
    encoding: Encoding | None = None
    effort: int | None = None
    trellis_fits: bool = True


@dataclass(frozen=True)
class Step:
    """The settings that the next run should have; None where this run should be used as it is.

    `widens`: with windows of `window` timesteps, None standing for the default.
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
    encoding: MatrixEncoding | None = None
    effort: int | None = None

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
    words = ["--report", f"{output}.json"] if run.report is not None else []
    return words + (["--html-report", f"{output}.html"] if run.html_report is not None else [])


def evaluate_command(run: Run) -> str:
    """Return the command that measures what the quantized model does, into this run's reports."""
    words = ["thermoq", "evaluate", "--model", run.model, "--quantized", run.output]
    for flag, path in (("--report", run.report), ("--html-report", run.html_report)):
        words += [flag, path] if path is not None else []
    return shlex.join(words)


def is_evaluation(command: str) -> bool:
    """Tell whether `command` is what `evaluate_command` returns."""
    return command.startswith("thermoq evaluate ")


def inspect_command(output: str) -> str:
    """Return the command that lists what the quantized model in `output` stores."""
    return shlex.join(["thermoq", "inspect", output])


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
    output = f"{stem}-{size}-g{groups}{_ending(step)}"
    output += f"-{phase}" if phase != "baseline" else ""
    if os.path.abspath(output) == os.path.abspath(run.output):  # it tells of settings not used
        output += "-next"
    is_baseline = run.command == "baseline" and phase == "baseline"
    is_baseline = is_baseline and not (step.method or step.encoding)
    words = ["thermoq", "baseline" if is_baseline else "quantize"]
    words += ["--model", run.model, "--output", output]
    words += ["--bit-width", str(bits)] if not run.has_budget else []
    words += ["--num-time-groups", str(groups), *_phase(phase), *_windows(step)]
    words += _codes(run, step, phase) + _carried(run, step)
    return shlex.join(words + _reports(run, output))


def _ending(step: Step) -> str:
    """Return what an output's name tells of other codes."""
    if step.encoding or step.method:
        return f"-{step.encoding or step.method}"
    return f"-effort{step.effort}" if step.effort else ""


def _phase(phase: Phase) -> list[str]:
    return [] if phase == "baseline" else ["--phase", phase]


def _windows(step: Step) -> list[str]:
    words = ["--interpolation", step.interpolation] if step.interpolation else []
    if step.widens and step.window is not None:
        words += ["--window", f"{step.window:g}"]
    return words


def _codes(run: Run, step: Step, phase: Phase) -> list[str]:
    """Return the flags for the codes that `baseline` chose, where `quantize` has other defaults.

    Phases are held against each other on the same codes. Before them all that a step changes.
    """
    words = ["--method", step.method] if step.method else []
    words += ["--encoding", step.encoding] if step.encoding else []
    words += ["--effort", str(step.effort)] if step.effort else []
    if words:
        return words
    if step.bit_width in (3, 4) and run.encoding == "trellis" and not given(run, "--encoding"):
        return ["--encoding", "trellis"]  # of these bits it is no default
    if run.command == "quantize" or phase == "baseline":
        return []
    words = [] if given(run, "--method") else ["--method", run.method]
    if run.encoding in ("affine", "coded", "trellis") and not given(run, "--encoding"):
        words += ["--encoding", run.encoding]
    return words


def _carried(run: Run, step: Step) -> list[str]:
    dropped = ["--phase"]
    dropped += ["--method"] if step.method else []
    dropped += [*OF_OTHER_ENCODINGS, "--encoding"] if step.encoding else []
    dropped += ["--effort"] if step.effort else []
    dropped += ["--interpolation"] if step.interpolation else []
    dropped += ["--window"] if step.widens else []
    words = _without(run.carried, *dropped)
    switches = {"--no-smoothing"} if step.smooths or step.phase == "smooth" else set()
    switches |= {"--no-optimization"} if step.phase == "optimize" else set()
    return [word for word in words if word not in switches]


def given(run: Run, *flags: str) -> bool:
    """Tell whether one of these flags is carried."""
    return any(word.partition("=")[0] in flags for word in run.carried)


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """Return the words but these flags and their values."""
    each = iter(words)
    kept = []
    for word in each:
        if word in flags:
            next(each, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept


_ENDINGS: Final = (
    *("-int[2348]", r"-g\d+", "-lsq", "-trellis", r"-effort\d", "-calibrated"),
    *("-smooth", "-optimize"),
)


def _stem(output: str) -> str:
    """Return the output's path without endings that tell of settings, as earlier advice gave it."""
    path = PurePath(_without_ending(output))
    return str(path.with_name(re.sub(rf"(?<!^)({'|'.join(_ENDINGS)})+$", "", path.name)))


def _without_ending(output: str) -> str:
    """Return the output's path as other names can be made of it.

    Never inside the output: where that is `.` or ends in `..`, beside it.
    """
    path = PurePath(output)
    if path.name in ("", ".."):
        path = path / ".." / (os.path.basename(os.path.abspath(output)) or "thermoq")
    return str(path)
