"""The execution log: everything the report holds, as plain text, one fact a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from thermoq.report.atomic import atomic_text
from thermoq.report.evaluation_wording import evaluation_lines
from thermoq.report.model import CopiedRow, LayerRow, Report
from thermoq.report.optimization_wording import layer_line, optimization_lines
from thermoq.report.order import full_name, network_order
from thermoq.report.thermodynamics_model import LayerTimeParameters, Thermodynamics
from thermoq.report.wording import (
    VALIDATION_KEY,
    before_text,
    budget_text,
    calibration_text,
    close_to_one,
    counted,
    duration,
    fixed,
    groups,
    other_activation_bits,
    outcome,
    scheme_text,
    shape,
    significant,
    size,
    smoothing_text,
    source_text,
    step_name,
    timestep,
    whole,
)


def write_log(report: Report, path: Path) -> None:
    """Write `render_log(report)` to `path`, all of it or none. Raises InputError if it cannot."""
    atomic_text(path, render_log(report))


def render_log(report: Report) -> str:
    """The log as text. Each line with a thermodynamic figure names its parameter source."""
    sections = (
        ("run", _run(report)),
        ("settings", _settings(report)),
        ("budget", _budget(report)),
        ("schedule", _schedule(report)),
        ("quantized tensors", _layers(report)),
        ("copied tensors", _copied(report)),
        ("optimization", optimization_lines(report)),
        ("optimization of layers", _layer_optimization(report)),
        ("smoothness of layers", _layer_smoothness(report)),
        ("boundaries", _boundaries(report)),
        ("violations", _violations(report)),
        ("patterns", _patterns(report)),
        ("evaluation", evaluation_lines(report.evaluation)),
        ("warnings", iter(report.warnings)),
        ("headline", _headline(report)),
        ("verdict", _verdict(report)),
        ("times", _times(report)),
    )
    lines = [f"thermoq {report.thermoq_version}: {report.phase} of {report.model_name}"]
    for title, body in sections:
        facts = ["  " + _printable(line) for line in body]
        lines += ["", f"[{title}]", *(facts or ["  none"])]
    return "\n".join(lines) + "\n"


def _printable(line: str) -> str:
    """`line` with escapes for line breaks and control characters, which a name may hold."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def _run(report: Report) -> Iterator[str]:
    run = report.provenance
    yield f"command: {run.command}"
    yield f"started: {run.started_at}"
    yield f"input: {run.input_path}"
    yield f"output: {run.output_path}"
    yield f"input fingerprint: {run.input_fingerprint}"
    yield f"calibration fingerprint: {run.calibration_fingerprint or 'no calibration'}"
    yield f"cpu: {run.cpu}, {run.simd_level}, {counted(run.threads, 'thread')}"
    yield f"openmp: {'yes' if run.openmp else 'no'}"
    yield f"blas: {run.blas}"
    yield f"python: {run.python_version} on {run.platform}"
    yield f"seed: {run.seed}"


def _settings(report: Report) -> Iterator[str]:
    yield f"method: {report.method}"
    most = " in most of the body" if report.budget else ""
    yield f"bit width: {report.bit_width}{most}"
    yield f"encoding: {report.encoding}, {groups(report)}{most}"
    others = other_activation_bits(report)
    yield f"activation bits: {report.activation_bits}" + (f", {others}" if others else "")
    yield f"time groups: {report.num_time_groups}"
    yield f"sampling steps: {report.sampling_steps}"
    yield f"parameter source: {source_text(report.parameter_source)}"
    if report.calibration is not None:
        yield f"calibration: {calibration_text(report.calibration)}"


def _budget(report: Report) -> Iterator[str]:
    budget = report.budget
    if budget is None:
        return
    yield budget_text(budget)
    yield (
        f"bytes of the safetensors files: predicted {whole(budget.predicted_bytes)}, got "
        + whole(budget.achieved_bytes)
    )
    yield (
        f"squared error: predicted {significant(budget.predicted_squared_error)} (at least "
        f"{significant(budget.predicted_lower_bound)} within the budget), "
        f"got {significant(budget.squared_error)}"
    )
    if budget.prediction_note is not None:
        yield f"predicted: {budget.prediction_note}"
    for row in budget.schemes:
        yield f"{counted(row.num_tensors, 'tensor')} in {scheme_text(row)}"


def _schedule(report: Report) -> Iterator[str]:
    thermodynamics = report.thermodynamics
    if thermodynamics is None:
        yield _validation_off()
        return
    yield f"{thermodynamics.schedule}, {whole(thermodynamics.num_timesteps)} timesteps"
    for row in thermodynamics.time_groups:
        yield (
            f"time group {row.group}: timestep {timestep(row.start_timestep)} to "
            f"{timestep(row.end_timestep)}, signal^2 {significant(row.signal_variance)}, "
            f"noise^2 {significant(row.noise_variance)} in the middle"
        )
    if thermodynamics.smoothing is not None:
        yield smoothing_text(thermodynamics.smoothing)


def _output(row: LayerRow) -> str:
    if row.output_relative_squared_error is None:
        return ""
    error = significant(row.output_relative_squared_error)
    return f"relative squared error of the output {error}, "


def _layers(report: Report) -> Iterator[str]:
    for index, row in enumerate(network_order(report.layers), start=1):
        yield (
            f"{index}/{len(report.layers)} {full_name(row)}: {shape(row.shape)} "
            f"{row.source_dtype}, {row.layer_class}, {row.encoding} {row.bit_width} bit "
            f"by {row.method} in {groups(row)} "
            f"({significant(row.bits_per_weight)} bits/weight), "
            f"relative squared error {significant(row.relative_squared_error)}, "
            f"largest error {significant(row.max_error)}, cosine {fixed(row.cosine_similarity)}, "
            f"{_output(row)}{_stored(row)}"
        )


def _stored(row: LayerRow | CopiedRow) -> str:
    return f"same bytes as {row.same_as}" if row.same_as else f"{whole(row.stored_bytes)} bytes"


def _copied(report: Report) -> Iterator[str]:
    for index, row in enumerate(report.copied, start=1):
        yield (
            f"{index}/{len(report.copied)} {full_name(row)}: {shape(row.shape)} "
            f"{row.source_dtype}, {_stored(row)}: {row.reason}"
        )


def _layer_optimization(report: Report) -> Iterator[str]:
    for row in network_order(report.layers):
        if row.optimization is not None:
            yield f"{full_name(row)}: {layer_line(row, row.optimization)}"


def _layer_smoothness(report: Report) -> Iterator[str]:
    thermodynamics = report.thermodynamics
    if thermodynamics is None:
        yield _validation_off()
        return
    for index, row in enumerate(network_order(report.layers), start=1):
        yield f"{index}/{len(report.layers)} {full_name(row)}: {_smoothness(row)}"


def _smoothness(row: LayerRow) -> str:
    parameters = row.time_parameters
    if parameters is None:
        return "no time parameters"
    jump = max([*parameters.scale_jump, *parameters.zero_point_jump], default=0.0)
    apart = "" if row.in_headline else ", not in the headline"
    return (
        f"smoothness {fixed(parameters.smoothness_score)}, "
        f"{counted(parameters.violation_count, 'violation')}, largest jump {fixed(jump)}, "
        f"{_origin(parameters)}{apart} [parameter_source: {parameters.parameter_source}]"
    )


def _origin(parameters: LayerTimeParameters) -> str:
    """What a layer's parameters follow from: its measured range, or the weights' spectrum."""
    if parameters.bin_minimum is None or parameters.bin_maximum is None:
        return f"kappa {significant(parameters.spectral_concentration)}"
    low, high = min(parameters.bin_minimum), max(parameters.bin_maximum)
    return f"inputs from {significant(low)} to {significant(high)}"


def _boundaries(report: Report) -> Iterator[str]:
    thermodynamics = report.thermodynamics
    if thermodynamics is None:
        yield _validation_off()
        return
    for row in thermodynamics.boundaries:
        yield (
            f"boundary {row.boundary_idx} at timestep {timestep(row.timestep)}: "
            f"score {fixed(row.score)}, scale jump {fixed(row.scale_jump)} "
            f"(unclipped {fixed(row.unclipped_scale_jump)}), "
            f"zero-point jump {fixed(row.zero_point_jump)} "
            f"(unclipped {fixed(row.unclipped_zero_point_jump)}), "
            f"{row.severity + ' violation' if row.severity else 'within the threshold'}"
            f"{_source(report)}"
        )


def _violations(report: Report) -> Iterator[str]:
    if report.thermodynamics is None:
        yield _validation_off()
    for row in report.violations or ():
        yield (
            f"boundary {row.boundary_idx}: {row.severity}, scale jump {fixed(row.scale_jump)}, "
            f"zero-point jump {fixed(row.zero_point_jump)}{_source(report)}"
        )
    for line in report.common_violation_patterns or ():
        yield f"{line}{_source(report)}"


def _patterns(report: Report) -> Iterator[str]:
    if report.thermodynamics is None:
        yield _validation_off()
    for row in report.patterns or ():
        yield f"{row.title}, boundaries {row.boundaries}{_source(report)}"
        yield f"  cause: {row.cause}"
        yield f"  impact: {row.impact}"
        yield f"  advice: {row.advice}"


def _headline(report: Report) -> Iterator[str]:
    thermodynamics = report.thermodynamics
    if thermodynamics is None:
        yield _validation_off()
    else:
        yield from _scores(report, thermodynamics)
    sizes = report.sizes
    yield f"cosine similarity: {fixed(report.cosine_similarity)}"
    if report.output_cosine_similarity is not None:
        cosine = close_to_one(report.output_cosine_similarity)
        yield f"output cosine similarity: {cosine}, of the codes alone, on the calibration's rows"
    yield f"relative squared error: {significant(report.relative_squared_error)}"
    yield f"compression ratio: {significant(report.compression_ratio)} on disk"
    yield f"nominal compression ratio: {report.nominal_compression_ratio:.3g}, not measured"
    yield f"model size: {significant(report.model_size_mb)} MB ({whole(sizes.model_bytes)} bytes)"
    yield f"source size: {size(sizes.source_bytes)} ({whole(sizes.source_bytes)} bytes)"
    yield (
        f"bits per weight: {significant(sizes.bits_per_weight_quantized)} quantized tensors, "
        f"{significant(sizes.bits_per_weight_component)} component, "
        f"{significant(sizes.bits_per_weight_directory)} directory"
    )


def _scores(report: Report, thermodynamics: Thermodynamics) -> Iterator[str]:
    source = _source(report)
    yield f"smoothness score: {fixed(report.smoothness_score)}{source}"
    if thermodynamics.group_smoothness_score is not None:
        between = fixed(thermodynamics.group_smoothness_score)
        yield f"smoothness score between time groups: {between}{source}"
    if thermodynamics.before is not None:
        yield f"{before_text(thermodynamics.before)}{source}"
    jump = (
        "not available" if thermodynamics.total_jump is None else fixed(thermodynamics.total_jump)
    )
    yield f"total jump: {jump} of at most {thermodynamics.max_possible_jump:g}{source}"
    violations = "not available" if report.violation_count is None else str(report.violation_count)
    yield f"violations: {violations} above {thermodynamics.smoothness_threshold:g}{source}"
    if thermodynamics.layer_violation_count is not None:
        yield f"violations in single layers: {_layer_violations(thermodynamics)}{source}"
    yield (
        f"boundary scores: min {fixed(report.min_boundary_score)}, "
        f"max {fixed(report.max_boundary_score)}, mean {fixed(report.mean_boundary_score)}, "
        f"std {fixed(report.std_boundary_score)}{source}"
    )
    yield (
        f"layers with time parameters: {thermodynamics.num_layers_with_time_parameters} of "
        f"{len(report.layers)}"
    )
    if thermodynamics.worst_layers:
        yield f"worst layers: {', '.join(thermodynamics.worst_layers)}{source}"


def _layer_violations(thermodynamics: Thermodynamics) -> str:
    text = f"{thermodynamics.layer_violation_count}"
    if thermodynamics.before is None:
        return text
    return f"{text}, in Phase 1 {thermodynamics.before.layer_violation_count}"


def _verdict(report: Report) -> Iterator[str]:
    assessment = report.assessment
    if assessment is None:
        yield _validation_off()
        return
    yield f"{assessment.title}. {assessment.verdict}{_source(report)}"
    for row in (*assessment.characteristics, *assessment.phase_targets):
        source = "" if row.of_weights else _source(report)
        yield f"{outcome(row)[0]}: {row.name}: expected {row.expected}, got {row.actual}{source}"
    for cause in assessment.causes:
        yield f"possible cause: {cause}"
    for action in assessment.actions:
        yield f"action: {action}"
    yield f"next: {assessment.next_command}"
    if assessment.then_command is not None:
        yield f"then: {assessment.then_command}"


def _times(report: Report) -> Iterator[str]:
    for name, seconds in report.provenance.times_s.items():
        yield f"{step_name(name)}: {duration(seconds)}"


def _source(report: Report) -> str:
    return f" [parameter_source: {report.parameter_source}]"


def _validation_off() -> str:
    return f"thermodynamic validation was off; {VALIDATION_KEY} brings this part back"
