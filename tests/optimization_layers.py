"""Layers for tests of Phase 3: weights, what stands for their codes, and inputs that drift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from thermoq.calibration.activation import affine_parameters
from thermoq.optimization import LayerSample
from thermoq.time_parameters import TimeParameters

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


def drifting_rows(
    num_groups: int, num_rows: int, columns: int, *, drift: float = 0.5, seed: int = 0
) -> list[Rows]:
    """Correlated rows with a mean; both change from group to group by `drift`."""
    draw = np.random.default_rng(seed)
    first, second = draw.standard_normal((2, columns, columns)) / np.sqrt(columns)
    mean = draw.standard_normal(columns)
    found = []
    for g in range(num_groups):
        mixing = first + drift * g * second
        x = draw.standard_normal((num_rows, columns)) @ mixing
        found.append((x + mean * (1 - drift * g)).astype(np.float32))
    return found


def rough(weights: Rows, step: float = 0.9) -> Rows:
    """Weights rounded to multiples of `step` times their standard deviation, and shrunk."""
    size = step * float(weights.std() or 1.0)
    return (0.85 * size * np.rint(weights / size)).astype(np.float32)


def parameters_of(rows: list[Rows], bits: int) -> TimeParameters:
    """Min-max parameters of the rows, as Phase 1 has them; 0 of a group without rows."""
    low = np.array([min(0.0, float(x.min(initial=0.0))) for x in rows])
    high = np.array([max(0.0, float(x.max(initial=0.0))) for x in rows])
    scale, zero_point = affine_parameters(low, high, bits)
    return TimeParameters(scale, zero_point, "calibration")


def sample_of(
    rows: list[Rows], outputs: int = 24, bits: int = 8, *, seed: int = 0, exact: bool = False
) -> LayerSample:
    """A layer over these inputs; `exact` codes lose nothing."""
    draw = np.random.default_rng(seed + 100)
    weights = (0.1 * draw.standard_normal((outputs, rows[0].shape[1]))).astype(np.float32)
    decoded = weights if exact else rough(weights)
    return LayerSample(weights, decoded, rows, parameters_of(rows, bits), bits)


def plain_inputs(rows: Rows, scale: float, zero_point: float, bits: int) -> Rows:
    """DESIGN section 3, one operation at a time in f32."""
    if scale == 0:
        return np.zeros_like(rows)
    step, zero = np.float32(scale), np.float32(zero_point)
    codes = np.clip(np.rint(rows / step) + zero, np.float32(0), np.float32(2**bits - 1))
    return (codes - zero) * step


def solved(theta: Floats, variance: Floats, strength: float) -> Floats:
    """One chain's minimum, from the normal equations in dense form."""
    num = len(theta)
    difference = np.diff(np.eye(num), axis=0)
    normal = np.diag(1 / variance) + strength * difference.T @ difference
    found: Floats = np.linalg.solve(normal, theta / variance)
    return found
