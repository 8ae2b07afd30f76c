"""`inspect` of a calibration file: what it is of, and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thermoq.calibration.file import FORMAT, CalibratedComponent, read_calibration

_BEGINNING: Final = 4096  # bytes; the writer puts the format first


@dataclass(frozen=True)
class CalibrationInspection:
    """A calibration file in short.

    `components` are the models that were run, by folder name, each with its `fingerprint` and
    `architecture`. Layers that share an input are counted each, the input once. `num_rows` are
    kept in all, at most `rows_per_bin` of an input in each bin. `fingerprint` is that of the
    calibration, which reports name. `details` is what the sampler says besides.
    """

    path: Path
    nbytes: int
    thermoq_version: str
    fingerprint: str
    components: Mapping[str, Mapping[str, str]]
    num_layers: int
    num_inputs: int
    not_reached: tuple[str, ...]
    schedule_kind: str
    num_timesteps: int
    num_bins: int
    sampler: str
    steps: int
    num_samples: int
    guidance: float | None
    seed: int
    data_share: float
    rows_per_bin: int
    num_rows: int
    details: Mapping[str, object]


def is_calibration(path: Path | str) -> bool:
    """Tell whether a file begins as a calibration does, complete or not."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return FORMAT.encode() in file.read(_BEGINNING)
    except OSError:
        return False


def inspect_calibration(path: Path | str) -> CalibrationInspection:
    """Read and check the calibration file at `path`.

    Raises InputError for a file that is truncated, of another format or version, or inconsistent.
    """
    path = Path(path)
    calibration = read_calibration(path)
    of = calibration.description
    return CalibrationInspection(
        path=path,
        nbytes=path.stat().st_size,
        thermoq_version=of.thermoq_version,
        fingerprint=calibration.fingerprint,
        components={name: _component(part) for name, part in of.components.items()},
        num_layers=len(of.layers),
        num_inputs=len(calibration.inputs),
        not_reached=of.not_reached,
        schedule_kind=of.schedule_kind,
        num_timesteps=of.num_timesteps,
        num_bins=calibration.num_bins,
        sampler=of.sampler,
        steps=of.steps,
        num_samples=of.num_samples,
        guidance=of.guidance,
        seed=of.seed,
        data_share=of.data_share,
        rows_per_bin=of.rows_per_bin,
        num_rows=sum(int(one.num_rows.sum()) for one in calibration.inputs.values()),
        details=dict(of.details),
    )


def _component(part: CalibratedComponent) -> dict[str, str]:
    return {"fingerprint": part.fingerprint, "architecture": part.architecture}
