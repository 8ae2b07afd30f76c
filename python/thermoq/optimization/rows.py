"""Row gains and biases in all the forms that a layer may choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from thermoq.optimization.choice import mean_error_by_purpose, mean_output_error
from thermoq.optimization.coupling import couple
from thermoq.optimization.inputs import Floats, Inputs, Rows, has_distinct, quantized_inputs
from thermoq.optimization.row_fit import (
    LEAST_DISTINCT_ROWS,
    RowFit,
    RowMoments,
    fit_rows,
    gain_variance,
    merged,
    moments_of,
    with_gain,
)
from thermoq.terms import GainEstimator, RowChoice
from thermoq.time_parameters import TimeParameters

_CHOSEN_OUTPUTS: Final = 512  # on which the choice is made: many more say nothing more


@dataclass(frozen=True)
class QuantizedOutputs:
    """A layer's outputs y = W x and y^ = W^ x~; `activation_bits` is a.

    x is what the full-precision layer gets, x~ what the quantized one makes of what it gets.
    """

    weights: Rows
    decoded: Rows
    activation: TimeParameters
    activation_bits: int

    def of(self, inputs: Sequence[Inputs], outputs: slice) -> list[tuple[Rows, Rows]]:
        """Return y and y^ of each group's rows, for some of the layer's outputs."""
        sizes = [len(part) for part in inputs]
        group = np.repeat(np.arange(len(inputs)), sizes)
        together = np.concatenate([part.given for part in inputs])
        apart = any(part.full is not part.given for part in inputs)
        full = np.concatenate([part.full for part in inputs]) if apart else together
        changed = quantized_inputs(
            together,
            self.activation.scale[group],
            self.activation.zero_point[group],
            self.activation_bits,
        )
        y = full @ self.weights[outputs].T
        q = changed @ self.decoded[outputs].T
        ends = np.cumsum(sizes)[:-1]
        return list(zip(np.split(y, ends), np.split(q, ends), strict=True))


class RowOptions:
    """Row parameters of all three forms, fitted, and what they do on held-out rows."""

    def __init__(
        self,
        layer: QuantizedOutputs,
        fitted: Sequence[Inputs],
        held_out: Sequence[Inputs],
        estimator: GainEstimator,
        coupling: float,
        seed: int,
    ) -> None:
        self._layer, self._held_out = layer, held_out
        self._estimator, self._coupling, self._seed = estimator, coupling, seed
        self.tau_squared: float | None = None
        self.options: dict[RowChoice, list[RowFit] | None] = {"none": None}
        self.possible = any(len(rows) for rows in fitted) and any(len(rows) for rows in held_out)
        if not self.possible:
            return
        groups, variances = self._moments(fitted)
        together = merged([part for part in groups if part is not None])
        if not together.distinct:
            rows = np.concatenate([part.given for part in fitted])
            distinct = has_distinct(rows, LEAST_DISTINCT_ROWS)
            together = replace(together, distinct=distinct)
        self.options["pooled"] = [fit_rows(together, self._estimator)]
        if len(groups) > 1:
            self.options["per_time_group"] = self._per_group(groups, variances)

    def errors(self) -> tuple[dict[RowChoice, float], dict[RowChoice, float]]:
        """Return the errors on held-out rows that decide, and those of the output."""
        outputs = slice(None, None, -(-len(self._layer.weights) // _CHOSEN_OUTPUTS))
        where = [g for g, rows in enumerate(self._held_out) if len(rows)]
        pairs = self._layer.of(self._held_out, outputs)
        moments = [moments_of(*pairs[g]) for g in where]
        deciding: dict[RowChoice, float] = {}
        plain: dict[RowChoice, float] = {}
        for choice, fits in self.options.items():
            part = None if fits is None else [_part(fit, outputs) for fit in fits]
            if part is not None and len(part) > 1:
                part = [part[g] for g in where]
            deciding[choice] = mean_error_by_purpose(moments, part, self._estimator)
            plain[choice] = mean_output_error(moments, part)
        return deciding, plain

    def _moments(
        self, fitted: Sequence[Inputs]
    ) -> tuple[list[RowMoments | None], list[Floats | None]]:
        groups: list[RowMoments | None] = []
        variances: list[Floats | None] = []
        couples = len(fitted) > 1
        for rows, (y, q) in zip(fitted, self._layer.of(fitted, slice(None)), strict=True):
            if not len(rows):
                groups.append(None)
                variances.append(None)
                continue
            distinct = has_distinct(rows.given, LEAST_DISTINCT_ROWS)
            groups.append(moments_of(y, q, distinct=distinct))
            variances.append(
                gain_variance(y, q, self._estimator, self._seed) if couples and distinct else None
            )
        return groups, variances

    def _per_group(
        self, groups: Sequence[RowMoments | None], variances: Sequence[Floats | None]
    ) -> list[RowFit]:
        num_outputs = len(self._layer.weights)
        unknown = RowFit(
            np.ones(num_outputs), np.zeros(num_outputs), np.zeros(num_outputs, np.bool_)
        )
        fits = [unknown if m is None else fit_rows(m, self._estimator) for m in groups]
        nothing = np.full(num_outputs, np.inf)
        coupled = couple(
            np.stack([fit.gain for fit in fits], axis=1),
            np.stack([nothing if v is None else v for v in variances], axis=1),
            self._coupling,
            np.ones(len(fits) - 1, np.bool_),
            np.stack([fit.fitted for fit in fits], axis=1),
        )
        self.tau_squared = coupled.tau_squared
        return [
            fit if m is None else with_gain(m, gain, fit.fitted)
            for fit, m, gain in zip(fits, groups, coupled.values.T, strict=True)
        ]


def _part(fit: RowFit, outputs: slice) -> RowFit:
    return RowFit(fit.gain[outputs], fit.bias[outputs], fit.fitted[outputs])
