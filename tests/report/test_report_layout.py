"""Layout arithmetic of the page: wording of figures, axes, colours, order of layers, charts."""

from __future__ import annotations

import itertools
import random
import re
from typing import get_args

import pytest
from report_examples import calibrated_report, example_report
from thermoq.expectations import PHASE_2_TARGET, PHASE_3_TARGET, band_of
from thermoq.report import wording
from thermoq.report.charts import (
    BAND_LIMITS,
    PHASE_TARGETS,
    boundary_chart,
    byte_bars,
    score_ruler,
)
from thermoq.report.html import render_html
from thermoq.report.order import block_of, network_order
from thermoq.report.profile import cell_title, layer_profile
from thermoq.report.ranges import range_chart
from thermoq.report.scales import Axis, decade_axis, even_steps, heat_scale, ratio_steps
from thermoq.report.trajectory import scale_chart, time_bands, zero_point_chart
from thermoq.terms import ParameterSource, Severity


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7234, "0.7234"),
        (1.0, "1.0000"),
        (0.99999, "0.9999"),
        (0.0, "0.0000"),
        (0.00001, "1.00e-5"),
        (None, "not available"),
        (-0.99999, "-0.9999"),
        (-0.00001, "-1.00e-5"),
    ],
)
def test_fixed_never_rounds_to_perfection(value, text):
    assert wording.fixed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (0.00009999, "0.000100"),
        (0.00005, "5.00e-5"),
        (9.9999, "10.0"),
        (12345.6, "12,346"),
        (4.56e-7, "4.56e-7"),
        (1.5e12, "1.50e12"),
        (-2.5, "-2.50"),
        (None, "not available"),
    ],
)
def test_significant(value, text):
    assert wording.significant(value) == text


def test_sizes_times_shapes_and_counts():
    assert [wording.size(n) for n in (0, 999, 34_200_000, 2_720_000_000)] == [
        "0 B",
        "999 B",
        "34.2 MB",
        "2.72 GB",
    ]
    assert [wording.duration(s) for s in (0.0123, 59.94, 187, 7320)] == [
        "0.0123 s",
        "59.9 s",
        "3 min 7 s",
        "2 h 2 min",
    ]
    assert [wording.shape(s) for s in ([], [3], [2, 3])] == ["scalar", "3", "2 x 3"]
    assert [wording.timestep(t) for t in (749.0, 749.25)] == ["749", "749.2"]
    assert wording.counted(1, "boundary", "boundaries") == "1 boundary"
    assert wording.counted(1234, "layer") == "1,234 layers"


@pytest.mark.parametrize("length", [5, 12, 40])
def test_a_shortened_name_keeps_its_end(length):
    name = "transformer_blocks.10.attn1.to_q"
    short = wording.shortened(name, length)
    assert len(short) <= length
    assert name.endswith(short.split("…")[-1])


def test_every_source_and_severity_has_its_words():
    assert set(wording.SOURCE_NOTES) == set(get_args(ParameterSource))
    assert set(wording.SEVERITY_WORDS) == set(get_args(Severity))


def test_axes():
    assert Axis(999, 0).percent(999) == 0
    assert Axis(999, 0).percent(0) == 100
    assert Axis(0, 10).percent(25) == 100
    assert Axis(1, 100, "log").percent(10) == pytest.approx(50)
    assert Axis(1, 100, "log").percent(0) == 0
    assert Axis(5, 5).percent(5) == 0
    assert even_steps(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert even_steps(0, 0) == [0]
    assert ratio_steps(0.5, 8) == [0.5, 1, 2, 4, 8]
    assert ratio_steps(0.99, 1.01) == [0.99, 0.995, 1.0, 1.005, 1.01]
    assert ratio_steps(2.0**-40, 1)[-1] == 1
    assert decade_axis([0.0, 3e-5, 0.2])[1] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert len(decade_axis([])[1]) == 2


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0])
def test_heat_steps_rise_and_change_hue_at_the_threshold(threshold):
    heat = heat_scale(threshold)
    jumps = [i / 1000 for i in range(1001)]
    steps = [heat.step(jump) for jump in jumps]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert max(steps) <= 7
    for jump, step in zip(jumps[1:], steps[1:], strict=True):
        assert (step >= 5) == (jump > threshold)
    legend = [step for step, _ in heat.legend()]
    assert legend == sorted(set(legend))
    assert set(steps) <= set(legend)


ORDERS = [
    [  # a diffusion transformer
        "pos_embed.proj",
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.0.attn1.to_k",
        "transformer_blocks.0.attn1.to_v",
        "transformer_blocks.0.attn1.to_out.0",
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.2.attn1.to_q",
        "transformer_blocks.10.attn1.to_q",
        "proj_out_1",
        "proj_out_2",
    ],
    [  # double and single stream
        "context_embedder",
        "x_embedder",
        "transformer_blocks.1.attn.to_q",
        "single_transformer_blocks.0.attn.to_q",
        "norm_out.linear",
        "proj_out",
    ],
    [  # a U-Net
        "conv_in",
        "time_embedding.linear_1",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.2.resnets.0.conv1",
        "mid_block.attentions.0.proj_in",
        "up_blocks.0.resnets.0.conv1",
        "conv_out",
    ],
    [  # a language model
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.9.mlp.up_proj",
        "model.layers.10.mlp.up_proj",
        "lm_head",
    ],
    [  # LLaDA
        "model.transformer.wte",
        "model.transformer.blocks.0.q_proj",
        "model.transformer.blocks.0.ff_out",
        "model.transformer.ff_out",
    ],
]


@pytest.mark.parametrize("names", ORDERS)
def test_layers_come_as_the_network_runs(names):
    layer = example_report(num_layers=1).layers[0]
    rows = [layer.model_copy(update={"name": f"{name}.weight"}) for name in names]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert [row.name for row in network_order(shuffled)] == [row.name for row in rows]


def test_components_are_kept_together():
    rows = network_order(example_report(components=("b", "a"), num_layers=20).layers)
    assert [row.component for row in rows] == ["b"] * 10 + ["a"] * 10


def test_any_name_can_be_ordered():
    layer = example_report(num_layers=1).layers[0]
    names = ["", ".", "0", "1.", "a.1.b", "a.b", "²", "a.²", "1.a", "a1b2"]
    rows = [layer.model_copy(update={"name": name}) for name in names]
    assert sorted(row.name for row in network_order(rows)) == sorted(names)
    assert block_of("down_blocks.0.resnets.1.conv1.weight") == "down_blocks.0"
    assert block_of("proj_out.weight") == "proj_out"


def test_boundary_bars_stand_for_the_reports_values():
    chart = boundary_chart(example_report())
    for slot in chart.slots:
        assert slot.score_top == pytest.approx(100 * (1 - slot.boundary.score), abs=1e-2)
        assert (slot.scale_top < chart.threshold_top) == (slot.boundary.severity is not None)
    assert [slot.middle for slot in chart.slots] == pytest.approx([16.667, 50, 83.333], abs=1e-2)


def test_time_runs_from_noise_to_clean():
    bands = time_bands(example_report(num_time_groups=4))
    assert [band.left for band in bands] == pytest.approx([0, 25, 50, 75], abs=0.1)
    assert sum(band.width for band in bands) == pytest.approx(100)


def test_scales_are_ratios_to_the_first_time_group():
    report = example_report()
    chart = scale_chart(report)
    assert [line.values[0] for line in chart.lines] == [1.0] * 23
    weights = [row.num_weights for row in report.layers]
    last = [row.time_parameters.scale[3] / row.time_parameters.scale[0] for row in report.layers]
    expected = sum(w * v for w, v in zip(weights, last, strict=True)) / sum(weights)
    assert chart.mean[3] == pytest.approx(expected)
    assert chart.lines[0].path.startswith("M0 ")
    assert chart.lines[0].path.endswith("H1000")


def with_scale(report, index, **changes):
    parameters = report.layers[index].time_parameters.model_copy(update=changes)
    layers = list(report.layers)
    layers[index] = layers[index].model_copy(update={"time_parameters": parameters})
    return report.model_copy(update={"layers": layers})


def test_a_layer_without_a_first_scale_is_left_out_and_counted():
    report = with_scale(example_report(), 3, scale=[0.0, 1.0, 1.0, 1.0])
    chart = scale_chart(report)
    assert (len(chart.lines), chart.left_out) == (22, 1)


def test_a_scale_that_falls_to_zero_reaches_the_bottom():
    chart = scale_chart(with_scale(example_report(), 3, scale=[1.0, 0.0, 1.0, 1.0]))
    assert "V1000" in chart.lines[3].path


def test_zero_points_are_drawn_only_where_they_move():
    report = example_report()
    assert zero_point_chart(report) is None
    chart = zero_point_chart(with_scale(report, 2, zero_point=[128.0, 100.0, 90.0, 0.0]))
    assert chart.lines[2].values == [128.0, 100.0, 90.0, 0.0]
    assert chart.value_ticks[-1].percent == 0


def test_zero_points_of_other_bits_are_shares_of_their_codes():
    report = with_scale(example_report(), 2, zero_point=[15.0, 3.0, 3.0, 0.0], activation_bits=4)
    chart = zero_point_chart(report)
    assert chart.bits is None
    assert chart.lines[2].values == [1.0, 0.2, 0.2, 0.0]
    assert chart.lines[3].values == [128 / 255] * 4
    assert [tick.percent for tick in chart.value_ticks] == [100, 75, 50, 25, 0]
    assert "as a share of the largest code" in render_html(report)
    same = zero_point_chart(with_scale(report, 2, zero_point=[9.0, 3.0, 3.0, 0.0]))
    assert same.bits is None
    assert same.lines[2].values == [0.6, 0.2, 0.2, 0.0]


def test_the_rulers_bands_and_targets_are_the_assessments():
    for name, limit in BAND_LIMITS:
        assert band_of(limit - 1e-9) == name
    assert [limit for _, limit in PHASE_TARGETS] == [PHASE_2_TARGET, PHASE_3_TARGET]
    ruler = score_ruler(example_report())
    assert [band.name for band in ruler.bands if band.holds_score] == ["excellent"]
    assert score_ruler(example_report(kappa_scale=1e6)).score_left >= 0


def test_no_charts_over_time_without_time():
    for options in ({"validation": False}, {"time_parameters": False}, {"num_time_groups": 1}):
        report = example_report(**options)
        assert boundary_chart(report) is None
        assert scale_chart(report) is None
        assert zero_point_chart(report) is None
    assert score_ruler(example_report(time_parameters=False)) is None


def test_the_profile_shows_the_larger_jump():
    report = with_scale(example_report(), 0, zero_point_jump=[0.9, 0.0, 0.0])
    profile = layer_profile(report)
    first = profile.rows[0]
    jumps = report.layers[0].time_parameters.scale_jump
    assert [cell.jump for cell in first.cells] == [0.9, jumps[1], jumps[2]]
    assert first.worst.boundary == 0
    assert cell_title(first, first.cells[0]) == "pos_embed.proj.weight\nboundary 0: 0.900"
    assert all(row.label for row in profile.rows)


def test_a_large_profile_stays_compact_and_labels_blocks():
    profile = layer_profile(example_report(num_layers=400, num_time_groups=20))
    assert profile.height <= 1300
    labels = [row.label for row in profile.rows if row.label]
    assert "transformer_blocks.7" in labels
    tops = [row.top for row in profile.rows if row.label]
    assert min(b - a for a, b in itertools.pairwise(tops)) >= 12


def test_very_many_cells_are_merged_without_losing_the_worst():
    report = example_report(num_layers=100, num_time_groups=400)
    profile = layer_profile(report)
    assert profile.merged
    for row in profile.rows:
        jumps = row.layer.time_parameters.scale_jump
        assert row.worst.jump == max(jumps)
        assert [cell.run[0] for cell in row.cells[1:]] == [
            cell.run[1] + 1 for cell in row.cells[:-1]
        ]
        assert row.cells[-1].run[1] == len(jumps) - 1


def test_byte_bars_add_up_to_the_files():
    report = example_report()
    source, stored, enlarged = byte_bars(report)
    assert source.total == report.sizes.source_bytes
    assert stored.total == enlarged.total == report.sizes.model_bytes
    assert sum(segment.width for segment in enlarged.segments) == pytest.approx(100, abs=0.01)
    share = 100 * stored.total / source.total
    assert sum(segment.width for segment in stored.segments) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0000"), (0.99999, "0.99999"), (0.9531, "0.9531"), (0.0, "0.0000"), (-1.0, "-1.0000")],
)
def test_close_to_one_is_not_one(value, text):
    assert wording.close_to_one(value) == text


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (
            "thermoq baseline --no-validation --model m --output o",
            "thermoq baseline --model m --output o --validation --overwrite",
        ),
        (
            "thermoq.quantize('m', 'o')",
            "thermoq.quantize('m', 'o', validation=True, overwrite=True)",
        ),
    ],
)
def test_a_command_with_validation(command, again):
    assert wording.with_validation(command) == again


def test_a_strip_is_the_outline_of_its_range():
    report = calibrated_report(num_layers=3, num_time_groups=2, num_bins=4)
    chart = range_chart(report)
    assert [strip.name for strip in chart.strips] == [row.name for row in report.layers]
    assert chart.edges == [pytest.approx(100 * 500 / 999, abs=0.01)]
    strip = chart.strips[0]
    numbers = [int(number) for number in re.findall(r"-?\d+", strip.path)]
    assert min(numbers) == 0
    assert max(numbers) == 1000
    assert strip.path.startswith("M0 ")
    assert strip.path.endswith("Z")
    assert strip.path.count("H") == 2 * len(strip.low)
    top, bottom = max(strip.high), min(strip.low)
    assert strip.zero == pytest.approx(1000 * top / (top - bottom), abs=1)
    widths = [high - low for low, high in zip(strip.low, strip.high, strict=True)]
    assert strip.change == min(widths) / max(widths)


def test_an_input_of_zeros_has_a_flat_strip():
    report = calibrated_report(num_layers=1)
    (row,) = report.layers
    zeros = {"bin_minimum": [0.0] * 20, "bin_maximum": [0.0] * 20}
    row = row.model_copy(update={"time_parameters": row.time_parameters.model_copy(update=zeros)})
    (strip,) = range_chart(report.model_copy(update={"layers": [row]})).strips
    assert (strip.zero, strip.change) == (0, 1.0)


def test_no_strips_without_a_calibration_or_validation():
    assert range_chart(example_report()) is None
    assert range_chart(calibrated_report(validation=False)) is None
    assert range_chart(calibrated_report(time_parameters=False)) is None


def test_how_a_calibration_came_to_be():
    summary = calibrated_report().calibration
    assert wording.calibration_text(summary) == (
        "64 samples in 50 steps of DDIMScheduler, 20 bins, seed 3"
    )
    mixed = summary.model_copy(update={"data_share": 0.5, "guidance": 4.0, "num_samples": 1})
    assert wording.calibration_text(mixed) == (
        "1 sample in 50 steps of DDIMScheduler, 20 bins, seed 3, guidance 4, 50% of the samples "
        "from given data"
    )
