"""The main job on the bundled model: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from thermoq.errors import InputError
from thermoq.pipeline import baseline
from thermoq.progress import Progress
from thermoq.report.model import Report

MODEL_FOLDER = "demo_model"
_CHECKPOINT, _JSON, _HTML = "quantized", "report.json", "report.html"


@dataclass(frozen=True)
class Demonstration:
    """What a demo left behind."""

    report: Report
    checkpoint: Path
    json_report: Path
    html_report: Path


def demonstrate(
    directory: Path, *, progress: Progress | None = None, **settings: object
) -> Demonstration:
    """Quantize the bundled model below `directory`, which is made; an earlier demo is replaced.

    Raises InputError if the directory holds anything else.
    """
    checkpoint = directory / _CHECKPOINT
    json_report, html_report = directory / _JSON, directory / _HTML
    if directory.is_dir():
        ours = {_CHECKPOINT, _JSON, _HTML, json_report.with_suffix(".log").name}
        others = sorted({path.name for path in directory.iterdir()} - ours)
        if others:
            raise InputError(f"{directory}: expected an earlier demo or nothing, got {others[0]}")
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    with resources.as_file(resources.files("thermoq") / MODEL_FOLDER) as model:
        report = baseline(
            model,
            checkpoint,
            report=json_report,
            html_report=html_report,
            overwrite=True,
            progress=progress,
            **settings,
        )
    return Demonstration(report, checkpoint, json_report, html_report)
