"""Time-aware low-bit quantization of diffusion models, with a report you can check.

The verbs are those of the command line: `quantize`, `baseline`, `calibrate`, `inspect`, `verify`,
`export`. They are imported on first use, so that `import thermoq` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermoq.calibration.run import calibrate
    from thermoq.config import QuantizationConfig
    from thermoq.dry_run import plan_quantization
    from thermoq.errors import InputError, ThermoqError, UsageError
    from thermoq.exporting import export
    from thermoq.inspection import inspect
    from thermoq.pipeline import baseline, quantize
    from thermoq.report.model import Report
    from thermoq.report.plan import QuantizationPlan
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
    "export": "exporting",
    "inspect": "inspection",
    "plan_quantization": "dry_run",
    "quantize": "pipeline",
    "verify": "verification",
}

__all__ = [  # noqa: RUF022 (values, errors, verbs)
    "QuantizationConfig",
    "QuantizationPlan",
    "Report",
    "InputError",
    "ThermoqError",
    "UsageError",
    "baseline",
    "calibrate",
    "export",
    "inspect",
    "plan_quantization",
    "quantize",
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
