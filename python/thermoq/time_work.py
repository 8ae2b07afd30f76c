"""What varies along the trajectory, layer by layer: found, written, and noted for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from thermoq.activations import Activations
from thermoq.calibration.statistics import CalibratedInput
from thermoq.checkpoint.time_parts import activation_arrays, row_arrays
from thermoq.checkpoint.writer import CheckpointWriter
from thermoq.config import QuantizationConfig
from thermoq.optimization import (
    InputSample,
    OptimizationChoices,
    OptimizedLayer,
    input_sample,
    layer_sample,
    optimize_layer,
)
from thermoq.optimization.inputs import Inputs
from thermoq.phases import searches_ranges
from thermoq.plan import TensorPlan
from thermoq.provenance import Stopwatch
from thermoq.rotation import Rotation
from thermoq.terms import GainEstimator
from thermoq.time_parameters import RowParameters, TimeParameters
from thermoq.weights import Matrix, QuantizedMatrix, dequantize, to_floats


@dataclass(frozen=True)
class StoredTimeParameters:
    """The time parameters of a layer and the checksums of what was written; or nothing.

    `plan` is the layer's, with what it stores in the end.
    """

    plan: TensorPlan
    activation: TimeParameters | None = None
    activation_sha256: str | None = None
    rows: RowParameters | None = None
    time_sha256: str | None = None
    optimized: OptimizedLayer | None = None


_SHARED_BYTES: Final = 1 << 24

Weights = Callable[[], tuple[Matrix, QuantizedMatrix]]
"""A layer's weights as they were and as they are stored."""


class TimeWorker:
    """Writes the time parameters of a run's layers, and fits them first where that is wanted."""

    def __init__(
        self,
        config: QuantizationConfig,
        activations: Activations,
        stopwatch: Stopwatch,
        estimator: GainEstimator | None,
    ) -> None:
        """Make one; `estimator` None: parameters are written as the calibration gives them."""
        self._config = config
        self._activations = activations
        self._stopwatch = stopwatch
        self._estimator = estimator
        self._inputs = _SharedInputs()

    @property
    def optimizes(self) -> bool:
        """Whether there is a Phase 3."""
        return self._estimator is not None

    def write(
        self, component: str, plan: TensorPlan, weights: Weights, writer: CheckpointWriter
    ) -> StoredTimeParameters:
        """Write what the layer of `plan` has; nothing for one that the calibration has not seen."""
        if not plan.activation_parts:
            return StoredTimeParameters(plan)
        measured = self._activations.parameters[component, plan.tensor.name]
        if self._estimator is None:
            with self._stopwatch.measure("write_s"):
                sha256 = writer.write(plan.activation_parts[0].name, activation_arrays(measured))
            return StoredTimeParameters(plan, measured, sha256)
        with self._stopwatch.measure("optimize_s"):
            found = self.optimized(component, plan, weights)
        activation, rows = (measured, None) if found is None else (found.activation, found.rows)
        plan = replace(plan, num_row_sets=0 if rows is None else rows.num_groups)
        sha256 = writer.write_late(plan.activation_parts, activation_arrays(activation))
        time_sha256 = None
        if rows is not None:
            time_sha256 = writer.write_late(plan.row_parts, row_arrays(rows))
        return StoredTimeParameters(plan, activation, sha256, rows, time_sha256, found)

    def optimized(
        self,
        component: str,
        plan: TensorPlan,
        weights: Weights,
        beside: Sequence[Inputs] | None = None,
    ) -> OptimizedLayer | None:
        """Run Phase 3 on a layer; None if no rows of its input were kept.

        `beside`: its inputs in both models, by time group, instead of those of the calibration.
        """
        assert self._estimator is not None
        measured = self._activations.parameters[component, plan.tensor.name]
        source = self._activations.input_of(component, plan)
        if source is None or not source.num_rows.any():
            return None
        matrix, quantized = weights()
        threads, rotation = self._config.threads, quantized.rotation
        decoded = dequantize(replace(quantized, rotation=None), "F32", threads=threads)
        original = to_floats(matrix, threads)
        if rotation is not None:  # the codes are those of the rotated matrix, and so are the rows
            original = rotation.forward(original, threads)
        groups = self._activations.groups_of_bins
        sample = layer_sample(
            source,
            groups,
            original,
            decoded.view(np.float32).reshape(original.shape),
            measured,
            measured.activation_bits,
            rotate=None if rotation is None else rotation.forward,
            beside=beside,
            shared=self._inputs.of(source, groups, rotation) if beside is None else None,
        )
        settings = self._config.thermodynamic.optimization
        choices = OptimizationChoices(
            coupling=settings.coupling,
            estimator=self._estimator,
            fits_rows=self._activations.fits_rows(component, plan),
            seed=self._config.seed,
            clip_search=searches_ranges(self._config, measured.activation_bits),
            choice=settings.row_choice,
        )
        return optimize_layer(sample, choices)


class _SharedInputs:
    """The samples of the inputs met last, for the layers that share them."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, Rotation | None], InputSample] = {}

    def of(
        self, source: CalibratedInput, groups: Sequence[slice], rotation: Rotation | None
    ) -> InputSample:
        """Return the sample of an input, rotated if its layer is."""
        key = id(source), rotation  # the calibration keeps all of them
        found = self._found.pop(key, None)
        if found is None:
            found = input_sample(source, groups, None if rotation is None else rotation.forward)
            while self._found and found.nbytes + self._nbytes() > _SHARED_BYTES:
                del self._found[next(iter(self._found))]
        self._found[key] = found  # the last
        return found

    def _nbytes(self) -> int:
        return sum(one.nbytes for one in self._found.values())
