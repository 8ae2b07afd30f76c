"""Phase 3 for one layer, in the order of DESIGN section 7: ranges, rows, coupling, choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from thermoq.blas_threads import blas_threads_for
from thermoq.calibration.statistics import CalibratedInput
from thermoq.optimization.choice import choose
from thermoq.optimization.inputs import Inputs, Rows
from thermoq.optimization.ranges import RangeChoices, optimize_ranges
from thermoq.optimization.row_fit import RowFit
from thermoq.optimization.rows import QuantizedOutputs, RowFitter
from thermoq.optimization.samples import InputSample
from thermoq.terms import GainEstimator, RowChoice
from thermoq.time_parameters import RowParameters, TimeParameters

_VALUES: Final = 1 << 17  # of a group's rows: the products with them stay cheap beside `hessian`
_ROWS: Final = (64, 86)  # of a group, fewest and most; three of four are fitted to
_TOTAL_ROWS: Final = 1280  # over all groups


@dataclass(frozen=True)
class LayerSample:
    """A layer and what is known of its inputs; rotated, all of it, if the layer is.

    `weights` and `decoded` f32 [out, in]; `rows` of the input by time group, f32 [n, in] each, n
    may be 0; `parameters` those of Phase 1. `seen`: of how many rows each group's range is the
    extreme of; as many as there are in `rows` if None. `full_rows`: what the full-precision layer
    gets where the quantized one gets `rows`; the same if None. `shared`: the same rows once more,
    with what another layer of this input has found out about them.
    """

    weights: Rows
    decoded: Rows
    rows: Sequence[Rows]
    parameters: TimeParameters
    activation_bits: int
    seen: Sequence[int] | None = None
    full_rows: Sequence[Rows] | None = None
    shared: InputSample | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if self.weights.shape != self.decoded.shape or len(self.rows) != len(self.parameters.scale):
            raise ValueError(
                f"expected weights and codes of one shape and rows of each time group, got "
                f"{self.weights.shape}, {self.decoded.shape} and {len(self.rows)} of "
                f"{len(self.parameters.scale)}"
            )
        if self.shared is not None and any(
            kept.given is not rows for kept, rows in zip(self.shared.inputs, self.rows, strict=True)
        ):
            raise ValueError("expected the shared rows to be the layer's")
        if any(one.full.shape != one.given.shape for one in self.inputs):
            raise ValueError("expected rows of the full-precision model beside all others")

    @cached_property
    def inputs(self) -> list[Inputs]:
        """The rows of each time group."""
        full = self.rows if self.full_rows is None else self.full_rows
        return [Inputs(*both) for both in zip(self.rows, full, strict=True)]


@dataclass(frozen=True)
class OptimizationChoices:
    """What is done to a layer. `coupling` >= 0 scales the pull between time groups.

    `fits_rows` is for layers that see more than one row per sample. `clip_search` False keeps
    Phase 1's ranges, and leaves only their coupling; `choice` takes a form of row parameters
    without asking the held-out rows; with one time group, "per_time_group" is "pooled".
    """

    coupling: float = 1.0
    estimator: GainEstimator = "unbiased"
    fits_rows: bool = True
    seed: int = 0
    clip_search: bool = True
    choice: RowChoice | None = None


@dataclass(frozen=True)
class OptimizedLayer:
    """A layer's time parameters after Phase 3, and how they came about.

    `held_out_errors` decided the choice (`choice.error_by_purpose`), `output_errors` are
    ||y_q - y||^2 / ||y||^2; both on rows nothing was fitted to, averaged over time groups, by
    choice; empty without row fits. `fallback_rows` of the `row_values` pairs of gain and bias are
    1 and 0, because the rows do not allow an estimate. `searched_groups` have a range that is not
    min-max. Step variances are None where there was nothing to couple. `range_coupling` is what is
    left of the coupling that was asked for, where ranges coupled more would cost accuracy.
    """

    activation: TimeParameters
    rows: RowParameters | None
    choice: RowChoice
    held_out_errors: Mapping[RowChoice, float]
    output_errors: Mapping[RowChoice, float]
    fallback_rows: int
    row_values: int
    searched_groups: int
    log_scale_tau_squared: float | None
    zero_point_tau_squared: float | None
    gain_tau_squared: float | None
    range_coupling: float


def input_sample(
    source: CalibratedInput,
    groups: Sequence[slice],
    rotate: Callable[[Rows], Rows] | None = None,
    beside: Sequence[Inputs] | None = None,
) -> InputSample:
    """Gather a calibrated input, for all layers that have it; arguments as in `layer_sample`."""
    most = rows_per_group(source.num_columns, len(groups))
    if beside is None:
        inputs = [Inputs(rows, rows) for rows in source.samples(groups, most)]
    else:
        inputs = [one.evenly(most) for one in beside]
    counts = source.count if rotate is None else source.num_rows  # of these, rotated, is the range
    if rotate is not None:
        turn = rotate
        inputs = [one.of(lambda rows: turn(rows) if len(rows) else rows) for one in inputs]
    return InputSample(inputs, [int(counts[group].sum()) for group in groups])


def layer_sample(
    source: CalibratedInput,
    groups: Sequence[slice],
    weights: Rows,
    decoded: Rows,
    parameters: TimeParameters,
    activation_bits: int,
    rotate: Callable[[Rows], Rows] | None = None,
    beside: Sequence[Inputs] | None = None,
    shared: InputSample | None = None,
) -> LayerSample:
    """Gather a calibrated layer; `groups` are the bins of each time group.

    `weights` and `decoded` are rotated already if they are to be; `rotate` turns the rows. `beside`
    are rows of each time group from both models, to take instead of those that were kept. `shared`
    is the layer's `input_sample`, if it is at hand.
    """
    found = shared or input_sample(source, groups, rotate, beside)
    rows, full = [one.given for one in found.inputs], [one.full for one in found.inputs]
    return LayerSample(weights, decoded, rows, parameters, activation_bits, found.seen, full, found)


def optimize_layer(sample: LayerSample, choices: OptimizationChoices) -> OptimizedLayer:
    """Find a layer's ranges, row gains and row biases. The same seed gives the same values."""
    with blas_threads_for(sample.weights.size):
        return _optimized(sample, choices)


def _optimized(sample: LayerSample, choices: OptimizationChoices) -> OptimizedLayer:
    rows = sample.shared or _gathered(sample)
    ranges = optimize_ranges(
        sample.weights,
        sample.decoded,
        (sample.parameters.scale, sample.parameters.zero_point),
        sample.activation_bits,
        rows.for_ranges,
        RangeChoices(choices.coupling, choices.clip_search, choices.seed),
    )
    activation = replace(sample.parameters, scale=ranges.scale, zero_point=ranges.zero_point)
    layer = QuantizedOutputs(sample.weights, sample.decoded, activation, sample.activation_bits)
    choice: RowChoice = "none"
    fit, tau_squared = None, None
    errors: dict[RowChoice, float] = {}
    output_errors: dict[RowChoice, float] = {}
    if choices.fits_rows and rows.says_something:
        fits = RowFitter(layer, rows, choices.estimator, choices.coupling)
        found = fits.options()
        errors, output_errors = found.deciding, found.plain
        choice = choices.choice or choose(errors)
        if choice not in errors:  # with one time group, what is pooled is per group
            choice = "pooled"
        fit, tau_squared = fits.fit(choice, found)
    return OptimizedLayer(
        activation,
        _parameters(fit),
        choice,
        errors,
        output_errors,
        0 if fit is None else int((~fit.fitted).sum()),
        0 if fit is None else fit.gain.size,
        ranges.searched_groups,
        ranges.log_scale_tau_squared,
        ranges.zero_point_tau_squared,
        tau_squared,
        ranges.coupling,
    )


def rows_per_group(num_columns: int, num_groups: int) -> int:
    """Return how many rows of each time group a layer is fitted to and chosen by, at most."""
    fewest, most = _ROWS
    by_size = min(max(_VALUES // num_columns, fewest), most)
    return min(by_size, max(1, _TOTAL_ROWS // num_groups))


def _gathered(sample: LayerSample) -> InputSample:
    most = rows_per_group(sample.weights.shape[1], len(sample.rows))
    inputs = [rows.evenly(most) for rows in sample.inputs]
    return InputSample(inputs, sample.seen or [len(rows) for rows in sample.rows])


def _parameters(fit: RowFit | None) -> RowParameters | None:
    if fit is None:
        return None
    return RowParameters(
        np.atleast_2d(fit.gain).astype(np.float32), np.atleast_2d(fit.bias).astype(np.float32)
    )
