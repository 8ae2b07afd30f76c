"""The main job on the bundled model: nothing is downloaded."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from thermoq.checkpoint.carried import MANIFEST_NAME
from thermoq.errors import InputError
from thermoq.pipeline import baseline
from thermoq.progress import Progress
from thermoq.report.model import Report
from thermoq.staging import is_leftover, refused

MODEL_FOLDER = "models/digits-dit"
CALIBRATION_FILE = "models/digits-dit-calibration.safetensors"
_CHECKPOINT, _JSON, _LOG, _HTML = "quantized", "report.json", "report.log", "report.html"


@dataclass(frozen=True)
class Demonstration:
    """What a demo left behind."""

    report: Report
    checkpoint: Path
    json_report: Path
    html_report: Path


def files_of(directory: Path) -> tuple[Path, ...]:
    """Return what a demo writes below `directory`."""
    return tuple(directory / name for name in (_CHECKPOINT, _JSON, _LOG, _HTML))


def demonstrate(
    directory: Path, *, progress: Progress | None = None, **settings: Any
) -> Demonstration:
    """Quantize the bundled model below `directory`, which is made; an earlier demo is replaced.

    Its time parameters come from the calibration that is bundled with it.

    Raises InputError if the directory holds anything else.
    """
    checkpoint, json_report, _, html_report = files_of(directory)
    _check(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise refused(directory, error) from None
    try:
        package = resources.files("thermoq")
        with (
            resources.as_file(package / MODEL_FOLDER) as model,
            resources.as_file(package / CALIBRATION_FILE) as calibration,
        ):
            report = baseline(
                model,
                checkpoint,
                report=json_report,
                html_report=html_report,
                overwrite=True,
                progress=progress,
                **{"calibration": str(calibration), **settings},
            )
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise
    return Demonstration(report, checkpoint, json_report, html_report)


def _check(directory: Path) -> None:
    """Refuse a directory with other things than an earlier demo, which a user may have added to."""
    if directory.is_dir() and not any((directory / _CHECKPOINT).rglob(MANIFEST_NAME)):
        others = sorted(path.name for path in directory.iterdir() if not is_leftover(path))
        if others:
            raise InputError(f"{directory}: expected an earlier demo or nothing, got {others[0]}")
