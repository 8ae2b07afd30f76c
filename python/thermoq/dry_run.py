"""The plan of a run, told and not carried out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thermoq.activations import Activations, measured_activations
from thermoq.build import build_info, version
from thermoq.checkpoint import Checkpoint, MappedFiles, open_checkpoint
from thermoq.config import QuantizationConfig, load_config
from thermoq.encodings import DEFAULT_EFFORT
from thermoq.error_curves import predicted_by
from thermoq.forecast import Forecast, forecast, prediction_note
from thermoq.phases import check_phases
from thermoq.plan import (
    TensorPlan,
    pattern_warnings,
    plan_component,
    plan_warnings,
    weight_files,
)
from thermoq.progress import NoProgress, Progress
from thermoq.provenance import Stopwatch
from thermoq.report.plan import EffortRow, PlannedClass, PlannedTensor, QuantizationPlan
from thermoq.schedule import schedule_for
from thermoq.summary import bits_per_weight, scheme_rows
from thermoq.terms import LAYER_CLASSES
from thermoq.trellis import WINDOW_BITS
from thermoq.trellis_speed import minutes_per_billion


def plan_quantization(
    model: Path | str,
    *,
    config: QuantizationConfig | Path | str | None = None,
    progress: Progress | None = None,
    **settings: object,
) -> QuantizationPlan:
    """Tell what `quantize` with the same arguments would write, and write nothing.

    Bytes are exact; of phase optimize they are the most there can be. Errors are those of about
    2^17 weights of each tensor, or of all of a smaller one, so that the plan of a large model takes
    a fraction of the run's time.

    Raises UsageError and InputError as `quantize` does.
    """
    build_info()  # a wrong THERMOQ_SIMD is told before anything else
    resolved = load_config(Path(config) if isinstance(config, str) else config, settings)
    check_phases(resolved)
    checkpoint = open_checkpoint(Path(model), resolved.components)
    with MappedFiles() as files:
        plans = [plan_component(part, resolved, files) for part in checkpoint.components]
        schedule = schedule_for(checkpoint.scheduler_config, checkpoint.components[0].config)
        activations = measured_activations(checkpoint, schedule, resolved, files)
        if activations is not None:
            optimizes = resolved.thermodynamic.optimization.enabled
            plans = [activations.planned(plan, optimizes=optimizes) for plan in plans]
        found = forecast(plans, resolved, files, Stopwatch(), progress or NoProgress())
    return _plan(checkpoint, resolved, activations, found)


def _plan(
    checkpoint: Checkpoint,
    config: QuantizationConfig,
    activations: Activations | None,
    found: Forecast,
) -> QuantizationPlan:
    tensors = found.tensors()
    quantized = [(component, plan) for component, plan in tensors if plan.scheme is not None]
    error = found.error_of(tensors)
    source_bytes = sum(
        path.stat().st_size for part in checkpoint.components for path in weight_files(part)
    )
    stored = sum(plan.stored_bytes for _, plan in tensors)
    quantized_bytes = sum(plan.stored_bytes for _, plan in quantized)
    num_weights = sum(plan.num_weights for _, plan in tensors)
    num_quantized = sum(plan.num_weights for _, plan in quantized)
    return QuantizationPlan(
        thermoq_version=version(),
        model_name=checkpoint.name,
        method=config.resolved_method,
        predicted_by=predicted_by(config),
        prediction_note=prediction_note(config),
        target_bits=config.target_bits,
        max_size_bytes=config.max_size_bytes,
        source_bytes=source_bytes,
        model_bytes=found.files.total_bytes,
        quantized_bytes=quantized_bytes,
        copied_bytes=stored - quantized_bytes,
        header_bytes=found.files.header_bytes,
        num_weights=num_weights,
        num_quantized_weights=num_quantized,
        bits_per_weight_quantized=bits_per_weight(quantized_bytes, num_quantized),
        bits_per_weight_component=bits_per_weight(found.files.total_bytes, num_weights),
        compression_ratio=source_bytes / found.files.total_bytes,
        squared_error=error.squared_error if error else 0.0,
        relative_squared_error=error.relative_squared_error if error else None,
        layer_classes=_classes(tensors, found),
        tensors=[_tensor(component, plan, config, found) for component, plan in tensors],
        num_trellis_weights=sum(plan.num_weights for plan in _in_trellis(tensors)),
        efforts=_efforts(_in_trellis(tensors), config),
        warnings=[
            *checkpoint.notes,
            *pattern_warnings(checkpoint, config),
            *(activations.warnings() if activations else []),
            *_row_notes(found),
            *plan_warnings(found.plans, config),
        ],
    )


def _in_trellis(tensors: Sequence[tuple[str, TensorPlan]]) -> list[TensorPlan]:
    return [
        plan
        for _, plan in tensors
        if plan.scheme and plan.scheme.encoding == "trellis" and not plan.same_as
    ]


def _efforts(plans: Sequence[TensorPlan], config: QuantizationConfig) -> list[EffortRow]:
    """Measure what each effort costs at the bit width that most of the weights have."""
    weights: dict[int, int] = {}
    for plan in plans:
        assert plan.scheme is not None
        bits = plan.scheme.bit_width
        weights[bits] = weights.get(bits, 0) + plan.num_weights
    if not weights:
        return []
    most = max(weights, key=lambda bits: weights[bits])
    by_hessian = config.resolved_method == "hessian"
    minutes_of = minutes_per_billion(most, config.threads, by_hessian=by_hessian)
    return [
        EffortRow(
            effort=effort,
            window_bits=WINDOW_BITS[effort],
            minutes_per_billion_weights=minutes,
            is_chosen=effort == (config.effort or DEFAULT_EFFORT),
        )
        for effort, minutes in minutes_of.items()
    ]


def _row_notes(found: Forecast) -> list[str]:
    """Return a line where sizes are bounds, as only a run tells which rows get parameters."""
    most = [plan.row_bytes for part in found.plans for plan in part.tensors]
    if not any(most):
        return []
    return [
        f"sizes count the most that optimize may store for rows, {sum(most):,} bytes of gains and "
        "biases for each time group; the output correction's few are left out"
    ]


def _classes(tensors: Sequence[tuple[str, TensorPlan]], found: Forecast) -> list[PlannedClass]:
    rows = []
    for name in (*LAYER_CLASSES, "copied"):
        members = [pair for pair in tensors if (pair[1].layer.layer_class or "copied") == name]
        if not members:
            continue
        plans = [plan for _, plan in members]
        num_weights = sum(plan.num_weights for plan in plans)
        stored = sum(plan.stored_bytes for plan in plans)
        error = found.error_of(members)
        rows.append(
            PlannedClass(
                layer_class=name,
                num_tensors=len(plans),
                num_weights=num_weights,
                schemes=scheme_rows(plans),
                source_bytes=sum(plan.tensor.nbytes for plan in plans),
                stored_bytes=stored,
                bits_per_weight=bits_per_weight(stored, num_weights),
                relative_squared_error=error.relative_squared_error if error else None,
            )
        )
    return rows


def _tensor(
    component: str, plan: TensorPlan, config: QuantizationConfig, found: Forecast
) -> PlannedTensor:
    scheme, error = plan.scheme, found.error_of([(component, plan)])
    return PlannedTensor(
        name=plan.tensor.name,
        component=component,
        layer_class=plan.layer.layer_class,
        reason=plan.layer.reason,
        shape=list(plan.tensor.shape),
        source_dtype=plan.tensor.dtype,
        num_weights=plan.num_weights,
        encoding=scheme.encoding if scheme else None,
        bit_width=scheme.bit_width if scheme else None,
        group_size=scheme.group_size if scheme else None,
        super_block=scheme.super_block or None if scheme else None,
        scale_bits=scheme.scale_bits or None if scheme else None,
        minimum_bits=scheme.minimum_bits or None if scheme else None,
        window_bits=scheme.window_bits or None if scheme else None,
        rotation=plan.rotation_kind(config),
        source_bytes=plan.tensor.nbytes,
        stored_bytes=plan.stored_bytes,
        squared_error=error.squared_error if error else None,
        relative_squared_error=error.relative_squared_error if error else None,
        same_as=plan.same_as,
    )
