"""The report as JSON: written with every digit, read back strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from thermoq.errors import InputError
from thermoq.report.atomic import atomic_text
from thermoq.report.model import REPORT_FORMAT_VERSION, Report

THERMODYNAMIC_KEYS = frozenset(
    {
        "smoothness_score",
        "violation_count",
        "violations",
        "boundary_scores",
        "min_boundary_score",
        "max_boundary_score",
        "mean_boundary_score",
        "std_boundary_score",
        "common_violation_patterns",
        "thermodynamics",
        "patterns",
        "assessment",
    }
)
"""What `thermodynamic.validation.enabled: false` leaves out, all of it or nothing."""


def to_json(report: Report) -> str:
    """`report` as JSON text that ends in a newline: null for None, floats at full precision.

    Without validation the `THERMODYNAMIC_KEYS` are absent. Raises ValueError for NaN or infinity,
    which JSON cannot carry: a report never holds one.
    """
    left_out = THERMODYNAMIC_KEYS if report.thermodynamics is None else frozenset[str]()
    data = report.model_dump(mode="python", exclude=set(left_out))
    for place, value in _not_finite(data):
        raise ValueError(f"report: expected a finite number at {place}, got {value}")
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(report: Report, path: Path) -> None:
    """Write `to_json(report)` to `path`, all of it or none. Raises InputError if it cannot."""
    atomic_text(path, to_json(report))


def read_json(path: Path) -> Report:
    """The report that `write_json` wrote to `path`.

    Raises InputError if there is no such file, if it is not JSON, or if it is not a report of the
    format version that this thermoq reads.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected a JSON report in UTF-8, got other bytes") from None
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON report, got {error}") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version != REPORT_FORMAT_VERSION:
        raise InputError(
            f"{path}: expected a thermoq report with format_version {REPORT_FORMAT_VERSION}, "
            f"got {'none' if version is None else repr(version)}"
        )
    for place, value in _not_finite(data):
        raise InputError(f"{path}: expected a finite number at {place}, got {value}")
    return _validated(data, path)


def _validated(data: dict[str, Any], path: Path) -> Report:
    present = THERMODYNAMIC_KEYS & data.keys()
    if present and present != THERMODYNAMIC_KEYS:
        missing = min(THERMODYNAMIC_KEYS - present)
        raise InputError(
            f"{path}: expected all thermodynamic keys or none, got {min(present)} without {missing}"
        )
    try:
        return Report.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: not a thermoq report: {place}: {first['msg']}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def _not_finite(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Every NaN and infinity in nested dicts and lists, with its place as `layers.3.max_error`."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield place, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _not_finite(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _not_finite(part, f"{place}.{index}")
