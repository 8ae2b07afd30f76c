"""What `thermoq compare` is given: report files and quantized directories, alike."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thermoq.checkpoint.manifest import manifest_path
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.comparison.conditions import evaluate_flags
from thermoq.errors import InputError, UsageError
from thermoq.report.evaluation_model import Evaluation
from thermoq.report.json import read_json
from thermoq.report.model import Report
from thermoq.stored_report import stored_report
from thermoq.terms import Phase

PHASE_NAMES: dict[Phase, str] = {
    "baseline": "Phase 1",
    "smooth": "Phase 2",
    "optimize": "Phase 3",
}


@dataclass(frozen=True)
class Source:
    """A report that is to be compared, and where it is from.

    `codes` are the checksums of all stored tensors' codes and group parameters, by component and
    name; None where only a report is at hand. `shipped`: `evaluation` is not of this run, and why.
    """

    path: Path
    report: Report
    evaluation: Evaluation | None
    codes: Mapping[str, str] | None = None
    label: str = ""
    shipped: str | None = None
    evaluation_note: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a quantized checkpoint."""
        return self.codes is not None

    @property
    def has_times(self) -> bool:
        """Whether the report is a run's own: that inside a checkpoint lacks times and paths."""
        return bool(self.report.provenance.times_s)

    @property
    def fingerprint(self) -> str:
        """Of the full-precision weights."""
        return self.report.provenance.input_fingerprint

    def evaluate_command(self, others: Sequence[Source]) -> str:
        """Return the line that measures what an evaluation has, as the first of `others` was.

        A directory does not know where its model lay; another report of the same model may.
        """
        provenance = self.report.provenance
        known = [one for one in (self, *others) if one.fingerprint == self.fingerprint]
        paths = [one.report.provenance.input_path for one in known if one.has_times]
        words = ["thermoq", "evaluate", "--model", paths[0] if paths else "MODEL", "--quantized"]
        if self.is_directory:
            words.append(str(self.path))
        else:
            words += [provenance.output_path, "--report", str(self.path)]
        evaluated = [one.evaluation for one in known[1:] if one.evaluation is not None]
        if evaluated:
            words += evaluate_flags(evaluated[0])
        return shlex.join(words)


def read_sources(paths: Sequence[Path | str]) -> list[Source]:
    """Read everything that is to be compared.

    Raises UsageError for fewer than two; InputError for what is no report of this format version,
    and for reports of several.
    """
    if len(paths) < 2:
        raise UsageError(
            "compare: expected at least two reports or quantized directories, got "
            + (str(paths[0]) if paths else "none")
        )
    places = [Path(path) for path in paths]
    for place in places:
        if not place.exists():
            raise InputError(f"{place}: expected a JSON report or a quantized directory, got none")
    _check_versions(places)
    return labelled([_read(place) for place in places])


def source_of_directory(directory: Path, report: Report | None = None) -> Source:
    """Return a quantized checkpoint as a source, with `report` in place of the one inside it."""
    found = report or stored_report(directory)
    _, parts = open_quantized(directory)
    return Source(directory, found, found.evaluation, codes=codes_of(parts))


def codes_of(parts: Sequence[QuantizedComponent]) -> dict[str, str]:
    """Return the checksum of every stored tensor, time parameters left out."""
    return {
        f"{part.component.name}/{name}".lstrip("/"): entry.sha256
        for part in parts
        for name, entry in part.manifest.tensors.items()
        if entry.sha256 is not None
    }


def labelled(sources: Sequence[Source]) -> list[Source]:
    """Name sources after their phases, and tell apart those of the same one."""
    return [replace(one, label=_label(i, sources)) for i, one in enumerate(sources)]


def _label(index: int, sources: Sequence[Source]) -> str:
    one = sources[index]
    name = PHASE_NAMES[one.report.phase]
    alike = [other for other in sources if other.report.phase == one.report.phase]
    if len(alike) == 1:
        return name
    for details in ([other.report.method for other in alike], [o.path.stem for o in alike]):
        if len(set(details)) == len(alike):
            return f"{name} ({details[[id(o) for o in alike].index(id(one))]})"
    return f"{name} (no. {index + 1})"


def _read(path: Path) -> Source:
    if path.is_dir():
        return source_of_directory(path)
    report = read_json(path)
    return Source(path, report, report.evaluation)


def _check_versions(paths: Sequence[Path]) -> None:
    """Refuse reports of several format versions, and name both. What is broken is told later."""
    found: list[tuple[Path, Any]] = []
    for path in paths:
        found += [(path, version) for version in _version_in(path)]
    for path, version in found[1:]:
        first_path, first = found[0]
        if version != first:
            raise InputError(
                f"{path}: expected a report of format_version {first}, as {first_path} is, got "
                f"{version}"
            )


def _version_in(path: Path) -> Iterator[Any]:
    """Yield the format version that a report names, if there is one to be seen."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.is_dir():
            files = [manifest_path(path), *sorted(path.glob(f"*/{manifest_path(Path()).name}"))]
            content = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.is_file()][:1]
            data = content[0].get("report") if content and isinstance(content[0], dict) else None
        else:
            data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is int:
            yield version
