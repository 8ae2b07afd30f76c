"""`thermoq baseline` and `thermoq quantize`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from thermoq.cli import options
from thermoq.cli.console import shown_progress, typed_flags, warn, warn_of_leftovers
from thermoq.cli.dry_run import show_plan
from thermoq.cli.summary import print_summary
from thermoq.errors import UsageError

if TYPE_CHECKING:
    from thermoq.invocation import Verb

# Flags that the advised next command gives anew, and whether they take a value.
_NOT_CARRIED = {
    "--model": True,
    "--output": True,
    "--bit-width": True,
    "--num-time-groups": True,
    "--report": True,
    "--html-report": True,
    "--overwrite": False,
    "--dry-run": False,
    "--json": False,
    "--quiet": False,
    "-q": False,
}


def baseline(
    model: options.Model,
    output: options.Output,
    bit_width: options.BitWidth = None,
    num_time_groups: options.NumTimeGroups = None,
    report: options.Report = None,
    html_report: options.HtmlReport = None,
    config: options.Config = None,
    group_size: options.GroupSize = None,
    encoding: options.Encoding = None,
    activation_bits: options.ActivationBits = None,
    sensitive_activation_bits: options.SensitiveActivationBits = None,
    calibration: options.Calibration = None,
    grouping: options.Grouping = None,
    smoothness_threshold: options.SmoothnessThreshold = None,
    sampling_steps: options.SamplingSteps = None,
    validation: options.Validation = None,
    component: options.Component = None,
    max_shard_size: options.MaxShardSize = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Quantize MODEL with minmax and measure Phase 1's metrics, the baseline."""
    _run("baseline", {**locals(), "method": "minmax", "phase": "baseline"})


def quantize(
    model: options.Model,
    output: options.OutputUnlessDry = None,
    phase: options.Phase = None,
    method: options.Method = None,
    bit_width: options.BitWidth = None,
    target_bits: options.TargetBits = None,
    max_size: options.MaxSize = None,
    num_time_groups: options.NumTimeGroups = None,
    report: options.Report = None,
    html_report: options.HtmlReport = None,
    config: options.Config = None,
    encoding: options.Encoding = None,
    group_size: options.GroupSize = None,
    super_block: options.SuperBlock = None,
    scale_bits: options.ScaleBits = None,
    minimum_bits: options.MinimumBits = None,
    effort: options.Effort = None,
    rotation: options.Rotation = None,
    activation_bits: options.ActivationBits = None,
    sensitive_activation_bits: options.SensitiveActivationBits = None,
    calibration: options.Calibration = None,
    grouping: options.Grouping = None,
    smoothness_threshold: options.SmoothnessThreshold = None,
    sampling_steps: options.SamplingSteps = None,
    validation: options.Validation = None,
    smoothing: options.Smoothing = None,
    interpolation: options.Interpolation = None,
    window: options.Window = None,
    optimization: options.Optimization = None,
    coupling: options.Coupling = None,
    gain_estimator: options.GainEstimator = None,
    clip_search: options.ClipSearch = None,
    row_choice: options.RowChoice = None,
    output_correction: options.OutputCorrection = None,
    sequential: options.Sequential = None,
    component: options.Component = None,
    max_shard_size: options.MaxShardSize = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Quantize MODEL into OUTPUT and report what was gained and lost."""
    flags = locals()
    if flags.pop("dry_run"):
        for flag, path in (("--report", report), ("--html-report", html_report)):
            if path is not None:
                raise UsageError(f"{flag}: expected none beside --dry-run, got {path}")
        for name in ("output", "report", "html_report", "overwrite"):
            del flags[name]  # nothing is written
        flags["components"] = flags.pop("component")
        show_plan(flags, quiet=flags.pop("quiet"), json=flags.pop("json"))
        return
    if output is None:
        raise UsageError("Missing option '--output'.")
    _run("quantize", flags)


def _run(command: Verb, flags: dict[str, Any]) -> None:
    """Run the library's verb with the parameters of a command, of which it takes most by name."""
    from thermoq.invocation import from_command_line
    from thermoq.pipeline import ReportPaths
    from thermoq.pipeline import quantize as run

    quiet, json = flags.pop("quiet"), flags.pop("json")
    flags["components"] = flags.pop("component")  # given once for each
    output, report, html_report = flags["output"], flags["report"], flags["html_report"]
    warn_of_leftovers(output, report, ReportPaths(report).log, html_report)
    started = from_command_line(command, sys.argv[1:], typed_flags(sys.argv[2:], _NOT_CARRIED))
    with shown_progress(quiet) as progress:
        result = run(**flags, progress=progress, invocation=started)
    for warning in result.warnings:
        warn(warning)
    if json:
        from thermoq.report.json import to_json

        typer.echo(to_json(result), nl=False)
    elif not quiet:
        print_summary(result, output, report, html_report)
