"""Phase 3 on inputs that the already quantized layers give: `--sequential` (DESIGN section 7).

It needs both models to run, and so the torch extra. The layers have the parameters by then that
they would have without it; those that it comes to get others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thermoq.activations import Activations
from thermoq.calibration.file import layer_name
from thermoq.checkpoint import Checkpoint, MappedFiles
from thermoq.checkpoint.late_shard import files_of, replace_time_parameters
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.config import QuantizationConfig
from thermoq.optimization import OptimizedLayer
from thermoq.optimization.inputs import Inputs
from thermoq.optimization.sequential_run import SequentialRun
from thermoq.output_step import AsSteps
from thermoq.plan import TensorPlan
from thermoq.progress import Progress
from thermoq.time_work import TimeWorker
from thermoq.weights import Matrix, QuantizedMatrix, as_matrix
from thermoq.work import ComponentResult

if TYPE_CHECKING:
    from thermoq.runtime.parameters import LayerParameters


def fit_sequentially(
    checkpoint: Checkpoint,
    activations: Activations,
    config: QuantizationConfig,
    worker: TimeWorker,
    quantized: Path,
    results: Sequence[ComponentResult],
    progress: Progress,
) -> tuple[list[ComponentResult], SequentialRun]:
    """Fit the layers of the components quantized into the directory `quantized`, one by one.

    Returns the components as they are then. The directory has manifests without a report, which
    are written anew. Raises InputError for a model that cannot be run.
    """
    from thermoq.evaluation.sequential import fit_layers

    _, parts = open_quantized(quantized)
    with MappedFiles() as files:
        layers = _Layers(worker, parts, results, files)
        run = fit_layers(
            checkpoint.directory,
            quantized,
            activations.calibration.description,
            activations.time_groups,
            list(layers.plans),
            layers.fit,
            threads=config.threads,
            progress=AsSteps(progress),
        )
    return _stored(quantized, parts, results, layers.found), run


class _Layers:
    """The layers of a run that have calibrated inputs, and what was found for them."""

    def __init__(
        self,
        worker: TimeWorker,
        parts: Sequence[QuantizedComponent],
        results: Sequence[ComponentResult],
        files: MappedFiles,
    ) -> None:
        self._worker = worker
        self._parts = {part.component.name: part for part in parts}
        self._files = files
        self.found: dict[str, OptimizedLayer] = {}
        self.plans: dict[str, tuple[str, TensorPlan]] = {
            layer_name(result.plan.component.name, layer.plan.tensor.name): (
                result.plan.component.name,
                layer.plan,
            )
            for result in results
            for layer in result.layers
            if layer.optimized is not None
        }

    def fit(self, name: str, inputs: Sequence[Inputs]) -> LayerParameters | None:
        """Run Phase 3 on a layer with these inputs."""
        from thermoq.runtime.parameters import LayerParameters

        component, plan = self.plans[name]
        weights = partial(self._weights, component, plan)
        found = self._worker.optimized(component, plan, weights, inputs)
        self._files.release(plan.tensor)
        if found is None:
            return None
        self.found[name] = found
        return LayerParameters(found.activation, found.rows)

    def _weights(self, component: str, plan: TensorPlan) -> tuple[Matrix, QuantizedMatrix]:
        tensor = plan.tensor
        data = self._files.bytes(tensor)
        matrix = as_matrix(data, tensor.dtype, tensor.shape, plan.layer.row_dimension)
        owner = plan.same_as or tensor.name
        return matrix, self._parts[component].matrix(owner, self._files)


def _stored(
    quantized: Path,
    parts: Sequence[QuantizedComponent],
    results: Sequence[ComponentResult],
    found: Mapping[str, OptimizedLayer],
) -> list[ComponentResult]:
    """Write what was found, and return the results with it."""
    for part in parts:
        own = {name: found.get(layer_name(part.component.name, name)) for name in part.names()}
        changed = {name: one for name, one in own.items() if one is not None}
        if changed:
            pairs = {name: (one.activation, one.rows) for name, one in changed.items()}
            replace_time_parameters(part, pairs)
    now = {part.component.name: part for part in open_quantized(quantized)[1]}
    return [_updated(result, now[result.plan.component.name], found) for result in results]


def _updated(
    result: ComponentResult, part: QuantizedComponent, found: Mapping[str, OptimizedLayer]
) -> ComponentResult:
    component = result.plan.component.name

    def plan_of(plan: TensorPlan) -> TensorPlan:
        one = found.get(layer_name(component, plan.tensor.name))
        if one is None:
            return plan
        return replace(plan, num_row_sets=0 if one.rows is None else one.rows.num_groups)

    layers = []
    for layer in result.layers:
        one = found.get(layer_name(component, layer.plan.tensor.name))
        if one is not None:
            layer = replace(
                layer,
                plan=plan_of(layer.plan),
                time_parameters=one.activation,
                optimized=one,
            )
        layers.append(layer)
    plan = replace(result.plan, tensors=tuple(plan_of(one) for one in result.plan.tensors))
    entries = dict(part.manifest.tensors)
    return ComponentResult(plan, tuple(layers), entries, files_of(part))
