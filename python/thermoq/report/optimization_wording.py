"""Phase 3 in words: for the log, the page and the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from thermoq.report.model import LayerRow, Report, Sizes
from thermoq.report.optimization_model import (
    LayerOptimization,
    OptimizationSummary,
    SequentialSummary,
    StoredCorrection,
)
from thermoq.report.wording import counted, significant, whole
from thermoq.terms import RowChoice

_CLOSE: Final = 0.01  # of an error: what the choice of a layer passes over too

CHOICE_WORDS: Mapping[RowChoice, str] = {
    "none": "none",
    "pooled": "pooled",
    "per_time_group": "per time group",
}


def choices_text(found: OptimizationSummary) -> str:
    """What layers chose, e.g. `36 per time group, 4 pooled, 17 none, of 57 layers`."""
    counts = ", ".join(
        f"{row.num_layers} {CHOICE_WORDS[row.row_choice]}" for row in reversed(found.row_choices)
    )
    return f"{counts}, of {counted(found.num_layers, 'layer')}"


def choices_verdict(found: OptimizationSummary) -> str:
    """What that says of time groups, in a sentence or two."""
    return " ".join([_layers_verdict(found), *_whole_verdict(found.output_errors)])


def _whole_verdict(errors: Mapping[RowChoice, float]) -> Iterator[str]:
    """Yield what time groups would add to pooled gains over all layers, if that is nothing."""
    if "pooled" not in errors or "per_time_group" not in errors:
        return
    if errors["per_time_group"] >= (1.0 - _CLOSE) * errors["pooled"]:
        yield (
            "Over all layers time groups add nothing to pooled gains: "
            f"{errors_text({key: errors[key] for key in ('pooled', 'per_time_group')})}."
        )


def _layers_verdict(found: OptimizationSummary) -> str:
    layers = {row.row_choice: row.num_layers for row in found.row_choices}
    if not layers["pooled"] and not layers["per_time_group"]:
        return "No layer's rows gain from a correction on held-out inputs."
    if not layers["per_time_group"]:
        return (
            "On held-out inputs one set of row gains and biases for the whole trajectory is as "
            "good as one for each time group, in every layer."
        )
    if not layers["pooled"]:
        return (
            "On held-out inputs one set of row gains and biases for each time group is better than "
            "one for the whole trajectory, in every layer that has some."
        )
    return "Each layer has the cheapest that comes within 1 % of the best on held-out inputs."


def coupling_text(found: OptimizationSummary) -> str:
    """What draws time groups together, and where less of it, e.g. `1, in 3 layers less`."""
    if not found.weakened_layers:
        return f"{found.coupling:g}"
    layers = counted(found.weakened_layers, "layer")
    return f"{found.coupling:g}, of ranges less in {layers}, whose outputs would lose by it"


def errors_text(errors: Mapping[RowChoice, float]) -> str:
    """Errors by choice, e.g. `none 0.0035, pooled 0.0033, per time group 0.0031`."""
    return ", ".join(
        f"{CHOICE_WORDS[choice]} {significant(error)}" for choice, error in errors.items()
    )


def time_bytes_text(sizes: Sizes) -> str:
    """What time parameters take, e.g. `111,276 bytes, 11.7 % of the files`."""
    share = 100 * sizes.time_parameter_bytes / sizes.model_bytes
    return f"{whole(sizes.time_parameter_bytes)} bytes, {significant(share)} % of the files"


def sequential_text(run: SequentialSummary | None) -> str:
    """What inputs layers were fitted to."""
    if run is None:
        return "of the full-precision model, as the calibration kept them"
    layers, passes = counted(run.num_layers, "layer"), counted(run.num_passes, "pass", "passes")
    samples = counted(run.num_samples, "sample")
    return f"of the quantized layers before each, for {layers}, in {passes} of {samples}"


def correction_text(correction: StoredCorrection) -> str:
    """A prediction's correction, e.g. `transformer: by channel in 20 bins, 200 bytes`."""
    place = f"{correction.component}: " if correction.component else ""
    bins, nbytes = counted(correction.num_bins, "bin"), whole(correction.stored_bytes)
    return f"{place}by {correction.kind} in {bins}, {nbytes} bytes"


def optimization_lines(report: Report) -> Iterator[str]:
    """Yield the log's lines on the run."""
    if report.sizes.time_parameter_bytes:
        yield f"time parameters: {time_bytes_text(report.sizes)}"
    found = report.optimization
    if found is None:
        return
    yield f"coupling: {coupling_text(found)}"
    yield f"gain estimator: {found.gain_estimator}"
    yield f"row gains and biases: {choices_text(found)}"
    yield choices_verdict(found)
    if found.sequential is not None:
        yield f"fitted to inputs {sequential_text(found.sequential)}"
    yield f"rows left as they were: {whole(found.fallback_rows)} of {whole(found.row_values)}"
    if found.output_errors:
        errors = errors_text(found.output_errors)
        yield f"relative squared error of outputs on held-out rows: {errors}"
    for correction in found.output_corrections:
        yield f"output correction: {correction_text(correction)}"


def layer_line(row: LayerRow, optimization: LayerOptimization) -> str:
    """What the log says of one layer, after its name."""
    facts = [
        f"row gains and biases {CHOICE_WORDS[optimization.row_choice]}",
        f"{whole(row.time_parameter_bytes)} bytes of time parameters",
    ]
    if optimization.held_out_errors:
        facts.append(f"held-out errors: {errors_text(optimization.held_out_errors)}")
    if optimization.row_values:
        fallback = f"{whole(optimization.fallback_rows)} of {whole(optimization.row_values)}"
        facts.append(f"{fallback} rows left as they were")
    steps = (
        ("log scale", optimization.log_scale_tau_squared),
        ("zero point", optimization.zero_point_tau_squared),
        ("gain", optimization.gain_tau_squared),
    )
    known = [f"{name} {significant(value)}" for name, value in steps if value is not None]
    if known:
        facts.append(f"tau^2: {', '.join(known)}")
    return "; ".join(facts)
