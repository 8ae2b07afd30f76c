"""Plan, per-tensor work, writer, report: the one place that orders the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thermoq.activations import (
    Activations,
    calibration_files,
    measured_activations,
    sample_warnings,
)
from thermoq.build import build_info
from thermoq.checkpoint import Checkpoint, MappedFiles, open_checkpoint
from thermoq.checkpoint.atomic_directory import check_target, new_directory, sync_tree
from thermoq.checkpoint.carry import carry_files, tree_bytes
from thermoq.config import QuantizationConfig, load_config
from thermoq.encodings import DEFAULT_EFFORT
from thermoq.errors import UsageError
from thermoq.fingerprint import Fingerprint
from thermoq.forecast import Forecast, forecast
from thermoq.invocation import Invocation, from_python
from thermoq.next_commands import OF_OTHER_ENCODINGS, Run
from thermoq.optimization.sequential_run import SequentialRun
from thermoq.output_step import CorrectedOutputs, correct_outputs, wants_correction
from thermoq.phases import check_phases, estimator_of, is_sequential, phase_warnings, smoothing_of
from thermoq.plan import pattern_warnings, plan_component, plan_warnings
from thermoq.progress import NoProgress, Progress
from thermoq.provenance import Stopwatch, describe
from thermoq.report.atomic import check_writable, stage_text
from thermoq.report.model import Report
from thermoq.reporting import build_report, report_for_manifest
from thermoq.run_files import ManifestWriter, component_configs, sizes_of
from thermoq.schedule import NoiseSchedule, schedule_for, uniform_time_groups
from thermoq.sequential_step import fit_sequentially
from thermoq.size_budget import headline_settings
from thermoq.staging import Staging, final_path, published_together
from thermoq.time_work import TimeWorker
from thermoq.validation import Trajectory, Validated, validate
from thermoq.work import ComponentResult, Worker


@dataclass(frozen=True)
class ReportPaths:
    """Where the reports go; the log takes the JSON report's name with `.log`."""

    json: Path | None = None
    html: Path | None = None

    @property
    def log(self) -> Path | None:
        """The log's path, None without a JSON report."""
        return self.json.with_suffix(".log") if self.json and self.json.name else None

    def check(self, *others: Path) -> None:
        """Refuse paths that cannot be written, coincide, or are or lie in one of `others`.

        Raises UsageError for paths that cannot go together, InputError for what the disk refuses.
        """
        paths = [path for path in (self.json, self.log, self.html) if path is not None]
        if len({final_path(path) for path in paths}) < len(paths):
            raise UsageError(
                f"{paths[-1]}: expected different files for the JSON report, the HTML report and "
                "the log (the JSON report's name with .log), got the same one twice"
            )
        for path in paths:
            final = final_path(path)
            for other in others:
                if final_path(other) in (final, *final.parents):
                    raise UsageError(f"{path}: expected a report outside {other}")
        for path in paths:
            check_writable(path)

    def stage(self, report: Report, staging: Staging) -> None:
        """Render the reports and stage them."""
        if self.json is not None and self.log is not None:
            from thermoq.report.json import to_json
            from thermoq.report.log import render_log

            stage_text(staging, self.json, to_json(report))
            stage_text(staging, self.log, render_log(report))
        if self.html is not None:
            from thermoq.report.html import render_html

            stage_text(staging, self.html, render_html(report))


def quantize(
    model: Path | str,
    output: Path | str,
    *,
    config: QuantizationConfig | Path | str | None = None,
    report: Path | str | None = None,
    html_report: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    invocation: Invocation | None = None,
    **settings: object,
) -> Report:
    """Quantize the checkpoint directory `model` into the new directory `output`.

    `config` is a configuration or the path of a YAML file; `settings` are the flags of
    `thermoq quantize` with underscores (`bit_width=4`, `num_time_groups=10`, ...) and win over it.
    `report` and `html_report` name the JSON and HTML reports; the log takes the JSON report's name
    with `.log`. `invocation` is for the report, if the call speaks for another. Returns the report.

    Raises UsageError for a wrong setting and InputError for a wrong file; nothing is written then.
    """
    stopwatch = Stopwatch()
    build_info()  # a wrong THERMOQ_SIMD is told before anything else
    source, target = Path(model), Path(output)
    paths = ReportPaths(_path(report), _path(html_report))
    started = invocation or from_python("quantize", model, output, config, settings)
    resolved = load_config(Path(config) if isinstance(config, str) else config, settings)
    if started.verb == "baseline" and resolved.has_budget:
        raise UsageError("baseline: expected no target_bits and max_size, which `quantize` has")
    check_phases(resolved)
    with stopwatch.measure("plan_s"):
        checkpoint = open_checkpoint(source, resolved.components)
        inputs = (source, *calibration_files(resolved))
        check_target(target, overwrite=overwrite, inputs=inputs)
        paths.check(*inputs, target)
        schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
    activations = None
    if resolved.calibration is not None:
        with stopwatch.measure("calibration_s"), MappedFiles() as files:
            activations = measured_activations(checkpoint, schedule, resolved, files)
    trajectory = _trajectory(schedule, resolved, activations)
    job = _Job(
        checkpoint=checkpoint,
        config=resolved,
        trajectory=trajectory,
        activations=activations,
        stopwatch=stopwatch,
        run=Run(
            model=str(model),
            output=str(output),
            bit_width=resolved.bit_width,
            num_time_groups=resolved.num_time_groups,
            most_time_groups=(
                activations.calibration.num_bins if activations else schedule.num_timesteps
            ),
            method=resolved.resolved_method,
            has_budget=resolved.has_budget,
            lsq_fits=resolved.fits_lsq,
            command=started.verb,
            carried=started.carried,
            phase=resolved.thermodynamic.phase,
            **_of_encoding(resolved, started),
            report=None if report is None else str(report),
            html_report=None if html_report is None else str(html_report),
        ),
        command=started.typed,
    )
    with (
        published_together() as staging,
        new_directory(staging, target, replace=overwrite) as temporary,
    ):
        final = job.write(temporary, target, progress or NoProgress())
        paths.stage(final, staging)
    return final


def _of_encoding(config: QuantizationConfig, started: Invocation) -> dict[str, Any]:
    """Return what advice has to know of the encoding."""
    encoding = config.encoding_choice.encoding_of(config.bit_width)
    typed = {word.partition("=")[0] for word in started.carried}
    others = {flag: flag[2:].replace("-", "_") for flag in OF_OTHER_ENCODINGS if flag not in typed}
    return {
        "encoding": encoding,
        "effort": (config.effort or DEFAULT_EFFORT) if encoding == "trellis" else None,
        "trellis_fits": all(getattr(config, key) is None for key in others.values()),
    }


def baseline(
    model: Path | str, output: Path | str, *, method: str | None = None, **arguments: Any
) -> Report:
    """Quantize with `minmax` and measure Phase 1's metrics; arguments as for `quantize`.

    Raises as `quantize` does, and UsageError for another `method` or phase.
    """
    if method not in (None, "minmax"):
        raise UsageError(f"baseline: expected method minmax, got {method}")
    if arguments.get("phase", "baseline") not in (None, "baseline"):
        raise UsageError(f"baseline: expected phase baseline, got {arguments['phase']}")
    for switch in ("smoothing", "optimization"):
        if arguments.get(switch):
            raise UsageError(f"baseline: expected no {switch}, got true")
    if arguments.get("invocation") is None:
        settings = {key: value for key, value in arguments.items() if key not in _NO_SETTINGS}
        arguments["invocation"] = from_python(
            "baseline", model, output, arguments.get("config"), settings
        )
    return quantize(model, output, method="minmax", **{**arguments, "phase": "baseline"})


_NO_SETTINGS = ("config", "report", "html_report", "overwrite", "progress", "invocation")


@dataclass(frozen=True)
class _Job:
    """A run whose input and settings were found in order."""

    checkpoint: Checkpoint
    config: QuantizationConfig
    trajectory: Trajectory
    activations: Activations | None
    stopwatch: Stopwatch
    run: Run
    command: str

    def write(self, temporary: Path, target: Path, progress: Progress) -> Report:
        """Write the whole output into `temporary` and return the report."""
        fingerprint = Fingerprint()
        results, foretold = self._work(temporary, fingerprint, progress)
        headline = headline_settings(self.config, [result.plan for result in results])
        with self.stopwatch.measure("write_s"):
            configs = component_configs(self.checkpoint, headline, results)
            carry_files(self.checkpoint, temporary, configs)
        manifests = ManifestWriter(headline, self.trajectory, self.activations, temporary)
        results, sequential, corrected = self._run_beside(temporary, results, manifests, progress)
        with self.stopwatch.measure("validation_s"):
            layers = [layer for result in results for layer in result.layers]
            validated = validate(layers, self.trajectory, self.config, self.activations)
        correction_bytes = sum(one.stored_bytes for one in corrected.corrections.values())
        measured = sizes_of(self.checkpoint, results, tree_bytes(temporary), correction_bytes)

        def report_now() -> Report:
            return build_report(
                model_name=self.checkpoint.name,
                config=self.config,
                trajectory=self.trajectory,
                results=results,
                validated=validated,
                forecast=foretold,
                activations=self.activations,
                corrections=corrected.corrections,
                sequential=sequential,
                sizes=measured,
                warnings=self._warnings(results, validated, corrected),
                provenance=describe(
                    self.config,
                    self.stopwatch,
                    command=self.command,
                    model=self.checkpoint.directory,
                    output=target,
                    input_fingerprint=fingerprint.value(),
                    calibration_fingerprint=(
                        self.activations.fingerprint if self.activations else None
                    ),
                ),
                run=replace(self.run, bit_width=headline.bit_width),
            )

        with self.stopwatch.measure("report_s"):
            embedded = report_for_manifest(report_now())
        with self.stopwatch.measure("write_s"):
            manifests.write(results, embedded, corrected.entries)
            sync_tree(temporary)
        return report_now()

    def _run_beside(
        self,
        temporary: Path,
        results: list[ComponentResult],
        manifests: ManifestWriter,
        progress: Progress,
    ) -> tuple[list[ComponentResult], SequentialRun | None, CorrectedOutputs]:
        """Take the steps that run the written components beside the original ones, if any."""
        corrects, sequential = wants_correction(self.config), is_sequential(self.config)
        worker = self._time_worker()
        if self.activations is None or worker is None or not (corrects or sequential):
            return results, None, CorrectedOutputs()
        manifests.write(results, {}, {})  # the steps open what was written
        run, found = None, CorrectedOutputs()
        if sequential:
            with self.stopwatch.measure("sequential_s"):
                results, run = fit_sequentially(
                    self.checkpoint,
                    self.activations,
                    self.config,
                    worker,
                    temporary,
                    results,
                    progress,
                )
        if corrects:
            with self.stopwatch.measure("output_correction_s"):
                found = correct_outputs(
                    self.checkpoint, self.activations, self.config, temporary, progress
                )
        manifests.remove(results)
        final = [
            replace(result, written=found.written.get(result.plan.component.name, result.written))
            for result in results
        ]
        return final, run, found

    def _warnings(
        self,
        results: Sequence[ComponentResult],
        validated: Validated,
        corrected: CorrectedOutputs,
    ) -> list[str]:
        lines = [*self.checkpoint.notes, *pattern_warnings(self.checkpoint, self.config)]
        if self.activations is not None:
            hessian = self.config.resolved_method == "hessian"
            lines += self.activations.warnings()
            lines += sample_warnings(self.activations, validated.layers, hessian)
        else:
            lines += _schedule_warnings(self.trajectory, self.config)
        lines += phase_warnings(self.config, self.trajectory.time_groups)
        lines += corrected.warnings
        return [*lines, *plan_warnings([result.plan for result in results], self.config)]

    def _work(
        self, temporary: Path, fingerprint: Fingerprint, progress: Progress
    ) -> tuple[list[ComponentResult], Forecast | None]:
        foretold = None
        with MappedFiles() as files:
            with self.stopwatch.measure("plan_s"):
                plans = [
                    plan_component(part, self.config, files) for part in self.checkpoint.components
                ]
            if self.activations is not None:
                optimizes = self.config.thermodynamic.optimization.enabled
                plans = [self.activations.planned(plan, optimizes=optimizes) for plan in plans]
            if self.config.has_budget:
                foretold = forecast(plans, self.config, files, self.stopwatch, progress)
                plans = list(foretold.plans)
            worker = Worker(
                self.config,
                files,
                fingerprint,
                self.stopwatch,
                progress,
                self.activations,
                self._time_worker(),
            )
            worker.start(plans)
            results = [worker.run(plan, temporary / plan.component.name) for plan in plans]
        return results, foretold

    def _time_worker(self) -> TimeWorker | None:
        if self.activations is None:
            return None
        estimator = estimator_of(self.config, self.trajectory.schedule)
        return TimeWorker(self.config, self.activations, self.stopwatch, estimator)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _trajectory(
    schedule: NoiseSchedule, config: QuantizationConfig, activations: Activations | None
) -> Trajectory:
    if activations is not None:
        groups = activations.time_groups
    else:
        groups = uniform_time_groups(schedule.num_timesteps, config.num_time_groups)
    return Trajectory(schedule, groups, smoothing_of(config, groups))


def _schedule_warnings(trajectory: Trajectory, config: QuantizationConfig) -> list[str]:
    if trajectory.schedule.assumed and config.thermodynamic.validation.enabled:
        description = trajectory.schedule.description
        return [f"the noise schedule, and so the scores, are assumed: {description}"]
    return []
