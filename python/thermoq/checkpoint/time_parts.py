"""The stored tensors of what varies along the trajectory: names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thermoq.checkpoint.writer import StoredPart
from thermoq.time_parameters import RowParameters, TimeParameters

OUTPUT_GAIN = "thermoq.output.time_gain"
OUTPUT_BIAS = "thermoq.output.time_bias"


def activation_parts(name: str, num_time_groups: int) -> tuple[StoredPart, ...]:
    """Return what holds the activation parameters of tensor `name`; nothing for no time groups."""
    if num_time_groups == 0:
        return ()
    return (
        StoredPart(f"{name}.activation_scale", "F16", (num_time_groups,)),
        StoredPart(f"{name}.activation_zero_point", "U8", (num_time_groups,)),
    )


def row_parts(name: str, num_sets: int, num_rows: int) -> tuple[StoredPart, ...]:
    """Return what holds `num_sets` gains and biases a row of `name`; nothing for no sets."""
    if num_sets == 0:
        return ()
    shape = (num_sets, num_rows)
    return (
        StoredPart(f"{name}.time_gain", "F16", shape),
        StoredPart(f"{name}.time_bias", "F16", shape),
    )


def activation_arrays(parameters: TimeParameters) -> list[NDArray[np.generic]]:
    """Return what `activation_parts` hold."""
    return [parameters.scale.astype(np.float16), parameters.zero_point.astype(np.uint8)]


def row_arrays(rows: RowParameters) -> list[NDArray[np.generic]]:
    """Return what `row_parts` hold."""
    return [rows.gain.astype(np.float16), rows.bias.astype(np.float16)]


def output_parts(num_bins: int, bias_shape: Sequence[int] | None) -> tuple[StoredPart, ...]:
    """Return what holds an output correction; `bias_shape` [bins, ...] is None without biases."""
    gain = StoredPart(OUTPUT_GAIN, "F16", (num_bins,))
    if bias_shape is None:
        return (gain,)
    return gain, StoredPart(OUTPUT_BIAS, "F16", tuple(bias_shape))
