"""Where an evaluation goes: into the quantized checkpoint's report, a JSON report, a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermoq.advice import COMPARE, MEASURE
from thermoq.checkpoint.manifest import manifest_path, manifest_text, read_content
from thermoq.checkpoint.quantized import open_quantized
from thermoq.checkpoint.untrusted import bad_file
from thermoq.next_commands import inspect_command, is_evaluation
from thermoq.pipeline import ReportPaths
from thermoq.report.atomic import check_writable, stage_text
from thermoq.report.evaluation_model import Evaluation
from thermoq.report.model import Report
from thermoq.staging import published_together
from thermoq.stored_report import stored_report


@dataclass(frozen=True)
class Destinations:
    """The quantized checkpoint, and the paths of a JSON report and a page; None for none."""

    quantized: Path
    report: Path | None = None
    html_report: Path | None = None

    def check(self, *others: Path) -> None:
        """Refuse what cannot be written. Raises UsageError and InputError as for `quantize`."""
        self._paths.check(self.quantized, *others)
        _, parts = open_quantized(self.quantized)
        for part in parts:
            check_writable(manifest_path(part.component.directory))
        if self.report is not None and self.report.exists():
            self._earlier(self.report)

    def write(self, evaluation: Evaluation) -> None:
        """Put the evaluation everywhere, or nowhere. Raises InputError where the disk refuses.

        The manifests' checksums are of tensors and stay; keys that a later thermoq wrote stay, too.
        """
        _, parts = open_quantized(self.quantized)
        found = evaluation.model_dump(mode="json", exclude_none=True)
        with published_together() as staging:
            for part in parts:
                content = read_content(part.component.directory)
                content["report"] = _evaluated(content["report"], found)
                text = manifest_text(content)
                stage_text(staging, manifest_path(part.component.directory), text)
            if self.report is not None or self.html_report is not None:
                self._paths.stage(self._renewed(evaluation), staging)

    @property
    def _paths(self) -> ReportPaths:
        return ReportPaths(self.report, self.html_report)

    def _renewed(self, evaluation: Evaluation) -> Report:
        """Return the report with the evaluation, and without the advice to make one."""
        whole = self._whole()
        assessment = whole.assessment
        if assessment is not None:
            update: dict[str, Any] = {"actions": _actions_after(assessment.actions)}
            if is_evaluation(assessment.next_command):
                update["next_command"] = inspect_command(str(self.quantized))
            assessment = assessment.model_copy(update=update)
        return whole.model_copy(update={"evaluation": evaluation, "assessment": assessment})

    def _whole(self) -> Report:
        """Return the report that the evaluation belongs to, with as much as is known of the run."""
        if self.report is not None and self.report.exists():
            return self._earlier(self.report)
        return stored_report(self.quantized)

    def _earlier(self, path: Path) -> Report:
        """Return the report in `path`, if it is of the quantized checkpoint; else InputError."""
        from thermoq.report.json import read_json

        earlier, stored = read_json(path), stored_report(self.quantized)
        same = earlier.model_dump(include=_IDENTITY) == stored.model_dump(include=_IDENTITY)
        if not same or earlier.sizes != stored.sizes:
            raise bad_file(
                path,
                f"expected the report of {self.quantized}, or no file, got that of another run",
            )
        return earlier


def _evaluated(report: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest's report with the evaluation; the advice there has no commands."""
    assessment = report.get("assessment")
    if isinstance(assessment, dict) and isinstance(assessment.get("actions"), list):
        changed = {**assessment, "actions": _actions_after(assessment["actions"])}
        report = {**report, "assessment": changed}
    return {**report, "evaluation": evaluation}


def _actions_after(actions: Sequence[str]) -> list[str]:
    return [COMPARE if action == MEASURE else action for action in actions]


_IDENTITY: Any = {
    "model_name": True,
    "phase": True,
    "method": True,
    "bit_width": True,
    "num_time_groups": True,
    "relative_squared_error": True,
    "provenance": {"input_fingerprint", "calibration_fingerprint", "seed"},
}
