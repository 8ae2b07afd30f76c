"""Runs with a calibration: measured parameters in the report, the checkpoint and the page."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from thermoq.calibration.file import Calibration, read_calibration, write_calibration
from thermoq.calibration.noise import noise_levels
from thermoq.errors import InputError, UsageError
from thermoq.report.html import render_html
from thermoq.report.json import read_json, to_json
from thermoq.report.log import render_log
from thermoq.report.model import Report
from thermoq.report.wording import counted
from thermoq.schedule import schedule_for
from thermoq.stored_report import stored_report

COMPONENT = "transformer"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.dit(tmp_path / "model")


@pytest.fixture
def calibration(model: Path, tmp_path: Path) -> Path:
    calibrated(model, tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def run(model: Path, output: Path, calibration: Path | None, **settings: object) -> Report:
    return thermoq.baseline(model, output, calibration=calibration, **settings)


def expected_range(calibration: Calibration, layer: str, bins: slice) -> tuple[float, float]:
    source = calibration.input_of(layer)
    assert source is not None
    return (
        min(0.0, float(source.minimum[bins].min())),
        max(0.0, float(source.maximum[bins].max())),
    )


def test_parameters_are_those_of_the_calibration(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    report = run(model, tmp_path / "out", calibration, num_time_groups=5)
    assert report.parameter_source == "calibration"
    written = read_calibration(calibration)
    timed = [row for row in report.layers if row.time_parameters is not None]
    assert len(timed) == sum(row.in_headline for row in report.layers) > 20
    for row in timed:
        assert row.time_parameters is not None
        assert row.time_parameters.spectral_concentration is None
        for group in range(5):
            bins = slice(4 * group, 4 * group + 4)
            low, high = expected_range(written, f"{row.component}/{row.name}", bins)
            scale = row.time_parameters.scale[group]
            assert scale == pytest.approx((high - low) / 255, rel=2**-10)
            assert row.time_parameters.zero_point[group] == round(-low / scale)
    thermodynamics = report.thermodynamics
    assert thermodynamics is not None
    starts = [row.start_timestep for row in thermodynamics.time_groups]
    assert starts == [999, 799, 599, 399, 199]
    assert report.calibration is not None
    assert len(report.calibration.bin_starts) == 20
    assert report.calibration.num_layers == len(timed)
    assert report.sampling_steps == report.calibration.steps == 25
    assert run(model, tmp_path / "o", calibration, sampling_steps=7).sampling_steps == 7
    assert report.provenance.calibration_fingerprint == written.fingerprint


def test_the_score_follows_from_the_parameters(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    report = run(model, tmp_path / "out", calibration)
    timed = [row for row in report.layers if row.time_parameters is not None]
    weights = np.array([row.num_weights for row in timed], float)
    scale = np.array([row.time_parameters.scale for row in timed if row.time_parameters])
    zero = np.array([row.time_parameters.zero_point for row in timed if row.time_parameters])
    jumps = np.minimum(np.abs(np.diff(scale)) / scale[:, :-1], 1) + np.abs(np.diff(zero)) / 255
    score = 1 - np.average(jumps, axis=0, weights=weights).mean() / 2
    assert report.smoothness_score == pytest.approx(score, rel=1e-12)
    prior = run(model, tmp_path / "prior", None)
    assert prior.smoothness_score != report.smoothness_score
    assert [row.relative_squared_error for row in prior.layers] == [
        row.relative_squared_error for row in report.layers
    ]


def test_the_checkpoint_carries_them(model: Path, calibration: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    given = {"activation_bits": 4, "sensitive_activation_bits": 8}
    report = run(model, output, calibration, **given)
    tensors = models.read_tensors(output / COMPONENT)
    manifest = json.loads((output / COMPONENT / "thermoq.json").read_text())
    assert manifest["activation_bits"] == 4
    carried = 0
    for row in report.layers:
        names = [f"{row.name}.activation_scale", f"{row.name}.activation_zero_point"]
        entry = manifest["tensors"][row.name]
        if row.time_parameters is None:
            assert not any(name in tensors for name in names)
            assert "activation_sha256" not in entry
            continue
        (dtype, shape, scale), (zero_dtype, zero_shape, zero) = (tensors[name] for name in names)
        assert (dtype, zero_dtype, shape, zero_shape) == ("F16", "U8", (4,), (4,))
        assert np.frombuffer(scale, "<f2").tolist() == row.time_parameters.scale
        assert list(zero) == row.time_parameters.zero_point
        bits = 4 if row.layer_class == "body" else 8
        assert row.time_parameters.activation_bits == bits
        assert entry.get("activation_bits", 4) == bits
        assert max(zero) < 2**bits
        assert entry["activation_sha256"] == hashlib.sha256(scale + zero).hexdigest()
        carried += len(scale + zero)
    shared = [row for row in report.layers if row.same_as]
    assert shared
    assert all(row.stored_bytes == 12 for row in shared if row.time_parameters)
    assert carried > 0
    sizes = report.sizes
    assert sizes.model_bytes == sizes.quantized_bytes + sizes.copied_bytes + sizes.header_bytes
    assert "calibration" not in manifest["report"]["settings"]
    assert thermoq.verify(output).nbytes == sizes.quantized_bytes + sizes.copied_bytes
    found = {tensor.name: tensor.stored_bytes for tensor in thermoq.inspect(output).tensors}
    assert all(found[row.name] == row.stored_bytes for row in report.layers)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"body": 8, "modulation": 8, "sensitive": 8}),
        ({"activation_bits": 4}, {"body": 4, "modulation": 8, "sensitive": None}),
        (
            {"activation_bits": 4, "sensitive_activation_bits": "8"},
            {"body": 4, "modulation": 8, "sensitive": 8},
        ),
        ({"sensitive_activation_bits": 4}, {"body": 8, "modulation": 8, "sensitive": 4}),
        (
            {"activation_bits": 4, "layers": [{"match": "*norm1.linear*", "activation_bits": 4}]},
            {"body": 4, "modulation": 8, "sensitive": None, "*norm1.linear*": 4},
        ),
        (
            {"layers": [{"match": "*attn*", "activation_bits": "none"}]},
            {"body": 8, "modulation": 8, "sensitive": 8, "*attn*": None},
        ),
    ],
)
def test_layers_have_the_bits_of_their_class_or_rule(
    model: Path,
    calibration: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    expected: dict[str, int | None],
) -> None:
    output = tmp_path / "out"
    report = run(model, output, calibration, **settings)
    manifest = json.loads((output / COMPONENT / "thermoq.json").read_text())
    usual = manifest["activation_bits"]
    assert usual == report.activation_bits == settings.get("activation_bits", 8)
    written = read_calibration(calibration)
    (trajectory,) = thermoq.inspect(output).trajectories
    inspected = {tensor.name: tensor.activation_bits for tensor in thermoq.inspect(output).tensors}
    planned = {t.name: t.activation_bits for t in thermoq.inspect(model, **settings).tensors}
    assert planned == inspected
    *_, pattern = expected
    counts: Counter[int] = Counter()
    for row in report.layers:
        bits = expected.get(row.layer_class)
        if fnmatch(row.name, pattern):
            bits = expected[pattern]
        assert inspected[row.name] == bits
        entry = manifest["tensors"][row.name]
        assert entry.get("activation_bits") == (None if bits == usual else bits)
        assert ("activation_sha256" in entry) == (bits is not None)
        if bits is None:
            assert row.time_parameters is None
            continue
        counts[bits] += 1
        assert row.time_parameters is not None
        assert row.time_parameters.activation_bits == bits
        low, high = expected_range(written, f"{row.component}/{row.name}", slice(0, 5))
        scale = row.time_parameters.scale[0]
        assert scale == pytest.approx((high - low) / (2**bits - 1), rel=2**-10)
    assert trajectory.num_activations == counts.total()
    assert trajectory.other_activations == {b: n for b, n in counts.items() if b != usual}
    assert report.calibration is not None
    assert report.calibration.not_measured == []
    thermoq.verify(output)
    again = stored_report(output)
    assert [row.time_parameters for row in again.layers] == [
        row.time_parameters for row in report.layers
    ]
    left = sum(row.in_headline and row.time_parameters is None for row in report.layers)
    others = [f"{b} in {counted(n, 'layer')}" for b, n in sorted(counts.items()) if b != usual]
    others += [f"none in {counted(left, 'layer')}"] if left else []
    line = f"activation bits: {', '.join([str(usual), *others])}"
    assert f"{line}\n" in render_log(report)
    shown = f" ({', '.join(others)})" if others else ""
    assert f"<span>{usual}-bit activations{shown}</span>" in render_html(report)


def test_a_rule_for_inputs_of_tables_warns(model: Path) -> None:
    rule = {"match": "*embedding_table*", "activation_bits": 4}
    (note,) = thermoq.inspect(model, layers=[rule]).notes
    assert note == (
        "layers: pattern '*embedding_table*' sets activation_bits 4, but what it matches has no "
        "inputs to quantize, such as "
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight (embedding table)"
    )


def test_without_a_calibration_it_carries_none(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", None)
    assert not any(
        "activation" in name for name in models.read_tensors(tmp_path / "out/transformer")
    )
    manifest = json.loads((tmp_path / "out/transformer/thermoq.json").read_text())
    assert "activation_bits" not in manifest


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", b"\0\x7e", "expected finite values, got 1 that are not"),
        ("scale", b"\0\xbc", "expected scales >= 0, got -1"),
        ("scale", b"\0\x3c", "of its activation parameters, got"),
        ("zero_point", b"\x10", "expected zero points below 16, got 16"),
        ("zero_point", b"\x01", "of its activation parameters, got"),
    ],
)
def test_verify_reads_them(
    model: Path, calibration: Path, tmp_path: Path, name: str, value: bytes, message: str
) -> None:
    output = tmp_path / "out"
    run(model, output, calibration, layers=[{"match": "proj_out_1*", "activation_bits": 4}])
    path = output / COMPONENT / "diffusion_pytorch_model.safetensors"
    tensor = f"proj_out_1.weight.activation_{name}"

    def change(tensors: models.Tensors) -> models.Tensors:
        dtype, shape, data = tensors[tensor]
        assert not data.startswith(value)
        return {**tensors, tensor: (dtype, shape, value + data[len(value) :])}

    models.replace_tensors(path, change)
    with pytest.raises(InputError, match=r"proj_out_1\.weight") as raised:
        thermoq.verify(output)
    assert message in str(raised.value)


def test_missing_parameters_are_found(model: Path, calibration: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", calibration)
    path = tmp_path / "out" / COMPONENT / "diffusion_pytorch_model.safetensors"
    gone = "proj_out_1.weight.activation_zero_point"
    models.replace_tensors(path, lambda all: {n: t for n, t in all.items() if n != gone})
    with pytest.raises(InputError, match=r"proj_out_1\.weight\.activation_zero_point': missing"):
        thermoq.verify(tmp_path / "out")


def test_export_passes_over_them(model: Path, calibration: Path, tmp_path: Path) -> None:
    for name, given in (("a", calibration), ("b", None)):
        run(model, tmp_path / name, given)
        thermoq.export(tmp_path / name, tmp_path / f"{name}-dense")
    assert models.tree(tmp_path / "a-dense") == models.tree(tmp_path / "b-dense")


def test_the_same_calibration_gives_the_same_bytes(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    for name, threads in (("a", 1), ("b", 4)):
        elsewhere = tmp_path / f"{name}.safetensors"
        elsewhere.write_bytes(calibration.read_bytes())
        run(model, tmp_path / name, elsewhere, threads=threads)
    assert models.tree(tmp_path / "a") == models.tree(tmp_path / "b")


def test_adaptive_groups(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "out", calibration, grouping="adaptive")
    assert report.thermodynamics is not None
    starts = [row.start_timestep for row in report.thermodynamics.time_groups]
    edges = read_calibration(calibration).bins.starts
    assert set(starts) <= set(edges)
    assert starts != [999, 749, 499, 249]
    manifest = json.loads((tmp_path / "out" / COMPONENT / "thermoq.json").read_text())
    assert manifest["time_groups"]["time_group_starts"] == starts


def test_layers_that_were_not_calibrated(model: Path, tmp_path: Path) -> None:
    left_out = [f"{COMPONENT}/proj_out_1.weight", f"{COMPONENT}/proj_out_2.weight"]
    calibrated(model, tmp_path / "c", left_out=left_out)
    report = run(model, tmp_path / "out", tmp_path / "c")
    rows = {row.name: row for row in report.layers}
    assert rows["proj_out_1.weight"].time_parameters is None
    assert report.calibration is not None
    assert report.calibration.not_measured == left_out
    assert report.warnings[-1] == (
        "calibration: 2 layers were not reached or left out, and have no time parameters: "
        "transformer/proj_out_1.weight, transformer/proj_out_2.weight"
    )
    assert "not reached or left out" in render_html(report)
    thermoq.verify(tmp_path / "out")


def test_a_repeated_weight_has_the_parameters_of_its_own_input(model: Path, tmp_path: Path) -> None:
    """The DiT's embedders are stored once; what their copies see need not be the same."""
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"
    calibrated(model, tmp_path / "c", left_out=[f"{COMPONENT}/{name}"])
    report = run(model, tmp_path / "out", tmp_path / "c")
    rows = {row.name: row.time_parameters for row in report.layers}
    assert rows[name] is None
    first, third = rows[name.replace(".1.", ".0.")], rows[name.replace(".1.", ".2.", 1)]
    assert first is not None
    assert third is not None
    assert first.scale != third.scale


def test_few_visited_bins(model: Path, tmp_path: Path) -> None:
    calibrated(model, tmp_path / "c", visited=[2, 17])
    report = run(model, tmp_path / "out", tmp_path / "c")
    for row in report.layers:
        if row.time_parameters is not None:
            scale = row.time_parameters.scale
            assert (scale[0], scale[2]) == (scale[1], scale[3])


def test_as_many_groups_as_bins_and_no_more(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "out", calibration, num_time_groups=20)
    assert len(report.boundary_scores or []) == 19
    with pytest.raises(UsageError) as raised:
        run(model, tmp_path / "o", calibration, num_time_groups=21)
    assert str(raised.value) == (
        "expected --num-time-groups between 1 and 20 (the calibration's bins), got 21"
    )


def test_validation_off_still_writes_the_parameters(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    report = run(model, tmp_path / "out", calibration, validation=False)
    assert report.smoothness_score is None
    assert all(row.time_parameters is None for row in report.layers)
    tensors = models.read_tensors(tmp_path / "out" / COMPONENT)
    assert "proj_out_1.weight.activation_scale" in tensors
    assert "no calibration" not in render_html(report)


def test_a_calibration_of_another_model(model: Path, tmp_path: Path) -> None:
    calibrated(models.unet(tmp_path / "other"), tmp_path / "c")
    with pytest.raises(InputError, match="c: expected a calibration of"):
        run(model, tmp_path / "out", tmp_path / "c")
    assert not (tmp_path / "out").exists()


def test_a_calibration_over_another_schedule(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    path = model / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_train_timesteps": 500}))
    with pytest.raises(InputError) as raised:
        run(model, tmp_path / "out", calibration)
    assert str(raised.value) == (
        f"{calibration}: expected a calibration over the model's noise schedule (linear betas "
        "0.0001 to 0.02, T = 500 (DDIMScheduler)), got 'gaussian' with 1000 timesteps"
    )


def with_noise_of(path: Path, config: dict[str, Any] | None) -> None:
    """Note the schedule of a scheduler in a calibration; None: none, as old files have it."""
    written = read_calibration(path)
    update: dict[str, Any] = {"noise_levels": None, "schedule": ""}
    if config is not None:
        schedule = schedule_for(config, None)
        update = {"noise_levels": noise_levels(schedule), "schedule": schedule.description}
    description = written.description.model_copy(update=update)
    write_calibration(path, Calibration(description, written.inputs))


@pytest.mark.parametrize(
    ("changes", "timestep", "calibrated_noise", "noise"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "399.6", "0.8058", "0.3534"),
        ({"beta_end": 0.012}, "349.65", "0.7161", "0.5353"),
        ({"rescale_betas_zero_snr": True}, "349.65", "0.7161", "0.7193"),
    ],
)
def test_a_calibration_over_other_noise(
    model: Path,
    calibration: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    timestep: str,
    calibrated_noise: str,
    noise: str,
) -> None:
    path = model / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    with_noise_of(calibration, config)
    run(model, tmp_path / "same", calibration)
    path.write_text(json.dumps({**config, **changes}))
    changed = schedule_for({**config, **changes}, None)
    with pytest.raises(InputError) as raised:
        run(model, tmp_path / "out", calibration)
    assert str(raised.value) == (
        f"{calibration}: expected a calibration over the model's noise schedule "
        f"({changed.description}), got one over 'linear betas 0.0001 to 0.02, T = 1000 "
        f"(DDIMScheduler)': at timestep {timestep} its noise variance is {calibrated_noise}, the "
        f"model's {noise}; calibrate again"
    )
    assert not (tmp_path / "out").exists()


def test_schedules_that_do_not_matter(model: Path, calibration: Path, tmp_path: Path) -> None:
    path = model / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    with_noise_of(calibration, config)
    # Another sampler of the same chain.
    path.write_text(json.dumps({**config, "_class_name": "DDPMScheduler", "clip_sample": False}))
    run(model, tmp_path / "sampler", calibration)
    # The denoiser alone names no schedule; the one that is assumed for it proves nothing.
    run(model / COMPONENT, tmp_path / "alone", calibration)
    # Files of earlier versions do not say.
    with_noise_of(calibration, None)
    path.write_text(json.dumps({**config, "beta_end": 0.012}))
    run(model, tmp_path / "old", calibration)


def test_bins_that_nobody_visited(model: Path, tmp_path: Path) -> None:
    calibrated(model, tmp_path / "c", visited=range(7))
    report = run(model, tmp_path / "out", tmp_path / "c", num_time_groups=4)
    assert report.warnings[-1] == (
        "calibration: no forward pass came to 13 of 20 time bins, which take the ranges of the "
        "nearest others; 2 of 4 time groups have no other bins; `thermoq calibrate` with more "
        "--steps (these were 25) or fewer --bins leaves fewer empty"
    )
    calibrated(model, tmp_path / "c", visited=range(1, 20))
    report = run(model, tmp_path / "o", tmp_path / "c", num_time_groups=4)
    assert "came to 1 of 20 time bins" in report.warnings[-1]
    assert "time groups" not in report.warnings[-1]
    calibrated(model, tmp_path / "c")
    report = run(model, tmp_path / "all", tmp_path / "c")
    assert not [line for line in report.warnings if "forward pass" in line]


def test_the_calibration_is_not_written_over(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="expected a report outside"):
        run(model, tmp_path / "out", calibration, report=calibration)
    with pytest.raises(UsageError, match="one that holds"):
        run(model, tmp_path, calibration, overwrite=True)
    inside = tmp_path / "out"
    run(model, inside, calibration)
    (inside / "c").write_bytes(calibration.read_bytes())
    with pytest.raises(UsageError, match="one that holds"):
        run(model, inside, inside / "c", overwrite=True)


def test_a_budget_counts_them(model: Path, calibration: Path, tmp_path: Path) -> None:
    settings = {"calibration": calibration, "target_bits": 3.5}
    plan = thermoq.plan_quantization(model, **settings)
    report = thermoq.quantize(model, tmp_path / "out", **settings)
    assert report.sizes.bits_per_weight_quantized <= 3.5
    assert plan.model_bytes == report.sizes.model_bytes
    with pytest.raises(UsageError, match="target-bits: expected at least") as raised:
        thermoq.quantize(model, tmp_path / "o", calibration=calibration, target_bits=1)
    least = float(str(raised.value).split("at least ")[1].split()[0])
    smallest = thermoq.quantize(model, tmp_path / "o", calibration=calibration, target_bits=least)
    assert smallest.sizes.bits_per_weight_quantized <= least


def test_a_tensor_named_like_a_parameter(model: Path, tmp_path: Path) -> None:
    path = model / COMPONENT / "diffusion_pytorch_model.safetensors"
    name = "proj_out_1.weight.activation_scale"
    models.replace_tensors(path, lambda all: {**all, name: ("F32", (1,), b"\0" * 4)})
    calibrated(model, tmp_path / "c")
    run(model, tmp_path / "fine", None)
    with pytest.raises(InputError, match="expected a name that nothing else is stored under"):
        run(model, tmp_path / "out", tmp_path / "c")


# What the reports say.


def test_reports_tell_a_measurement_from_the_prior(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    measured = run(model, tmp_path / "a", calibration)
    prior = run(model, tmp_path / "b", None)
    for text in (render_html(measured), render_log(measured)):
        assert "calibration: measured along the trajectory" in text
        assert "a model, not a measurement" not in text
        assert "8 samples in 25 steps of ExampleScheduler, 20 bins, seed 0" in text
        assert "noise-schedule prior:" not in text
    page = render_html(prior)
    assert "noise-schedule prior: a model, not a measurement" in page
    assert "measured along the trajectory" not in page
    assert "no calibration" in page
    assert "Measured range" not in page
    assert prior.assessment is not None
    assert prior.assessment.next_command.startswith("thermoq calibrate --model ")
    assert (prior.assessment.then_command or "") in render_log(prior)
    assert measured.assessment is not None
    assert "calibrate" not in measured.assessment.next_command.split()[1]
    assert measured.assessment.then_command is None


def test_the_page_shows_each_layers_range(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "a", calibration)
    page = render_html(report)
    assert "Measured range of each layer" in page
    assert page.count('<td class="strip">') == sum(
        r.time_parameters is not None for r in report.layers
    )
    assert "Spectral concentration" not in page


def test_the_json_report_round_trips(model: Path, calibration: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "a", calibration, report=tmp_path / "r.json")
    assert to_json(read_json(tmp_path / "r.json")) == to_json(report)
    assert json.loads((tmp_path / "r.json").read_text())["parameter_source"] == "calibration"
