"""Phase 3 of whole layers: the result against float64, and inputs that are not as wished for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrations import statistics_of
from optimization_layers import (
    Floats,
    Rows,
    drifting_rows,
    parameters_of,
    plain_inputs,
    sample_of,
    solved,
)
from thermoq.calibration.activation import measured_parameters
from thermoq.optimization import (
    LayerSample,
    OptimizationChoices,
    OptimizedLayer,
    layer_sample,
    optimize_layer,
)
from thermoq.optimization.inputs import split
from thermoq.optimization.row_fit import gain_variance, moments_of
from thermoq.rotation import Rotation

CHOICES = OptimizationChoices()


def output(sample: LayerSample, found: OptimizedLayer, group: int, rows: Rows) -> Floats:
    """What the quantized layer gives, as DESIGN section 3 has it."""
    scale, zero_point = found.activation.scale[group], found.activation.zero_point[group]
    changed = plain_inputs(rows, float(scale), float(zero_point), sample.activation_bits)
    y = changed.astype(np.float64) @ sample.decoded.T
    if found.rows is None:
        return y
    place = group if found.rows.num_groups > 1 else 0
    return found.rows.gain[place] * y + found.rows.bias[place]


def error(sample: LayerSample, found: OptimizedLayer, fresh: list[Rows]) -> float:
    parts = []
    for g, rows in enumerate(fresh):
        y = rows.astype(np.float64) @ sample.weights.T
        parts.append(np.square(output(sample, found, g, rows) - y).sum() / np.square(y).sum())
    return float(np.mean(parts))


@pytest.mark.parametrize("bits", [4, 8])
def test_gains_and_biases_are_those_of_float64(bits: int) -> None:
    """All of it once more: ranges given, moments, tau^2, the tridiagonal system, the biases."""
    sample = sample_of(drifting_rows(4, 80, 20, drift=2.0), bits=bits)
    choices = OptimizationChoices(coupling=2.0, choice="per_time_group", seed=5)
    found = optimize_layer(sample, choices)
    assert found.rows is not None
    gains, variances, means = [], [], []
    for g, rows in enumerate(sample.rows):
        x = split(rows)[0]
        y = x @ sample.weights.T
        scale, zero_point = found.activation.scale[g], found.activation.zero_point[g]
        q = plain_inputs(x, float(scale), float(zero_point), bits) @ sample.decoded.T
        variances.append(gain_variance(moments_of(y, q), "unbiased"))
        y, q = y.astype(np.float64), q.astype(np.float64)
        covariance = ((y - y.mean(0)) * (q - q.mean(0))).mean(0)
        gains.append(np.clip(y.var(0) / covariance, 0.5, 2).astype(np.float16))
        means.append((y.mean(0), q.mean(0)))
    theta, v = np.array(gains, np.float64).T, np.array(variances).T
    tau_squared = (np.square(np.diff(theta, axis=1)) - v[:, 1:] - v[:, :-1]).mean()
    assert tau_squared > 0
    assert found.gain_tau_squared == pytest.approx(tau_squared, rel=1e-3)
    for row, (t, variance) in enumerate(zip(theta, v, strict=True)):
        wanted = solved(t, variance, 2.0 / tau_squared)
        assert np.allclose(found.rows.gain[:, row], wanted, atol=2e-3)
        for g, (mean, quantized_mean) in enumerate(means):
            bias = mean[row] - found.rows.gain[g, row] * quantized_mean[row]
            assert found.rows.bias[g, row] == pytest.approx(bias, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_held_out_outputs_get_better(bits: int) -> None:
    rows = drifting_rows(4, 400, 32)
    sample = sample_of([part[:200] for part in rows], bits=bits)
    fresh = [part[200:] for part in rows]
    none = OptimizationChoices(fits_rows=False, clip_search=False, coupling=0.0)
    before = error(sample, optimize_layer(sample, none), fresh)
    found = optimize_layer(sample, CHOICES)
    after = error(sample, found, fresh)
    assert after < 0.85 * before
    # What it says of itself is what fresh rows see.
    assert found.output_errors[found.choice] == pytest.approx(after, rel=0.2)


def test_a_layer_that_drifts_chooses_time_groups_and_one_that_does_not_pools() -> None:
    drifting = optimize_layer(sample_of(drifting_rows(4, 300, 32, drift=1.0)), CHOICES)
    steady = optimize_layer(sample_of(drifting_rows(4, 300, 32, drift=0.0)), CHOICES)
    assert drifting.choice == "per_time_group"
    assert drifting.rows is not None
    assert drifting.rows.num_groups == 4
    assert steady.choice == "pooled"
    assert steady.rows is not None
    assert steady.rows.num_groups == 1


def test_codes_that_lose_nothing_need_nothing() -> None:
    found = optimize_layer(sample_of(drifting_rows(3, 100, 32), exact=True, bits=8), CHOICES)
    assert found.choice == "none"
    assert found.rows is None
    assert set(found.held_out_errors) == {"none", "pooled", "per_time_group"}


def test_one_time_group() -> None:
    found = optimize_layer(sample_of(drifting_rows(1, 100, 32)), CHOICES)
    assert set(found.held_out_errors) == {"none", "pooled"}
    assert found.choice == "pooled"
    assert found.log_scale_tau_squared is None
    assert found.gain_tau_squared is None


def test_fewer_than_sixteen_distinct_rows_leave_the_layer_alone() -> None:
    rows = [np.tile(part[:2], (50, 1)) for part in drifting_rows(4, 10, 32)]
    found = optimize_layer(sample_of(rows), CHOICES)
    assert found.choice == "none"
    forced = optimize_layer(sample_of(rows), replace(CHOICES, choice="per_time_group"))
    assert forced.rows is not None
    assert forced.fallback_rows == forced.row_values == 4 * 24
    assert (forced.rows.gain == 1).all()
    assert (forced.rows.bias == 0).all()


def test_with_one_time_group_its_rows_are_the_pooled_ones() -> None:
    rows = drifting_rows(1, 80, 32)
    grouped, pooled = (
        optimize_layer(sample_of(rows), replace(CHOICES, choice=choice))
        for choice in ("per_time_group", "pooled")
    )
    assert grouped.choice == "pooled"
    assert grouped.rows is not None
    assert pooled.rows is not None
    assert np.array_equal(grouped.rows.gain, pooled.rows.gain)


def test_constant_zero_inputs() -> None:
    rows = [np.zeros((60, 16), np.float32)] * 3
    found = optimize_layer(sample_of(rows), CHOICES)
    assert found.choice == "none"
    assert (found.activation.scale == 0).all()
    rows = [rows[0], *drifting_rows(2, 60, 16)]
    found = optimize_layer(sample_of(rows), replace(CHOICES, choice="per_time_group"))
    assert found.rows is not None
    assert found.activation.scale[0] == 0.0
    assert (found.rows.gain[0] == 1).all()
    assert (found.rows.bias[0] == 0).all()


def test_a_group_without_rows_keeps_its_range() -> None:
    rows = drifting_rows(3, 60, 16)
    given = parameters_of(rows, 8)
    sample = replace(sample_of(rows), rows=[rows[0], rows[1][:0], rows[2]], parameters=given)
    found = optimize_layer(sample, replace(CHOICES, choice="per_time_group"))
    assert found.activation.scale[1] == given.scale[1]
    assert found.rows is not None
    assert (found.rows.gain[1] == 1).all()
    nothing = optimize_layer(replace(sample, rows=[rows[0][:0]] * 3), CHOICES)
    assert nothing.choice == "none"
    assert np.array_equal(nothing.activation.scale, given.scale)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1e4, 1e17])
def test_huge_outliers(size: float, bits: int) -> None:
    rows = drifting_rows(3, 60, 16)
    for part in rows:
        part[::7, 3] = size
    found = optimize_layer(sample_of(rows, bits=bits), CHOICES)
    assert np.isfinite(found.activation.scale).all()
    assert all(np.isfinite(list(found.held_out_errors.values())))


def test_the_seed_decides() -> None:
    sample = sample_of(drifting_rows(4, 80, 32), outputs=100, bits=4)
    first, again = (optimize_layer(sample, CHOICES) for _ in range(2))
    assert first.rows is not None
    assert again.rows is not None
    assert np.array_equal(first.activation.scale, again.activation.scale)
    assert np.array_equal(first.rows.gain, again.rows.gain)
    assert first.held_out_errors == again.held_out_errors


def test_layers_with_a_row_per_sample_have_ranges_alone() -> None:
    sample = sample_of(drifting_rows(4, 80, 32), bits=4)
    found = optimize_layer(sample, replace(CHOICES, fits_rows=False))
    assert found.rows is None
    assert not found.held_out_errors
    assert found.searched_groups > 0


def test_a_sample_is_gathered_from_a_calibration() -> None:
    draw = np.random.default_rng(0)
    by_bin = {bin: draw.standard_normal((30, 32)).astype(np.float32) for bin in range(4)}
    source = statistics_of(by_bin, num_bins=4)
    groups = [slice(0, 1), slice(1, 4)]
    weights = draw.standard_normal((8, 32)).astype(np.float32)
    parameters = measured_parameters(source, groups, 8)
    found = layer_sample(source, groups, weights, weights, parameters, 8)
    assert [len(rows) for rows in found.rows] == [16, 48]
    assert found.seen == [30, 90]
    rotation = Rotation(1, 32)
    turned = layer_sample(source, groups, weights, weights, parameters, 8, rotate=rotation.forward)
    assert turned.seen == [16, 48]
    assert np.array_equal(turned.rows[0], rotation.forward(found.rows[0]))
    with pytest.raises(ValueError, match="expected weights and codes of one shape"):
        replace(found, rows=found.rows[:1])
