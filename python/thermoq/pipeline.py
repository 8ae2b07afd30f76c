"""Plan, per-tensor work, writer, report: the one place that orders the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thermoq.activations import Activations, measured_activations, sample_warnings
from thermoq.assessment import Run
from thermoq.build import build_info, version
from thermoq.checkpoint import Checkpoint, MappedFiles, open_checkpoint, stored_tensors
from thermoq.checkpoint.atomic_directory import check_target, new_directory, sync_tree
from thermoq.checkpoint.carry import QUANTIZATION_KEY, carry_files, tree_bytes
from thermoq.checkpoint.manifest import (
    Manifest,
    ScheduleEntry,
    TimeGroupTable,
    version_for,
    write_manifest,
)
from thermoq.config import QuantizationConfig, load_config
from thermoq.errors import InputError, UsageError
from thermoq.fingerprint import Fingerprint
from thermoq.forecast import Forecast, forecast
from thermoq.invocation import Invocation, from_python
from thermoq.plan import copied_warnings, pattern_warnings, plan_component, weight_files
from thermoq.progress import NoProgress, Progress
from thermoq.provenance import Stopwatch, describe
from thermoq.report.atomic import check_writable, stage_text
from thermoq.report.model import Report, Sizes
from thermoq.reporting import Trajectory, build_report, report_for_manifest, validate
from thermoq.schedule import NoiseSchedule, schedule_for, uniform_time_groups
from thermoq.size_budget import headline_settings
from thermoq.staging import Staging, final_path, published_together
from thermoq.summary import sizes
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
    with stopwatch.measure("plan_s"):
        checkpoint = open_checkpoint(source, resolved.components)
        inputs = (source, *([Path(resolved.calibration)] if resolved.calibration else []))
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
            writes_report=report is not None,
            writes_html_report=html_report is not None,
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


def baseline(
    model: Path | str, output: Path | str, *, method: str | None = None, **arguments: Any
) -> Report:
    """Quantize with `minmax` and measure Phase 1's metrics; arguments as for `quantize`.

    Raises as `quantize` does, and UsageError for another `method`.
    """
    if method not in (None, "minmax"):
        raise UsageError(f"baseline: expected method minmax, got {method}")
    if arguments.get("invocation") is None:
        settings = {key: value for key, value in arguments.items() if key not in _NO_SETTINGS}
        arguments["invocation"] = from_python(
            "baseline", model, output, arguments.get("config"), settings
        )
    return quantize(model, output, method="minmax", **arguments)


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
            carry_files(self.checkpoint, temporary, _configs(self.checkpoint, headline, results))
        with self.stopwatch.measure("validation_s"):
            layers = [layer for result in results for layer in result.layers]
            validated = validate(layers, self.trajectory, self.config)
        measured = _sizes(self.checkpoint, results, tree_bytes(temporary))

        def report_now() -> Report:
            return build_report(
                model_name=self.checkpoint.name,
                config=self.config,
                trajectory=self.trajectory,
                results=results,
                validated=validated,
                forecast=foretold,
                activations=self.activations,
                sizes=measured,
                warnings=[
                    *self.checkpoint.notes,
                    *pattern_warnings(self.checkpoint, self.config),
                    *(
                        [
                            *self.activations.warnings(),
                            *sample_warnings(
                                self.activations,
                                validated.layers,
                                self.config.resolved_method == "hessian",
                            ),
                        ]
                        if self.activations
                        else _schedule_warnings(self.trajectory, self.config)
                    ),
                    *copied_warnings([result.plan for result in results]),
                ],
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
            _write_manifests(
                results, headline, self.trajectory, self.activations, embedded, temporary
            )
            sync_tree(temporary)
        return report_now()

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
                plans = [self.activations.planned(plan) for plan in plans]
            if self.config.has_budget:
                foretold = forecast(plans, self.config, files, self.stopwatch, progress)
                plans = list(foretold.plans)
            worker = Worker(
                self.config, files, fingerprint, self.stopwatch, progress, self.activations
            )
            worker.start(plans)
            results = [worker.run(plan, temporary / plan.component.name) for plan in plans]
        return results, foretold


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _trajectory(
    schedule: NoiseSchedule, config: QuantizationConfig, activations: Activations | None
) -> Trajectory:
    if activations is not None:
        return Trajectory(schedule, activations.time_groups)
    return Trajectory(schedule, uniform_time_groups(schedule.num_timesteps, config.num_time_groups))


def _schedule_warnings(trajectory: Trajectory, config: QuantizationConfig) -> list[str]:
    if trajectory.schedule.assumed and config.thermodynamic.validation.enabled:
        description = trajectory.schedule.description
        return [f"the noise schedule, and so the scores, are assumed: {description}"]
    return []


def _configs(
    checkpoint: Checkpoint, config: QuantizationConfig, results: Sequence[ComponentResult]
) -> dict[str, dict[str, Any] | None]:
    """Return each component's config.json with the entry that loaders look for.

    What it says of the encoding holds for most of the body; the manifest has each tensor's.
    """
    choice, bits = config.encoding_choice, config.bit_width
    entry = {
        "thermoq_version": version(),
        "bit_width": config.bit_width,
        "encoding": choice.encoding_of(bits),
        "group_size": choice.group_size_of(bits),
        **_of_coded(config),
        "method": config.resolved_method,
        **({"rotation": "hadamard"} if config.resolved_rotation == "hadamard" else {}),
        "phase": "baseline",
        "num_time_groups": config.num_time_groups,
        "activation_bits": config.activation_bits,
    }
    versions = {result.plan.component.name: version_for(result.entries) for result in results}
    return {
        part.name: {
            **(part.config or {}),
            QUANTIZATION_KEY: {
                "quant_method": "thermoq",
                "format_version": versions[part.name],
                **entry,
            },
        }
        for part in checkpoint.components
    }


def _of_coded(config: QuantizationConfig) -> dict[str, int | None]:
    """Return the keys that say how coded matrices are stored; none if the body is not coded."""
    choice, bits = config.encoding_choice, config.bit_width
    if choice.encoding_of(bits) != "coded":
        return {}
    return {
        "super_block": config.super_block,  # null: by the length of the row
        "scale_bits": choice.scale_bits_of(bits),
        "minimum_bits": choice.minimum_bits_of(bits),
    }


def _sizes(
    checkpoint: Checkpoint, results: Sequence[ComponentResult], directory_bytes: int
) -> Sizes:
    return sizes(
        [plan for result in results for plan in result.plan.tensors],
        source_bytes=sum(
            path.stat().st_size
            for result in results
            for path in weight_files(result.plan.component)
        ),
        model_bytes=sum(result.written.total_bytes for result in results),
        header_bytes=sum(result.written.header_bytes for result in results),
        directory_bytes=directory_bytes,
        carried_weights=sum(
            _num_weights(checkpoint.directory / path)
            for path in checkpoint.other_files
            if path.suffix == ".safetensors"
        ),
    )


def _num_weights(path: Path) -> int:
    """Return how many weights a carried file holds: none if it is not what its name says."""
    try:
        return sum(math.prod(tensor.shape) for tensor in stored_tensors(path).values())
    except InputError:
        return 0


def _write_manifests(
    results: Sequence[ComponentResult],
    config: QuantizationConfig,
    trajectory: Trajectory,
    activations: Activations | None,
    report: dict[str, Any],
    temporary: Path,
) -> None:
    groups = TimeGroupTable(
        num_timesteps=trajectory.time_groups.num_timesteps,
        time_group_starts=trajectory.time_groups.starts,
    )
    schedule = ScheduleEntry(
        kind=trajectory.schedule.kind,
        num_timesteps=trajectory.schedule.num_timesteps,
        description=trajectory.schedule.description,
    )
    for result in results:
        component = result.plan.component.name
        manifest = Manifest(
            format_version=version_for(result.entries),
            thermoq_version=version(),
            component=component,
            phase="baseline",
            method=config.resolved_method,
            bit_width=config.bit_width,
            time_groups=groups,
            schedule=schedule,
            activation_bits=config.activation_bits if activations else None,
            tensors=result.entries,
            report=report,
        )
        write_manifest(manifest, temporary / component)
