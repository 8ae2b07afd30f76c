"""Row gains and biases in all the forms that a layer may choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from thermoq.optimization.choice import Purpose, output_error
from thermoq.optimization.coupling import couple
from thermoq.optimization.inputs import Inputs, Rows, quantized_inputs
from thermoq.optimization.row_fit import (
    Counts,
    RowFit,
    RowMoments,
    fit_rows,
    gain_variance,
    merged,
    moments_by_group,
    with_gain,
)
from thermoq.optimization.samples import InputSample
from thermoq.terms import GainEstimator, RowChoice
from thermoq.time_parameters import TimeParameters

_DECIDING: Final = 512  # outputs, on which large layers choose: many more say nothing more
_LARGE: Final = 4  # times as many


@dataclass(frozen=True)
class QuantizedOutputs:
    """A layer's outputs y = W x and y^ = W^ x~; `activation_bits` is a.

    x is what the full-precision layer gets, x~ what the quantized one makes of what it gets.
    """

    weights: Rows
    decoded: Rows
    activation: TimeParameters
    activation_bits: int

    def inputs(self, parts: Sequence[Inputs], sizes: Counts) -> tuple[Rows, Rows]:
        """Return x and x~ of all rows: parts of each group, then other parts of each."""
        together = np.concatenate([part.given for part in parts])
        apart = any(part.full is not part.given for part in parts)
        full = np.concatenate([part.full for part in parts]) if apart else together
        activation = self.activation
        scale, zero_point = (
            np.concatenate([values, values]) for values in (activation.scale, activation.zero_point)
        )
        return full, quantized_inputs(together, scale, zero_point, sizes, self.activation_bits)


@dataclass(frozen=True)
class RowOptions:
    """Row parameters of all forms, fitted, and their errors on held-out rows.

    `deciding` are by what the estimator is after, `plain` those of the output; `tau_squared` is
    None with nothing to couple.
    """

    options: dict[RowChoice, RowFit | None]
    deciding: dict[RowChoice, float]
    plain: dict[RowChoice, float]
    tau_squared: float | None


class RowFitter:
    """Fits the row parameters of a layer, to a sample that `says_something`."""

    def __init__(
        self,
        layer: QuantizedOutputs,
        sample: InputSample,
        estimator: GainEstimator,
        coupling: float,
    ) -> None:
        self._layer = layer
        self._estimator, self._coupling = estimator, coupling
        self._num_groups = len(sample.fitted)
        num_outputs = len(layer.weights)
        self._step = num_outputs // _DECIDING if num_outputs >= _LARGE * _DECIDING else 1
        parts = [*sample.fitted, *sample.held_out]
        self._sizes = np.array([len(part) for part in parts], np.int64)
        self._sample = sample
        self._full, self._changed = layer.inputs(parts, self._sizes)

    def options(self) -> RowOptions:
        """Fit all forms, on up to 2047 outputs or else on 512 and a few of them."""
        moments = self._moments(slice(None, None, self._step), 2 * self._num_groups)
        options, tau_squared = self._fits(moments.of(slice(0, self._num_groups)))
        held_out = moments.of(slice(self._num_groups, None))
        some = held_out.count > 0
        if not some.all():
            held_out = held_out.of(some)
        purpose = Purpose(held_out, self._estimator)
        deciding: dict[RowChoice, float] = {}
        plain: dict[RowChoice, float] = {}
        for choice, fit in options.items():
            part = fit
            if fit is not None and fit.gain.ndim > 1 and not some.all():
                part = RowFit(fit.gain[some], fit.bias[some], fit.fitted[some])
            deciding[choice] = float(purpose.error(part).mean())
            plain[choice] = float(output_error(held_out, part).mean())
        return RowOptions(options, deciding, plain, tau_squared)

    def fit(self, choice: RowChoice, found: RowOptions) -> tuple[RowFit | None, float | None]:
        """Return the chosen form of all outputs, and tau^2; `found` are the `options`."""
        if self._step == 1 or choice == "none":
            return found.options[choice], found.tau_squared
        options, tau_squared = self._fits(self._moments(slice(None), self._num_groups))
        return options[choice], tau_squared

    def _moments(self, outputs: slice, num_parts: int) -> RowMoments:
        """Return the moments of some outputs, over the rows of the first parts."""
        sizes = self._sizes[:num_parts]
        rows = slice(0, int(sizes.sum()))
        y = self._full[rows] @ self._layer.weights[outputs].T
        q = self._changed[rows] @ self._layer.decoded[outputs].T
        distinct = np.resize(self._sample.distinct, num_parts)
        return moments_by_group(y, q, sizes, distinct)

    def _fits(self, moments: RowMoments) -> tuple[dict[RowChoice, RowFit | None], float | None]:
        together = replace(merged(moments), distinct=np.asarray(self._sample.distinct_together))
        options: dict[RowChoice, RowFit | None] = {
            "none": None,
            "pooled": fit_rows(together, self._estimator),
        }
        if self._num_groups == 1:
            return options, None
        fit = fit_rows(moments, self._estimator)
        variance = gain_variance(moments, self._estimator)
        variance[~moments.distinct] = np.inf
        coupled = couple(
            np.ascontiguousarray(fit.gain.T),
            np.ascontiguousarray(variance.T),
            self._coupling,
            np.ones(self._num_groups - 1, np.bool_),
            np.ascontiguousarray(fit.fitted.T),
        )
        options["per_time_group"] = with_gain(moments, coupled.values.T, fit.fitted)
        return options, coupled.tau_squared
