"""From results to the report: sums, weighted means and rows. Formulas: DESIGN sections 5 and 10."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermoq.candidates import kind_of
from thermoq.checkpoint.layout import DENOISERS
from thermoq.metrics import LayerJumps
from thermoq.optimization import OptimizedLayer
from thermoq.optimization_summary import layer_optimization
from thermoq.outputs import OutputError
from thermoq.plan import TensorPlan
from thermoq.report.model import ClassRow, CopiedRow, LayerRow, Sizes
from thermoq.report.plan import SchemeRow
from thermoq.report.thermodynamics_model import LayerTimeParameters
from thermoq.terms import LAYER_CLASSES, Method
from thermoq.time_parameters import TimeParameters
from thermoq.weights import Scheme, WeightError


@dataclass(frozen=True)
class LayerResult:
    """A quantized tensor: how it was stored, how far off it is, and its time parameters if any."""

    component: str
    plan: TensorPlan
    error: WeightError
    method: Method
    output: OutputError | None = None
    rotated: bool = False
    spectral_concentration: float | None = None
    time_parameters: TimeParameters | None = None
    jumps: LayerJumps | None = None
    optimized: OptimizedLayer | None = None

    @property
    def in_headline(self) -> bool:
        """True if the layer counts in the smoothness figures: if it runs at every timestep."""
        return runs_along_the_trajectory(self.component, self.plan)


def runs_along_the_trajectory(component: str, plan: TensorPlan) -> bool:
    """Tell whether a layer runs at every timestep, as all do but tables and those of other models.

    Tables are looked up, not run; text encoders and VAEs run before and after the trajectory.
    """
    return component in ("", *DENOISERS) and plan.layer.layer_class != "table"


def layer_row(result: LayerResult) -> LayerRow:
    """Return the report's row of a quantized tensor."""
    plan, error, output = result.plan, result.error, result.output
    assert plan.scheme is not None
    assert plan.layer.layer_class is not None
    return LayerRow(
        name=plan.tensor.name,
        component=result.component,
        layer_class=plan.layer.layer_class,
        shape=list(plan.tensor.shape),
        source_dtype=plan.tensor.dtype,
        num_weights=plan.num_weights,
        bit_width=plan.scheme.bit_width,
        method=result.method,
        encoding=plan.scheme.encoding,
        group_size=plan.scheme.group_size,
        super_block=plan.scheme.super_block or None,
        scale_bits=plan.scheme.scale_bits or None,
        minimum_bits=plan.scheme.minimum_bits or None,
        window_bits=plan.scheme.window_bits or None,
        rotation="hadamard" if result.rotated else None,
        stored_bytes=plan.stored_bytes,
        time_parameter_bytes=plan.time_bytes,
        bits_per_weight=bits_per_weight(plan.encoded_bytes, plan.num_weights),
        relative_squared_error=error.relative_squared_error,
        cosine_similarity=error.cosine_similarity,
        output_relative_squared_error=None if output is None else output.relative_squared_error,
        output_cosine_similarity=None if output is None else output.cosine_similarity,
        max_error=error.max_error,
        squared_error=error.squared_error,
        source_energy=error.source_energy,
        in_headline=result.in_headline,
        same_as=plan.same_as,
        time_parameters=_time_parameters(result),
        optimization=layer_optimization(result.optimized),
    )


def copied_row(component: str, plan: TensorPlan) -> CopiedRow:
    """Return the report's row of a copied tensor."""
    return CopiedRow(
        name=plan.tensor.name,
        component=component,
        shape=list(plan.tensor.shape),
        source_dtype=plan.tensor.dtype,
        stored_bytes=plan.stored_bytes,
        reason=plan.layer.reason,
        same_as=plan.same_as,
    )


def class_rows(layers: Sequence[LayerRow], plans: Iterable[TensorPlan]) -> list[ClassRow]:
    """Return bits, bytes and error of each layer class that occurs, and of the copied tensors."""
    by_class: dict[str, list[TensorPlan]] = {}
    for plan in plans:
        by_class.setdefault(plan.layer.layer_class or "copied", []).append(plan)
    rows = []
    for name in (*LAYER_CLASSES, "copied"):
        members = by_class.get(name, [])
        if not members:
            continue
        num_weights = sum(plan.num_weights for plan in members)
        stored = sum(plan.stored_bytes for plan in members)
        rows.append(
            ClassRow(
                layer_class=name,
                num_tensors=len(members),
                num_weights=num_weights,
                source_bytes=sum(plan.tensor.nbytes for plan in members),
                stored_bytes=stored,
                bits_per_weight=bits_per_weight(stored, num_weights),
                relative_squared_error=relative_squared_error(
                    [row for row in layers if row.layer_class == name]
                ),
            )
        )
    return rows


def scheme_rows(plans: Iterable[TensorPlan]) -> list[SchemeRow]:
    """Return a row for each way of storing matrices that occurs, from few bits to many."""
    by_kind: dict[Scheme, list[TensorPlan]] = {}
    for plan in plans:
        if plan.scheme is not None:
            by_kind.setdefault(kind_of(plan.scheme), []).append(plan)
    rows = [
        SchemeRow(
            encoding=kind.encoding,
            bit_width=kind.bit_width,
            group_size=kind.group_size or _common_group_size(members),
            scale_bits=kind.scale_bits or None,
            minimum_bits=kind.minimum_bits or None,
            window_bits=kind.window_bits or None,
            num_tensors=len(members),
            num_weights=sum(plan.num_weights for plan in members),
            stored_bytes=sum(plan.stored_bytes for plan in members),
        )
        for kind, members in by_kind.items()
    ]
    return sorted(rows, key=lambda row: (row.bit_width, -(row.group_size or 0), row.encoding))


def _common_group_size(plans: Sequence[TensorPlan]) -> int | None:
    sizes = {plan.scheme.group_size for plan in plans if plan.scheme is not None}
    return sizes.pop() if len(sizes) == 1 else None


def relative_squared_error(layers: Sequence[LayerRow]) -> float | None:
    """sum ||W^ - W||^2 / sum ||W||^2 over layers; None without layers."""
    if not layers:
        return None
    energy = sum(row.source_energy for row in layers)
    squared = sum(row.squared_error for row in layers)
    return squared / energy if energy else 0.0


def output_cosine_similarity(layers: Sequence[LayerRow]) -> float | None:
    """Return the calibrated layers' output cosine, averaged by weights; None if there are none."""
    known = [row for row in layers if row.output_cosine_similarity is not None]
    return weighted_mean(known, lambda row: row.output_cosine_similarity or 0.0)


def cosine_similarity(layers: Sequence[LayerRow]) -> float | None:
    """The layers' cosines, averaged with their number of weights; None without weights."""
    return weighted_mean(layers, lambda row: row.cosine_similarity)


def weighted_mean(layers: Sequence[LayerRow], figure: Callable[[LayerRow], float]) -> float | None:
    """Average a figure over layers, weighted by their number of weights."""
    total = sum(row.num_weights for row in layers)
    if total == 0:
        return None
    return sum(row.num_weights * figure(row) for row in layers) / total


def nominal_compression_ratio(plans: Sequence[TensorPlan], bit_width: int) -> float:
    """Source bits / bit width, for the dtype that most of the weights to quantize have."""
    weights: dict[int, int] = {}
    for plan in plans:
        if plan.scheme is not None and plan.num_weights:
            bits = 8 * plan.tensor.nbytes // plan.num_weights
            weights[bits] = weights.get(bits, 0) + plan.num_weights
    return max(weights, key=lambda bits: weights[bits]) / bit_width if weights else 1.0


def sizes(
    plans: Sequence[TensorPlan],
    *,
    source_bytes: int,
    model_bytes: int,
    header_bytes: int,
    directory_bytes: int,
    carried_weights: int,
    output_correction_bytes: int = 0,
) -> Sizes:
    """Return bytes and bits per weight as they lie on disk.

    `carried_weights` are those in safetensors files that were carried over as they are.
    """
    quantized = [plan for plan in plans if plan.scheme is not None]
    quantized_bytes = sum(plan.stored_bytes for plan in quantized)
    num_weights = sum(plan.num_weights for plan in plans)
    num_quantized = sum(plan.num_weights for plan in quantized)
    return Sizes(
        source_bytes=source_bytes,
        model_bytes=model_bytes,
        quantized_bytes=quantized_bytes,
        copied_bytes=sum(plan.stored_bytes for plan in plans if plan.scheme is None),
        header_bytes=header_bytes,
        time_parameter_bytes=sum(plan.time_bytes for plan in plans) + output_correction_bytes,
        output_correction_bytes=output_correction_bytes,
        directory_bytes=directory_bytes,
        num_weights=num_weights,
        num_quantized_weights=num_quantized,
        bits_per_weight_quantized=bits_per_weight(quantized_bytes, num_quantized),
        bits_per_weight_component=bits_per_weight(model_bytes, num_weights),
        bits_per_weight_directory=bits_per_weight(directory_bytes, num_weights + carried_weights),
    )


def _time_parameters(result: LayerResult) -> LayerTimeParameters | None:
    parameters, jumps = result.time_parameters, result.jumps
    if parameters is None or jumps is None:
        return None
    return LayerTimeParameters(
        parameter_source=parameters.source,
        spectral_concentration=result.spectral_concentration,
        scale=parameters.scale.tolist(),
        zero_point=parameters.zero_point.tolist(),
        bin_minimum=_listed(parameters.bin_minimum),
        bin_maximum=_listed(parameters.bin_maximum),
        activation_bits=parameters.activation_bits,
        scale_jump=jumps.scale_jump.tolist(),
        zero_point_jump=jumps.zero_point_jump.tolist(),
        unclipped_scale_jump=jumps.unclipped_scale_jump.tolist(),
        boundary_scores=jumps.boundary_scores.tolist(),
        smoothness_score=jumps.smoothness_score,
        violation_count=jumps.violation_count,
    )


def _listed(values: NDArray[np.float64] | None) -> list[float] | None:
    return None if values is None else values.tolist()


def bits_per_weight(nbytes: int, num_weights: int) -> float:
    """Return stored bits over weights; 0 without weights."""
    return 8 * nbytes / num_weights if num_weights else 0.0
