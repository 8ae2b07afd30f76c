"""Time-aware low-bit quantization of diffusion models, with a report you can check.

The verbs are those of the command line: `quantize`, `baseline`, `calibrate`, `evaluate`, `compare`,
`inspect`, `verify`, `export`; `load` runs what they have made. All are imported on first use, so
that `import thermoq` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermoq.calibration.run import calibrate
    from thermoq.calibration_inspection import inspect_calibration
    from thermoq.comparison.run import compare
    from thermoq.config import QuantizationConfig
    from thermoq.dry_run import plan_quantization
    from thermoq.errors import InputError, ThermoqError, UsageError
    from thermoq.evaluation.run import evaluate
    from thermoq.exporting import export
    from thermoq.inspection import inspect
    from thermoq.pipeline import baseline, quantize
    from thermoq.report.comparison_model import Comparison
    from thermoq.report.evaluation_model import Evaluation
    from thermoq.report.model import Report
    from thermoq.report.plan import QuantizationPlan
    from thermoq.runtime.loading import load
    from thermoq.runtime.timing import timestep
    from thermoq.verification import verify

_HOMES = {
    "QuantizationConfig": "config",
    "QuantizationPlan": "report.plan",
    "InputError": "errors",
    "ThermoqError": "errors",
    "UsageError": "errors",
    "Report": "report.model",
    "baseline": "pipeline",
    "calibrate": "calibration.run",
    "Comparison": "report.comparison_model",
    "compare": "comparison.run",
    "Evaluation": "report.evaluation_model",
    "evaluate": "evaluation.run",
    "export": "exporting",
    "inspect": "inspection",
    "inspect_calibration": "calibration_inspection",
    "load": "runtime.loading",
    "plan_quantization": "dry_run",
    "quantize": "pipeline",
    "timestep": "runtime.timing",
    "verify": "verification",
}

__all__ = [  # noqa: RUF022 (values, errors, verbs)
    "QuantizationConfig",
    "QuantizationPlan",
    "Report",
    "Evaluation",
    "Comparison",
    "InputError",
    "ThermoqError",
    "UsageError",
    "baseline",
    "calibrate",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "inspect_calibration",
    "load",
    "plan_quantization",
    "quantize",
    "timestep",
    "verify",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("thermoq")
    if name not in _HOMES:
        raise AttributeError(f"module 'thermoq' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"thermoq.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
