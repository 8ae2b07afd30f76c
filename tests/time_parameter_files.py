"""Time parameters written into quantized directories by hand, as docs/format.md has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.float16]


def add_time_parameters(
    folder: Path,
    *,
    groups_of_rows: Callable[[str], int] = lambda name: 0,
    smoothing: tuple[str, Sequence[float]] | None = None,
    correction: tuple[str, Sequence[float], Halves, Halves | None] | None = None,
    timestep_table: Sequence[tuple[float, float]] | None = None,
    seed: int = 0,
) -> Path:
    """Add to the component in `folder`, which has one file of weights.

    `groups_of_rows` tells how many sets of row gains and biases a quantized tensor gets; they are
    drawn at random. `correction` is kind, bin starts, gains and biases.
    """
    manifest = json.loads((folder / "thermoq.json").read_text())
    random = np.random.default_rng(seed)
    added: dict[str, Halves] = {}
    for name, entry in manifest["tensors"].items():
        sets = 0 if entry["encoding"] == "copied" else groups_of_rows(name)
        if sets:
            shape = (sets, entry["shape"][entry["row_dimension"]])
            gain = random.uniform(0.6, 1.9, shape).astype(np.float16)
            bias = random.standard_normal(shape).astype(np.float16)
            added |= {f"{name}.time_gain": gain, f"{name}.time_bias": bias}
            entry |= {"time_groups_of_rows": sets, "time_sha256": _sha256(gain, bias)}
    if correction is not None:
        kind, starts, gain, given = correction
        arrays = [gain] if given is None else [gain, given]
        names = ("thermoq.output.time_gain", "thermoq.output.time_bias")
        added |= dict(zip(names, arrays, strict=False))
        manifest["output_correction"] = {
            "kind": kind,
            "bin_starts": list(starts),
            "sha256": _sha256(*arrays),
        }
    if smoothing is not None:
        manifest["smoothing"] = {"interpolation": smoothing[0], "windows": list(smoothing[1])}
    if timestep_table is not None:
        manifest["timestep_table"] = [list(pair) for pair in timestep_table]
    _write(folder, manifest, added)
    return folder


def _write(folder: Path, manifest: dict[str, Any], added: dict[str, Halves]) -> None:
    entries = manifest["tensors"]
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["tensors_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "thermoq.json").write_text(json.dumps(manifest))
    (path,) = models.safetensors_files(folder)
    models.replace_tensors(
        path,
        lambda tensors: {
            **tensors,
            **{name: ("F16", one.shape, one.tobytes()) for name, one in added.items()},
        },
    )


def _sha256(*arrays: Halves) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
