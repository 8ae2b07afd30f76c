"""What was the same for all compared models, and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thermoq.comparison.conditions import differing_conditions
from thermoq.comparison.phase_settings import equality, phase_settings
from thermoq.comparison.sources import Source
from thermoq.report.comparison_model import Equality
from thermoq.report.model import Report
from thermoq.report.wording import groups, other_activation_bits


def equalities(sources: Sequence[Source]) -> Iterator[Equality]:
    """Yield a line for each thing that decides figures."""
    reports = [one.report for one in sources]
    yield equality("Model (fingerprint)", [one.fingerprint for one in sources])
    yield equality("Bit width", [f"INT{report.bit_width}" for report in reports])
    yield equality("Weight method", [report.method for report in reports])
    yield equality("Encoding", [f"{report.encoding}, {groups(report)}" for report in reports])
    yield equality("Rotation", [_rotation(one) for one in sources])
    yield _codes(sources)
    yield equality("Activation bits", [_activation_bits(report) for report in reports])
    yield from phase_settings(reports)
    calibrations = [report.provenance.calibration_fingerprint for report in reports]
    yield equality("Calibration (fingerprint)", [one or "none" for one in calibrations])
    yield equality("Seed", [str(report.provenance.seed) for report in reports])
    yield equality("Sampling steps of a jump", [str(report.sampling_steps) for report in reports])
    yield equality("Threshold of a violation", [threshold_of(report) for report in reports])
    yield _evaluations(sources)
    yield equality("thermoq", [report.thermoq_version for report in reports])


def _activation_bits(report: Report) -> str:
    others = other_activation_bits(report)
    return f"{report.activation_bits}, {others}" if others else str(report.activation_bits)


def _rotation(source: Source) -> str:
    rotated = sum(row.rotation is not None for row in source.report.layers)
    return f"{rotated} of {len(source.report.layers)} matrices" if rotated else "none"


def threshold_of(report: Report) -> str:
    """The jump above which a boundary is a violation, e.g. `0.3`."""
    thermodynamics = report.thermodynamics
    return "none" if thermodynamics is None else f"{thermodynamics.smoothness_threshold:g}"


def _codes(sources: Sequence[Source]) -> Equality:
    """Compare checksums where all are checkpoints, else what follows from the codes."""
    name = "Weight codes"
    first = sources[0]
    if all(one.codes is not None for one in sources):
        if all(one.codes == first.codes for one in sources):
            return Equality(name=name, equal=True, values=["by their checksums"])
        return Equality(name=name, equal=False, values=[_differing(first, one) for one in sources])
    errors = [
        [(row.component, row.name, row.squared_error, row.max_error) for row in one.report.layers]
        for one in sources
    ]
    if any(found != errors[0] for found in errors):
        return Equality(name=name, equal=False, values=["other errors of weights"])
    found = (
        "every matrix has the same error to the last digit; the checksums are in the checkpoints"
    )
    return Equality(name=name, equal=True, values=[found])


def _differing(first: Source, other: Source) -> str:
    if other is first:
        return "the reference"
    one, two = first.codes or {}, other.codes or {}
    differing = sum(one.get(name) != two.get(name) for name in one.keys() | two.keys())
    return "the same" if differing == 0 else f"{differing} of {len(one)} tensors differ"


def _evaluations(sources: Sequence[Source]) -> Equality:
    name = "Evaluation inputs"
    found = [one.evaluation for one in sources]
    if any(one is None for one in found):
        values = ["evaluated" if one is not None else "not evaluated" for one in found]
        if len(set(values)) == 1:
            return Equality(name=name, equal=None, values=["none was evaluated"])
        return Equality(name=name, equal=None, values=values)
    keys = [one.inputs_key for one in found if one is not None]
    if len(set(keys)) == 1:
        return Equality(name=name, equal=True, values=["the same samples: differences are paired"])
    texts = differing_conditions([one for one in found if one is not None])
    if not any(texts):  # nothing that an evaluation notes: its inputs have other fingerprints
        texts = [f"fingerprint {key}" for key in keys]
    return Equality(name=name, equal=False, values=texts)
