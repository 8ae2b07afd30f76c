"""All phases on the bundled model, beside one another: nothing is downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from thermoq.checkpoint.carried import MANIFEST_NAME
from thermoq.comparison.run import compare_sources
from thermoq.comparison.sources import Source, labelled, source_of_directory
from thermoq.errors import InputError
from thermoq.pipeline import quantize
from thermoq.progress import Progress, StepProgress
from thermoq.report.comparison_model import Comparison
from thermoq.report.model import Report
from thermoq.staging import is_leftover, refused

MODEL_FOLDER = "models/digits-dit"
CALIBRATION_FILE = "models/digits-dit-calibration.safetensors"
EVALUATION_FILE = "models/digits-dit-evaluation.json"

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {"phase": "baseline", "method": "minmax"},
    "smooth": {"phase": "smooth", "method": "minmax"},
    "optimize": {"phase": "optimize", "method": "minmax"},
    "best": {"phase": "optimize", "method": "hessian"},
}
"""Three phases on the same codes, and beside them the last one on the best codes."""

LIVE_SAMPLES = 32
"""Enough for intervals that tell the phases apart, and a minute on two cores for all variants."""

_EARLIER = "quantized"  # what version 0.1.0 wrote
_COMPARISON = "comparison.html"
_SHIPPED = "shipped, not measured in this run"
_WITHOUT_TORCH = (
    "Phase 3 stops before the output correction, which runs the model and needs torch: "
    "`pip install 'thermoq[torch]'`."
)


@dataclass(frozen=True)
class DemoVariant:
    """One quantized model of a demo with its reports; all lie side by side."""

    name: str
    report: Report
    checkpoint: Path

    @property
    def json_report(self) -> Path:
        """The JSON report; the log beside it ends in `.log`."""
        return self.checkpoint.with_suffix(".json")

    @property
    def html_report(self) -> Path:
        """The page."""
        return self.checkpoint.with_suffix(".html")


@dataclass(frozen=True)
class Demonstration:
    """What a demo left behind."""

    variants: list[DemoVariant]
    comparison: Comparison
    page: Path


def files_of(directory: Path) -> tuple[Path, ...]:
    """Return what a demo writes below `directory`."""
    names = [f"{name}{suffix}" for name in VARIANTS for suffix in ("", ".json", ".log", ".html")]
    return tuple(directory / name for name in (*names, _COMPARISON))


def has_torch() -> bool:
    """Tell whether models can be run here."""
    return all(find_spec(name) is not None for name in ("torch", "diffusers", "transformers"))


def quantize_variants(
    directory: Path, *, progress: Progress | None = None, **settings: Any
) -> list[DemoVariant]:
    """Quantize the bundled model below `directory`, which is made; an earlier demo is replaced.

    Time parameters come from the calibration that is bundled with it. `settings` are those of
    `quantize`, for all variants. Without torch Phase 3 does without the output correction.

    Raises InputError if the directory holds anything else.
    """
    _check(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise refused(directory, error) from None
    correction = {} if has_torch() else {"output_correction": False}
    try:
        with _bundled(MODEL_FOLDER) as model, _bundled(CALIBRATION_FILE) as calibration:
            common = {"calibration": str(calibration), **correction, **settings}
            return [
                _quantized(model, directory / name, progress, {**common, **own})
                for name, own in VARIANTS.items()
            ]
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def evaluate_variants(
    variants: Sequence[DemoVariant],
    *,
    samples: int | None = None,
    judged: int = 0,
    threads: int | None = None,
    progress: StepProgress | None = None,
) -> list[DemoVariant]:
    """Run the variants beside the bundled model; their reports hold what came of it.

    `samples` None: as many as a demo takes.

    Raises UsageError without torch.
    """
    from thermoq.evaluation.run import evaluate

    found = []
    with _bundled(MODEL_FOLDER) as model:
        for one in variants:
            evaluation = evaluate(
                model,
                one.checkpoint,
                report=one.json_report,
                html_report=one.html_report,
                samples=samples or LIVE_SAMPLES,
                judged=judged,
                threads=threads,
                progress=progress,
            )
            report = one.report.model_copy(update={"evaluation": evaluation})
            found.append(replace(one, report=report))
    return found


def compare_variants(directory: Path, variants: Sequence[DemoVariant]) -> Demonstration:
    """Write the page that compares the variants of a demo below `directory`.

    Variants that were not evaluated have the shipped figures, if these are of the same codes.
    """
    from thermoq.report.comparison_page import write_comparison_page

    sources = [source_of_directory(one.checkpoint, one.report) for one in variants]
    notes = [] if has_torch() else [_WITHOUT_TORCH]
    if any(one.evaluation is None for one in sources):
        sources = list(_with_shipped(sources))
    comparison = compare_sources(labelled(sources), notes=notes)
    page = directory / _COMPARISON
    write_comparison_page(comparison, page)
    return Demonstration(list(variants), comparison, page)


def demonstrate(
    directory: Path, *, progress: Progress | None = None, **settings: Any
) -> Demonstration:
    """Do all of a demo: `quantize_variants`, with torch `evaluate_variants`, `compare_variants`."""
    variants = quantize_variants(directory, progress=progress, **settings)
    if has_torch():
        variants = evaluate_variants(variants)
    return compare_variants(directory, variants)


def _quantized(
    model: Path, checkpoint: Path, progress: Progress | None, settings: dict[str, Any]
) -> DemoVariant:
    report = quantize(
        model,
        checkpoint,
        report=checkpoint.with_suffix(".json"),
        html_report=checkpoint.with_suffix(".html"),
        overwrite=True,
        progress=progress,
        **settings,
    )
    return DemoVariant(checkpoint.name, report, checkpoint)


def _with_shipped(sources: Sequence[Source]) -> Iterator[Source]:
    """Yield the sources with the evaluations that are bundled for them, or why there are none."""
    from thermoq.shipped_evaluation import read_shipped

    with _bundled(EVALUATION_FILE) as path:
        shipped = read_shipped(path) if path.is_file() else None
    for one in sources:
        if one.evaluation is not None:
            yield one
            continue
        found = "no figures are shipped for it"
        if shipped is not None:
            evaluation = shipped.of(one.path.name, one.codes or {}, one.report)
            if not isinstance(evaluation, str):
                yield replace(one, evaluation=evaluation, shipped=_SHIPPED)
                continue
            found = evaluation
        yield replace(one, evaluation_note=found)


@contextlib.contextmanager
def _bundled(name: str) -> Iterator[Path]:
    with resources.as_file(resources.files("thermoq") / name) as path:
        yield path


def _check(directory: Path) -> None:
    """Refuse a directory with other things than an earlier demo, which a user may have added to."""
    if not directory.is_dir():
        return
    earlier = [directory / name for name in (*VARIANTS, _EARLIER)]
    if not any(path for one in earlier for path in one.rglob(MANIFEST_NAME)):
        others = sorted(path.name for path in directory.iterdir() if not is_leftover(path))
        if others:
            raise InputError(f"{directory}: expected an earlier demo or nothing, got {others[0]}")
