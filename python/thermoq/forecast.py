"""What a run will write and how far off it will be, known before the first byte is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thermoq.checkpoint import MappedFiles
from thermoq.checkpoint.writer import WrittenFiles
from thermoq.config import QuantizationConfig
from thermoq.error_curves import TensorKey, measure
from thermoq.plan import ComponentPlan, TensorPlan
from thermoq.progress import Progress
from thermoq.provenance import Stopwatch
from thermoq.size_budget import files_of, fit


@dataclass(frozen=True)
class PredictedError:
    """||W^ - W||^2 and ||W||^2 of one tensor, or of several together."""

    squared_error: float
    source_energy: float

    @property
    def relative_squared_error(self) -> float:
        """Their quotient; 0 for W = 0."""
        return self.squared_error / self.source_energy if self.source_energy else 0.0


@dataclass(frozen=True)
class Forecast:
    """Final plans, the files they come to, and the errors of the quantized tensors.

    `lower_bound` is the summed squared error that no choice of schemes within the budget could get
    below; 0 without a budget.
    """

    plans: tuple[ComponentPlan, ...]
    files: WrittenFiles
    errors: Mapping[TensorKey, PredictedError]
    lower_bound: float

    @property
    def total(self) -> PredictedError:
        """The error of all quantized tensors together."""
        return _sum(self.errors.values())

    def error_of(self, tensors: Sequence[tuple[str, TensorPlan]]) -> PredictedError | None:
        """Return the summed error of (component, plan) pairs; None if all of them are copied."""
        keys = [(component, plan.tensor.name) for component, plan in tensors if plan.scheme]
        if not keys:
            return None
        return _sum(self.errors[key] for key in keys)

    def tensors(self) -> list[tuple[str, TensorPlan]]:
        """Return all tensors, each with its component's name."""
        return [(part.component.name, plan) for part in self.plans for plan in part.tensors]


def prediction_note(config: QuantizationConfig) -> str | None:
    """Return what keeps predicted errors from being those of the run; None if nothing does."""
    if config.calibration is None or config.resolved_method == "minmax":
        return None
    if config.resolved_method == "hessian":
        return (
            "weight error by lsq; hessian trades weight error for output error, which is measured "
            "in the run"
        )
    return (
        "weight error with all columns alike; with a calibration lsq weighs them by their inputs, "
        "and the output error is measured in the run"
    )


def forecast(
    plans: Sequence[ComponentPlan],
    config: QuantizationConfig,
    files: MappedFiles,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Forecast:
    """Measure all tensors' error curves and, with a size budget, choose their schemes.

    Raises InputError for weights that cannot be quantized and UsageError for a budget that cannot
    be met.
    """
    measured = measure(plans, config, files, stopwatch, progress)
    final, lower_bound = tuple(plans), 0.0
    if config.has_budget:
        with stopwatch.measure("budget_s"):
            fitted = fit(plans, measured, config)
        final, lower_bound = fitted.plans, fitted.lower_bound
    errors: dict[TensorKey, PredictedError] = {}
    for part in final:
        for plan in part.tensors:
            if plan.scheme is not None:
                stored = measured[part.component.name, plan.same_as or plan.tensor.name]
                errors[part.component.name, plan.tensor.name] = PredictedError(
                    next(
                        one.squared_error
                        for one in stored.curve.candidates
                        if one.scheme == plan.scheme
                    ),
                    stored.source_energy,
                )
    return Forecast(final, files_of(final, config.max_shard_bytes), errors, lower_bound)


def _sum(errors: Iterable[PredictedError]) -> PredictedError:
    both = [(one.squared_error, one.source_energy) for one in errors]
    return PredictedError(sum(error for error, _ in both), sum(energy for _, energy in both))
