"""Evaluations of the demo's variants that are bundled: for where there is no torch to run them.

They are of certain codes. Codes of another build or other settings have no figures here; time
parameters may differ in their last digits, as those of Phase 3 do between BLAS kernels, but must
come to the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import xxhash
from pydantic import ValidationError

from thermoq.errors import InputError
from thermoq.report.evaluation_model import Evaluation, EvaluationPart
from thermoq.report.model import Report

_TOLERANCE: Final = 0.01


class ShippedVariant(EvaluationPart):
    """One variant: what it is recognised by, and its evaluation."""

    bit_width: int
    num_time_groups: int
    codes: str
    figures: dict[str, float]
    evaluation: Evaluation


class ShippedEvaluations(EvaluationPart):
    """The bundled file; `command` made it."""

    format_version: Literal[1] = 1
    command: str
    variants: dict[str, ShippedVariant]

    def of(self, name: str, codes: Mapping[str, str], report: Report) -> Evaluation | str:
        """Return the evaluation of a variant of these codes, or why there is none for it."""
        shipped = self.variants.get(name)
        if shipped is None:
            return "no figures are shipped for it"
        settings = shipped.bit_width, shipped.num_time_groups
        if settings != (report.bit_width, report.num_time_groups):
            return f"the shipped figures are of INT{settings[0]} and {settings[1]} time groups"
        if shipped.codes != digest_of(codes):
            return "the shipped figures are of other codes"
        found = figures_of(report)
        if found.keys() != shipped.figures.keys() or any(
            abs(found[key] - value) > _TOLERANCE * abs(value)
            for key, value in shipped.figures.items()
        ):
            return "the shipped figures are of other time parameters"
        return shipped.evaluation


def digest_of(codes: Mapping[str, str]) -> str:
    """Return a fingerprint of tensors' checksums, which are by name."""
    lines = "\n".join(f"{name} {checksum}" for name, checksum in sorted(codes.items()))
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(lines.encode())}"


def figures_of(report: Report) -> dict[str, float]:
    """Return what a run's time parameters come to."""
    figures = {"time_parameter_bytes": float(report.sizes.time_parameter_bytes)}
    if report.smoothness_score is not None:
        figures["smoothness_score"] = report.smoothness_score
    if report.optimization is not None:
        for choice, error in report.optimization.output_errors.items():
            figures[f"output_error_{choice}"] = error
    return figures


def read_shipped(path: Path) -> ShippedEvaluations:
    """Read the bundled file. Raises InputError if it is not what it should be."""
    try:
        return ShippedEvaluations.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path}: not shipped evaluations: {place}: {problem['msg']}") from None
