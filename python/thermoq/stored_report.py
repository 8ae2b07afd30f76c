"""The report that a quantized checkpoint carries in its manifests.

It lacks what differs between machines and runs, and what follows from the rest
(`reporting.report_for_manifest`); here the latter is computed again.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ValidationError

from thermoq.checkpoint.manifest import manifest_path
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.checkpoint.untrusted import bad_file
from thermoq.metrics import smoothness
from thermoq.report.model import Report
from thermoq.time_parameters import TimeParameters

_NOT_NOTED: dict[str, Any] = {
    "cpu": "not noted in the checkpoint",
    "simd_level": "not noted",
    "openmp": False,
    "threads": 0,
    "blas": "not noted",
    "python_version": "not noted",
    "platform": "not noted",
    "command": "not noted in the checkpoint",
    "started_at": "not noted",
    "times_s": {},
}


def stored_report(directory: Path | str) -> Report:
    """Return the report in the manifest of the quantized checkpoint in `directory`.

    Where and how the run was made is "not noted". Raises InputError for a directory that is not
    quantized, and for a report that this thermoq cannot read.
    """
    root = Path(directory)
    _, parts = open_quantized(root)
    first = parts[0]
    data: dict[str, Any] = dict(first.manifest.report)
    noted = data.get("provenance")
    data["provenance"] = {
        **_NOT_NOTED,
        "input_path": str(data.get("model_name", "")),
        "output_path": str(directory),
        **(noted if isinstance(noted, dict) else {}),
    }
    if isinstance(data.get("assessment"), dict):
        data["assessment"] = {
            "next_command": f"thermoq verify {directory}",
            **data["assessment"],
        }
    _add_jumps(data, first)
    try:
        return Report.model_validate(_with_nulls(data, Report))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        path = manifest_path(first.component.directory)
        raise bad_file(path, f"report: {place}: {problem['msg']}") from None


def _add_jumps(data: dict[str, Any], part: QuantizedComponent) -> None:
    """Add each layer's jumps, which follow from its parameters."""
    layers = data.get("layers")
    if not isinstance(layers, list):
        return
    timed = [row for row in layers if isinstance(row, dict) and row.get("time_parameters")]
    thermodynamics = data.get("thermodynamics")
    if not timed or not isinstance(thermodynamics, dict):
        for row in timed:
            row["time_parameters"] = None
        return
    rows = [row["time_parameters"] for row in timed]
    found = smoothness(
        [_parameters(row, int(data["activation_bits"])) for row in rows],
        [int(row["num_weights"]) for row in timed],
        part.schedule(),
        float(thermodynamics["smoothness_threshold"]),
        int(data["sampling_steps"]),
    )
    for row, jumps in zip(timed, found.layers, strict=True):
        row["time_parameters"] = {
            "scale_jump": jumps.scale_jump.tolist(),
            "zero_point_jump": jumps.zero_point_jump.tolist(),
            "unclipped_scale_jump": jumps.unclipped_scale_jump.tolist(),
            "boundary_scores": jumps.boundary_scores.tolist(),
            **row["time_parameters"],
        }


def _parameters(row: Mapping[str, Any], activation_bits: int) -> TimeParameters:
    return TimeParameters(
        np.array(row["scale"], np.float64),
        np.array(row["zero_point"], np.float64),
        row["parameter_source"],
        activation_bits=int(row.get("activation_bits", activation_bits)),
    )


def _with_nulls(value: Any, annotation: Any) -> Any:
    """Return JSON with null for every required key that may be null and is not there."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next((a for a in get_args(annotation) if a is not type(None)), annotation)
    if get_origin(annotation) is list and isinstance(value, list):
        return [_with_nulls(one, get_args(annotation)[0]) for one in value]
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return value
    if not isinstance(value, dict):
        return value
    result = dict(value)
    for name, field in annotation.model_fields.items():
        if name in result:
            result[name] = _with_nulls(result[name], field.annotation)
        elif field.is_required() and type(None) in get_args(field.annotation):
            result[name] = None
    return result
