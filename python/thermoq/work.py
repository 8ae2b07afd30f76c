"""The per-tensor work on one component: read, fingerprint, quantize, write, give the pages back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thermoq.activations import Activations
from thermoq.calibration.file import layer_name
from thermoq.calibration.statistics import CalibratedInput
from thermoq.checkpoint import MappedFiles
from thermoq.checkpoint.manifest import CopiedTensor, QuantizedTensor, TensorEntry
from thermoq.checkpoint.untrusted import naming
from thermoq.checkpoint.writer import CheckpointWriter, WrittenFiles
from thermoq.config import QuantizationConfig
from thermoq.fingerprint import Fingerprint
from thermoq.methods import quantize_layer
from thermoq.plan import ComponentPlan, TensorPlan
from thermoq.prior import POWER_ITERATIONS
from thermoq.progress import Progress
from thermoq.provenance import Stopwatch
from thermoq.summary import LayerResult
from thermoq.time_work import StoredTimeParameters, TimeWorker
from thermoq.weights import Matrix, QuantizedMatrix, as_matrix, spectral_concentration


@dataclass(frozen=True)
class ComponentResult:
    """What the work on a component left behind; `plan` with what was stored in the end."""

    plan: ComponentPlan
    layers: tuple[LayerResult, ...]
    entries: dict[str, TensorEntry]
    written: WrittenFiles


class Worker:
    """Runs the tensors of one component through the core, in the order of their bytes."""

    def __init__(
        self,
        config: QuantizationConfig,
        files: MappedFiles,
        fingerprint: Fingerprint,
        stopwatch: Stopwatch,
        progress: Progress,
        activations: Activations | None = None,
        time_worker: TimeWorker | None = None,
    ) -> None:
        self._config = config
        self._method = config.resolved_method
        self._files = files
        self._fingerprint = fingerprint
        self._stopwatch = stopwatch
        self._progress = progress
        self._activations = activations
        self._time_worker = time_worker

    def start(self, plans: Sequence[ComponentPlan]) -> None:
        """Tell the progress how much there is to do."""
        tensors = [plan.tensor for component in plans for plan in component.tensors]
        self._progress.start("quantize", len(tensors), sum(t.nbytes for t in tensors))

    def run(self, plan: ComponentPlan, directory: Path) -> ComponentResult:
        """Write the component's safetensors files into `directory`.

        Raises InputError, naming file and tensor, for weights that cannot be quantized.
        """
        layers: dict[str, LayerResult] = {}
        entries: dict[str, TensorEntry] = {}
        final: list[TensorPlan] = []
        component = plan.component
        codes = _Codes(plan, keeps=self._time_worker is not None and self._time_worker.optimizes)
        with CheckpointWriter(
            directory,
            component.stem,
            plan.stored_parts,
            self._config.max_shard_bytes,
            late_shard=plan.late_shard,
        ) as writer:
            for tensor_plan in plan.tensors:
                tensor = tensor_plan.tensor
                with self._stopwatch.measure("fingerprint_s"):
                    self._fingerprint.add(component.name, tensor, self._files.bytes(tensor))
                sha256 = None
                if tensor_plan.same_as is not None:
                    if tensor_plan.scheme is not None:
                        original = layers[tensor_plan.same_as]
                        layers[tensor.name] = self._repeated(original, tensor_plan)
                elif tensor_plan.scheme is None:
                    with self._stopwatch.measure("write_s"):
                        sha256 = writer.write(tensor.name, [self._files.bytes(tensor)])
                else:
                    layers[tensor.name], sha256, quantized = self._quantize(
                        component.name, tensor_plan, writer
                    )
                    codes.keep(tensor_plan, quantized)
                stored = self._time_parameters(component.name, tensor_plan, codes, writer)
                final.append(stored.plan)
                entries[tensor.name] = _entry(stored, sha256, self._config)
                if tensor.name in layers:  # what it repeats may have parameters of its own
                    layers[tensor.name] = replace(
                        layers[tensor.name],
                        plan=stored.plan,
                        time_parameters=stored.activation,
                        optimized=stored.optimized,
                    )
                self._files.release(tensor)
                self._progress.advance(tensor.name, tensor.nbytes)
            with self._stopwatch.measure("write_s"):
                written = writer.finish()
        done = replace(plan, tensors=tuple(final))
        return ComponentResult(done, tuple(layers.values()), entries, written)

    def _quantize(
        self, component: str, plan: TensorPlan, writer: CheckpointWriter
    ) -> tuple[LayerResult, str, QuantizedMatrix]:
        assert plan.scheme is not None
        matrix = self._matrix(plan)
        with self._stopwatch.measure("quantize_s"), naming(plan.tensor.path, plan.tensor.name):
            layer = quantize_layer(
                matrix,
                plan.scheme,
                self._method,
                calibrated=self._calibrated(component, plan),
                rotation=plan.rotation(self._config),
                threads=self._config.threads,
            )
        quantized = layer.matrix
        result = LayerResult(
            component,
            plan,
            layer.error,
            layer.method,
            layer.output,
            layer.matrix.rotation is not None,
        )
        result = self._with_concentration(result, matrix)
        with self._stopwatch.measure("write_s"):
            sha256 = writer.write(plan.tensor.name, list(quantized.parts.values()))
        return result, sha256, quantized

    def _repeated(self, original: LayerResult, plan: TensorPlan) -> LayerResult:
        """Return the result of a tensor with the bytes of another, perhaps of another class."""
        result = replace(original, plan=plan)
        if result.in_headline == original.in_headline:
            return result
        return self._with_concentration(result, self._matrix(plan))

    def _with_concentration(self, result: LayerResult, matrix: Matrix) -> LayerResult:
        """Add what the prior needs to know, if the layer is to have its time parameters."""
        wanted = self._activations is None and self._config.thermodynamic.validation.enabled
        if not result.in_headline or not wanted:
            return replace(result, spectral_concentration=None)
        with self._stopwatch.measure("parameter_source_s"):
            kappa = spectral_concentration(
                matrix,
                result.error.source_energy,
                iterations=POWER_ITERATIONS,
                seed=self._config.seed,
                threads=self._config.threads,
            )
        return replace(result, spectral_concentration=kappa)

    def _time_parameters(
        self, component: str, plan: TensorPlan, codes: _Codes, writer: CheckpointWriter
    ) -> StoredTimeParameters:
        """Write what of the layer varies along the trajectory, if a calibration gives it any."""
        if self._time_worker is None:
            return StoredTimeParameters(plan)
        return self._time_worker.write(
            component, plan, lambda: (self._matrix(plan), codes.of(plan)), writer
        )

    def _calibrated(self, component: str, plan: TensorPlan) -> CalibratedInput | None:
        """Return what a calibration knows of the layer's inputs."""
        if self._activations is None:
            return None
        return self._activations.calibration.input_of(layer_name(component, plan.tensor.name))

    def _matrix(self, plan: TensorPlan) -> Matrix:
        tensor = plan.tensor
        data = self._files.bytes(tensor)
        return as_matrix(data, tensor.dtype, tensor.shape, plan.layer.row_dimension)


class _Codes:
    """The codes of the tensor at hand, and of those that later ones repeat.

    The latter are needed again where Phase 3 looks at what a repeated tensor decodes to.
    """

    def __init__(self, plan: ComponentPlan, *, keeps: bool) -> None:
        self._wanted = {
            tensor.same_as for tensor in plan.tensors if keeps and tensor.activation_parts
        }
        self._kept: dict[str, QuantizedMatrix] = {}
        self._last: tuple[str, QuantizedMatrix] | None = None

    def keep(self, plan: TensorPlan, quantized: QuantizedMatrix) -> None:
        name = plan.tensor.name
        self._last = name, quantized
        if name in self._wanted:
            self._kept[name] = quantized

    def of(self, plan: TensorPlan) -> QuantizedMatrix:
        name = plan.same_as or plan.tensor.name
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        return self._kept[name]


def _entry(
    stored: StoredTimeParameters, sha256: str | None, config: QuantizationConfig
) -> TensorEntry:
    plan, tensor = stored.plan, stored.plan.tensor
    if plan.scheme is None:
        return CopiedTensor(
            shape=tensor.shape,
            source_dtype=tensor.dtype,
            same_as=plan.same_as,
            sha256=sha256,
            reason=plan.layer.reason,
        )
    assert plan.layer.layer_class is not None
    rotation, activation = plan.rotation(config), stored.activation
    bits = None if activation is None else activation.activation_bits
    return QuantizedTensor(
        encoding=plan.scheme.encoding,
        shape=tensor.shape,
        source_dtype=tensor.dtype,
        same_as=plan.same_as,
        sha256=sha256,
        layer_class=plan.layer.layer_class,
        bit_width=plan.scheme.bit_width,
        group_size=plan.scheme.group_size,
        super_block=plan.scheme.super_block or None,
        scale_bits=plan.scheme.scale_bits or None,
        minimum_bits=plan.scheme.minimum_bits or None,
        window_bits=plan.scheme.window_bits or None,
        block_rows=plan.scheme.block_rows or None,
        table_seed=plan.scheme.table_seed or None,
        row_dimension=plan.layer.row_dimension,
        activation_sha256=stored.activation_sha256,
        activation_bits=None if bits == config.activation_bits else bits,
        time_groups_of_rows=plan.num_row_sets or None,
        time_sha256=stored.time_sha256,
        rotation=None if rotation is None else "hadamard",
        rotation_seed=None if rotation is None else rotation.seed,
    )
