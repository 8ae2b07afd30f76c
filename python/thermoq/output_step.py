"""Phase 3's last step in a run: the correction of the denoiser's prediction (DESIGN section 7).

It needs both models to run, and so the torch extra; without it the step is left out, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thermoq.activations import Activations
from thermoq.calibration.packages import require_packages
from thermoq.checkpoint import Checkpoint
from thermoq.checkpoint.late_shard import add_output_correction, files_of
from thermoq.checkpoint.quantized import open_quantized
from thermoq.checkpoint.trajectory_entries import OutputCorrectionEntry
from thermoq.checkpoint.writer import WrittenFiles
from thermoq.config import QuantizationConfig
from thermoq.errors import ThermoqError
from thermoq.output_correction import OutputCorrection
from thermoq.progress import Progress


@dataclass(frozen=True)
class CorrectedOutputs:
    """What became of the step, by component: corrections, manifest entries, files as they are now.

    `warnings` say what kept components from having one.
    """

    corrections: Mapping[str, OutputCorrection] = field(default_factory=dict)
    entries: Mapping[str, OutputCorrectionEntry] = field(default_factory=dict)
    written: Mapping[str, WrittenFiles] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def wants_correction(config: QuantizationConfig) -> bool:
    """Tell whether a run corrects predictions, if it can."""
    optimization = config.thermodynamic.optimization
    return optimization.enabled and optimization.output_correction is not False


def correct_outputs(
    checkpoint: Checkpoint,
    activations: Activations,
    config: QuantizationConfig,
    quantized: Path,
    progress: Progress,
) -> CorrectedOutputs:
    """Fit corrections to the components quantized into the directory `quantized`, and store them.

    The directory has manifests without a report, which are written anew afterwards.
    """
    corrections, warnings = _fitted(checkpoint, activations, config, quantized, progress)
    entries, written = {}, {}
    if corrections:
        for component in open_quantized(quantized)[1]:
            if component.component.name in corrections:
                add_output_correction(component, corrections[component.component.name])
        for component in open_quantized(quantized)[1]:
            entry, name = component.manifest.output_correction, component.component.name
            if entry is not None:
                entries[name], written[name] = entry, files_of(component)
    return CorrectedOutputs(corrections, entries, written, warnings)


def _fitted(
    checkpoint: Checkpoint,
    activations: Activations,
    config: QuantizationConfig,
    quantized: Path,
    progress: Progress,
) -> tuple[Mapping[str, OutputCorrection], tuple[str, ...]]:
    """Run both models on the calibration's own states; where that fails, nothing unless asked."""
    try:
        require_packages(verb="optimize")
        from thermoq.evaluation.output_correction import fit_output_correction

        fits = fit_output_correction(
            checkpoint.directory,
            quantized,
            activations.calibration.description,
            coupling=config.thermodynamic.optimization.coupling,
            threads=config.threads,
            progress=AsSteps(progress),
        )
    except ThermoqError as reason:  # no torch, or a model that cannot be run
        if config.thermodynamic.optimization.output_correction is True:
            raise
        return {}, (f"optimization: the output correction is left out ({reason})",)
    found = {name: fit.correction for name, fit in fits.items() if fit.correction is not None}
    useless = sorted(name or "the model" for name in fits.keys() - found.keys())
    lines = tuple(
        f"optimization: no output correction of {name} did better on samples that were held out, "
        "so it has none"
        for name in useless
    )
    return found, lines


class AsSteps:
    """Shows the steps of a sampler where the progress of a run counts tensors."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, task: str, total_steps: int, done: int) -> None:
        """Begin `task` of so many steps."""
        self._progress.start(task, total_steps - done, 0)

    def advance(self, where: str) -> None:
        """Count a step as done."""
        self._progress.advance(where, 0)
