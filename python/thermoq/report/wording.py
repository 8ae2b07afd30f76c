"""How figures and their sources are written out, alike on the page and in the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from thermoq.report.model import BudgetResult, CalibrationSummary, Characteristic, LayerRow, Report
from thermoq.report.plan import SchemeRow
from thermoq.report.thermodynamics_model import SmoothingSummary, SmoothnessBefore
from thermoq.terms import ParameterSource, Severity

Tone = Literal["good", "bad", "neutral"]

TIMES = "\N{MULTIPLICATION SIGN}"
NOT_AVAILABLE = "not available"
_BOUNDARY = ("boundary", "boundaries")

SOURCE_NOTES: dict[ParameterSource, str] = {
    "calibration": "measured along the trajectory",
    "noise-schedule prior": "a model, not a measurement",
    "none": "no layer has time parameters",
}

SEVERITY_WORDS: dict[Severity, str] = {"high": "critical", "medium": "concerning", "low": "warning"}

VALIDATION_KEY = "quantization.thermodynamic.validation.enabled: true"


def source_text(source: ParameterSource) -> str:
    """A parameter source and what it is worth, e.g. `noise-schedule prior: a model, not ...`."""
    return f"{source}: {SOURCE_NOTES[source]}"


def calibration_text(calibration: CalibrationSummary) -> str:
    """How a calibration came to be, e.g. `64 samples in 50 steps of DDIMScheduler, 20 bins`."""
    samples = counted(calibration.num_samples, "sample")
    text = f"{samples} in {counted(calibration.steps, 'step')} of {calibration.sampler}, "
    text += f"{counted(len(calibration.bin_starts), 'bin')}, seed {calibration.seed}"
    if calibration.guidance is not None:
        text += f", guidance {calibration.guidance:g}"
    if calibration.data_share > 0:
        text += f", {calibration.data_share:.0%} of the samples from given data"
    return text


def smoothing_text(smoothing: SmoothingSummary) -> str:
    """What a schedule does and where, in a sentence or two."""
    open_windows = [window for window in smoothing.windows if window > 0]
    low, high = min(open_windows), max(open_windows)
    width = timestep(high) if low == high else f"{timestep(low)} to {timestep(high)}"
    text = (
        f"Within {width} timesteps on each side of a boundary, parameters move from one time "
        f"group's to the next one's by {smoothing.interpolation} interpolation."
    )
    clamped = smoothing.clamped_boundaries
    if smoothing.window is not None and clamped:
        at = counted(len(clamped), *_BOUNDARY)
        text += (
            f" A window of {smoothing.window:g} was asked for; at {at} half the smaller time group "
            "is less."
        )
    return text


def activation_bits(report: Report, row: LayerRow) -> int:
    """The bits of a layer's inputs, whether it has any of its own or those of the run."""
    own = None if row.time_parameters is None else row.time_parameters.activation_bits
    return own or report.activation_bits


def other_activation_bits(report: Report) -> str:
    """The layers whose inputs have other bits than the run's, e.g. `8 in 6 layers`; or nothing.

    `none` are those of layers that could have time parameters, where others have.
    """
    rows = [row for row in report.layers if row.in_headline]
    bits = Counter(activation_bits(report, row) for row in rows if row.time_parameters)
    others = [one for one in sorted(bits) if one != report.activation_bits]
    texts = [f"{one} in {counted(bits[one], 'layer')}" for one in others]
    left = len(rows) - sum(bits.values())
    if bits and left:
        texts.append(f"none in {counted(left, 'layer')}")
    return ", ".join(texts)


def before_text(before: SmoothnessBefore) -> str:
    """What Phase 1 measures on the same layers, e.g. `Phase 1: 0.7234, 2 violations`."""
    violations = counted(before.violation_count, "violation")
    return f"Phase 1: {fixed(before.smoothness_score)}, {violations}"


def fixed(value: float | None, decimals: int = 4) -> str:
    """A figure between 0 and about 1, e.g. `0.7234`."""
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:.{decimals}f}"
    # A score of .99999 is not a perfect one, nor is .00001 nothing: neither is rounded to it.
    if abs(value) < abs(float(text)) == 1 or (value != 0 and float(text) == 0):
        return significant(value) if float(text) == 0 else _toward_zero(value, decimals)
    return text


def _toward_zero(value: float, decimals: int) -> str:
    unit = 10**decimals
    return f"{math.trunc(value * unit) / unit:.{decimals}f}"


def close_to_one(value: float, decimals: int = 4) -> str:
    """A figure up to 1 with as many decimals as tell it from 1, e.g. `0.9531`, `0.99999`."""
    while decimals < 12 and abs(value) < 1 == abs(float(f"{value:.{decimals}f}")):
        decimals += 1
    return f"{value:.{decimals}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """A figure of any size, e.g. `0.0123`, `4.56e-7`."""
    if value is None:
        return NOT_AVAILABLE
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 <= power < 5:
        return f"{value:,.{max(0, digits - 1 - power)}f}"
    return f"{mantissa}e{power}"


def whole(value: int) -> str:
    """A count, e.g. `25,165,824`."""
    return f"{value:,}"


def size(num_bytes: int) -> str:
    """Bytes in the largest fitting unit of 1000s, e.g. `34.2 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{significant(num_bytes / factor)} {unit}"
    return f"{num_bytes} B"


def timestep(value: float) -> str:
    """A timestep, which may be fractional, e.g. `749` or `749.3`."""
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def shape(dimensions: Sequence[int], times: str = "x") -> str:
    """A tensor's shape, e.g. `1152 x 4608`; a scalar has none."""
    return f" {times} ".join(str(length) for length in dimensions) or "scalar"


def duration(seconds: float) -> str:
    """Wall-clock time, e.g. `0.042 s`, `3 min 7 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def step_name(key: str) -> str:
    """The name of a timed step, whose key ends in its unit, e.g. `plan` for `plan_s`."""
    return key.removesuffix("_s").replace("_", " ")


def scheme_text(row: SchemeRow) -> str:
    """How some matrices are stored, e.g. `coded 2, groups of 16, 4+4 bits`."""
    sizes = f"groups of {row.group_size}" if row.group_size else "groups by row"
    text = f"{row.encoding} {row.bit_width}, {sizes}"
    if row.window_bits:
        return f"{text}, windows of {row.window_bits} bits"
    return text + (f", {row.scale_bits}+{row.minimum_bits} bits" if row.scale_bits else "")


def budget_text(budget: BudgetResult) -> str:
    """A size budget and what came of it, e.g. `2.798 of at most 2.8 bits per quantized weight`."""
    if budget.max_size_bytes is not None:
        return f"{whole(budget.achieved_bytes)} of at most {whole(budget.max_size_bytes)} bytes"
    bits, target = significant(budget.achieved_bits, 4), f"{budget.target_bits:g}"
    return f"{bits} of at most {target} bits per quantized weight"


def groups(stored: LayerRow | Report) -> str:
    """How group parameters are stored, e.g. `groups of 64`, with what `coded` adds to it."""
    text = f"groups of {stored.group_size}" if stored.group_size else "groups by row"
    if stored.window_bits is not None:
        text += f", windows of {stored.window_bits} bits"
    if stored.encoding == "coded":
        if stored.super_block is not None:
            text += f", super-blocks of {stored.super_block}"
        text += f", scales of {stored.scale_bits} bits, minima of {stored.minimum_bits} bits"
    rotated = isinstance(stored, LayerRow) and stored.rotation is not None
    return f"{text}, inputs rotated" if rotated else text


def short_groups(stored: LayerRow) -> str:
    """The same for a narrow column, e.g. `64` or `16/384, 4+4 bits`."""
    text = str(stored.group_size)
    if stored.encoding == "coded":
        sizes = f"{stored.group_size}/{stored.super_block}"
        text = f"{sizes}, {stored.scale_bits}+{stored.minimum_bits} bits"
    if stored.window_bits is not None:
        text = f"{stored.group_size}, windows of {stored.window_bits}"
    return f"{text}, rotated" if stored.rotation else text


def outcome(row: Characteristic) -> tuple[str, Tone]:
    """How an expectation came out, in words, and how to take it."""
    if row.met is None:
        return "not applicable", "neutral"
    if row.bad_sign:
        return ("present", "bad") if row.met else ("absent", "good")
    if row.met:
        return "met", "good"
    return (f"better: {row.better} the range", "neutral") if row.better else ("not met", "bad")


def with_validation(command: str) -> str:
    """`command`, a command line or a Python call, to be run again with validation."""
    if command.endswith(")") and command.startswith("thermoq."):
        return f"{command[:-1]}, validation=True, overwrite=True)"
    words = [word for word in command.split(" ") if word not in ("--no-validation", "--overwrite")]
    return " ".join([*words, "--validation", "--overwrite"])


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun, e.g. `1 boundary`, `3 boundaries`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def plain(name: str) -> str:
    """A tensor's name without the `.weight` that nearly all of them end in."""
    return name.removesuffix(".weight") or name


def shortened(name: str, length: int) -> str:
    """`name` in at most `length` characters: the middle goes, since ends tell layers apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"
