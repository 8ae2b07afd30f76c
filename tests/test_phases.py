"""Phases 2 and 3 of a run: what they write, what they leave as it is, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibrations
import models
import numpy as np
import pytest
import thermoq
from thermoq import output_step
from thermoq.activations import Activations, measured_activations
from thermoq.calibration import packages
from thermoq.calibration.file import read_calibration
from thermoq.checkpoint import MappedFiles, open_checkpoint, stored_tensors
from thermoq.checkpoint.quantized import QuantizedComponent, open_quantized
from thermoq.config import load_config
from thermoq.errors import UsageError
from thermoq.interpolation import smoothed
from thermoq.optimization import OptimizationChoices, layer_sample, optimize_layer
from thermoq.output_correction import OutputCorrection
from thermoq.schedule import schedule_for, uniform_time_groups
from thermoq.time_parameters import TimeParameters
from thermoq.weights import dequantize

TIME_SUFFIXES = ("activation_scale", "activation_zero_point", "time_gain", "time_bias")
Make = Callable[..., tuple[Path, thermoq.Report]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Quantize the model of a name, calibrated, once for the same settings."""
    root = tmp_path_factory.mktemp("phases")
    made: dict[str, tuple[Path, thermoq.Report]] = {}

    def run(name: str = "dit", **settings: Any) -> tuple[Path, thermoq.Report]:
        key = json.dumps([name, settings])
        if key not in made:
            source, file = root / name / "source", root / name / "c.safetensors"
            if not source.exists():
                models.MAKERS[name](source, "F32")
                calibrations.calibrated(source, file, rows_per_bin=24)
            output = root / name / f"out{len(made)}"
            given = {"output_correction": False, "calibration": str(file), **settings}
            made[key] = output, thermoq.quantize(source, output, **given)
        return made[key]

    return run


def parts(root: Path, name: str = "dit") -> dict[str, Any]:
    return models.read_tensors(root / models.COMPONENTS[name])


def weights_of(root: Path, name: str = "dit") -> dict[str, Any]:
    """All that is stored but time parameters."""
    return {
        key: tensor
        for key, tensor in parts(root, name).items()
        if key.rpartition(".")[2] not in TIME_SUFFIXES
    }


def manifest_of(root: Path, name: str = "dit") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (root / models.COMPONENTS[name] / "thermoq.json").read_text()
    )
    return found


def opened(root: Path) -> QuantizedComponent:
    (component,) = open_quantized(root)[1]
    return component


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "sigmoid"])
def test_smoothing_changes_the_schedule_alone(make: Make, interpolation: str) -> None:
    baseline, _ = make(method="lsq")
    smooth, report = make(method="lsq", phase="smooth", interpolation=interpolation, window=40)
    files = [models.safetensors_files(root / "transformer") for root in (baseline, smooth)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    before, after = manifest_of(baseline), manifest_of(smooth)
    assert after["smoothing"] == {"interpolation": interpolation, "windows": [40.0, 40.0, 40.0]}
    assert "smoothing" not in before
    assert before["tensors"] == after["tensors"]
    assert (before["phase"], after["phase"], report.phase) == ("baseline", "smooth", "smooth")
    config = json.loads((smooth / "transformer/config.json").read_text())
    assert config["quantization_config"]["phase"] == "smooth"
    thermoq.verify(smooth)
    groups = uniform_time_groups(1000, 4)
    assert opened(smooth).schedule() == smoothed(groups, interpolation, 40)  # type: ignore[arg-type]
    assert report.thermodynamics is not None
    assert report.thermodynamics.before is not None
    assert report.smoothness_score is not None
    assert report.smoothness_score > report.thermodynamics.before.smoothness_score


SETTINGS: list[dict[str, Any]] = [
    {"method": "minmax"},
    {"method": "lsq"},
    {"method": "hessian"},
    {"method": "lsq", "encoding": "affine", "bit_width": 4},
    {"method": "lsq", "bit_width": 8},
    {"method": "hessian", "encoding": "affine", "rotation": "hadamard"},
    {"method": "lsq", "activation_bits": 4, "num_time_groups": 3},
    {"method": "lsq", "encoding": "coded"},
    {"method": "hessian", "encoding": "coded"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["dit", "unet", "dream"])
def test_optimization_leaves_the_codes_as_they_are(
    make: Make, name: str, settings: dict[str, Any]
) -> None:
    baseline, _ = make(name, **settings)
    optimized, report = make(name, **settings, phase="optimize")
    assert weights_of(baseline, name) == weights_of(optimized, name)
    thermoq.verify(optimized)
    written = models.safetensors_files(optimized / models.COMPONENTS[name])
    late = set(stored_tensors(written[-1]))
    timed = {key for key in parts(optimized, name) if key.rpartition(".")[2] in TIME_SUFFIXES}
    assert late == timed
    entries = manifest_of(optimized, name)["tensors"]
    rows = {row.name: row for row in report.layers}
    num_groups = settings.get("num_time_groups", 4)
    for key, entry in entries.items():
        sets = entry.get("time_groups_of_rows")
        assert (f"{key}.time_gain" in timed) == (sets is not None)
        if key in rows and rows[key].optimization is not None:
            choice = rows[key].optimization.row_choice
            assert {None: "none", 1: "pooled", num_groups: "per_time_group"}[sets] == choice
            shapes = [parts(optimized, name).get(f"{key}.{suffix}") for suffix in TIME_SUFFIXES]
            nbytes = sum(len(found[2]) for found in shapes if found is not None)
            assert rows[key].time_parameter_bytes == nbytes
    assert report.sizes.time_parameter_bytes == sum(
        len(parts(optimized, name)[key][2]) for key in timed
    )
    assert report.sizes.model_bytes == sum(path.stat().st_size for path in written)
    sizes = report.sizes
    assert sizes.quantized_bytes + sizes.copied_bytes + sizes.header_bytes == sizes.model_bytes


def test_what_is_written_is_what_the_optimization_finds(make: Make) -> None:
    for settings in ({"method": "lsq"}, {"method": "lsq", "encoding": "coded"}, SETTINGS[5]):
        root, report = make(**settings, phase="optimize", coupling=2.0, seed=3)
        component = opened(root)
        source = read_calibration(root.parent / "c.safetensors")
        weights = models.read_tensors(root.parent / "source/transformer")
        baseline, _ = make(**settings, seed=3)
        for row in report.layers:
            if row.layer_class != "body":
                continue
            _, shape, data = weights[row.name]
            original = np.frombuffer(data, np.float32).reshape(shape[0], -1)
            with MappedFiles() as files:
                matrix = component.matrix(row.name, files)
            rotation = matrix.rotation
            plain = type(matrix)(matrix.scheme, matrix.rows, matrix.cols, matrix.parts)
            decoded = dequantize(plain).view(np.float32).reshape(original.shape)
            first = opened(baseline).activation(row.name)
            known = source.input_of(f"transformer/{row.name}")
            assert known is not None
            assert first is not None
            found = optimize_layer(
                layer_sample(
                    known,
                    [slice(0, 5), slice(5, 10), slice(10, 15), slice(15, 20)],
                    original if rotation is None else rotation.forward(original),
                    decoded,
                    TimeParameters(first.scale, first.zero_point, "calibration"),
                    8,
                    rotate=None if rotation is None else rotation.forward,
                ),
                OptimizationChoices(coupling=2.0, estimator="unbiased", seed=3, clip_search=False),
            )
            activation, rows = component.activation(row.name), component.rows(row.name)
            assert activation is not None
            assert np.array_equal(activation.scale, found.activation.scale)
            assert np.array_equal(activation.zero_point, found.activation.zero_point)
            assert row.optimization is not None
            assert row.optimization.row_choice == found.choice
            assert row.optimization.held_out_errors == found.held_out_errors
            if found.rows is None:
                assert rows is None
            else:
                assert rows is not None
                assert np.array_equal(rows.gain, found.rows.gain)
                assert np.array_equal(rows.bias, found.rows.bias)


def test_smoothing_lies_over_the_optimization_or_not(make: Make) -> None:
    with_it, report = make(method="lsq", phase="optimize")
    without, plain = make(method="lsq", phase="optimize", smoothing=False)
    assert parts(with_it) == parts(without)
    assert "smoothing" in manifest_of(with_it)
    assert "smoothing" not in manifest_of(without)
    assert (report.phase, plain.phase) == ("optimize", "optimize")


def test_the_same_settings_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    first, _ = make(method="lsq", phase="optimize")
    thermoq.quantize(
        first.parent / "source", tmp_path / "again", method="lsq", phase="optimize", threads=3,
        output_correction=False, calibration=first.parent / "c.safetensors",
    )  # fmt: skip
    assert parts(first) == parts(tmp_path / "again")
    assert manifest_of(first) == manifest_of(tmp_path / "again")


def test_repeated_tensors_have_time_parameters_of_their_own(make: Make) -> None:
    root, report = make("dit", method="lsq", phase="optimize")
    aliases = [row for row in report.layers if row.same_as is not None and row.optimization]
    assert aliases
    component = opened(root)
    for row in aliases:
        owner = component.activation(row.same_as or "")
        own = component.activation(row.name)
        assert owner is not None
        assert own is not None
        assert not np.array_equal(own.scale, owner.scale)
    thermoq.verify(root)


def test_layers_that_see_one_input_a_sample_keep_their_rows(make: Make, tmp_path: Path) -> None:
    root, _ = make(method="lsq", phase="optimize")
    source = root.parent / "source"
    passes = 8 * 25  # samples and steps, as the calibration has them
    file = tmp_path / "few.safetensors"
    calibrations.calibrated(source, file, num_rows=2 * passes // 20, rows_per_bin=24)
    settings: dict[str, Any] = {"method": "lsq", "phase": "optimize", "output_correction": False}
    report = thermoq.quantize(source, tmp_path / "out", calibration=file, **settings)
    assert report.optimization is not None
    none, pooled, each = report.optimization.row_choices
    assert (pooled.num_layers, each.num_layers) == (0, 0)
    assert none.num_layers == report.optimization.num_layers > 0
    assert report.optimization.output_errors == {}


def test_a_budget_leaves_room_for_rows(make: Make) -> None:
    plain, _ = make(method="lsq")
    size = sum(p.stat().st_size for p in models.safetensors_files(plain / "transformer"))
    limit = size * 3 // 2
    root, report = make(method="lsq", phase="optimize", max_size=limit)
    assert report.budget is not None
    assert report.budget.achieved_bytes <= report.budget.predicted_bytes <= limit
    assert report.budget.achieved_bytes == report.sizes.model_bytes
    thermoq.verify(root)


def test_export_leaves_time_parameters_out(make: Make, tmp_path: Path) -> None:
    baseline, _ = make(method="hessian", encoding="affine")
    optimized, _ = make(method="hessian", encoding="affine", phase="optimize")
    for root, name in ((baseline, "a"), (optimized, "b")):
        thermoq.export(root, tmp_path / name)
    assert parts(tmp_path / "a") == parts(tmp_path / "b")


def test_inspect_tells_what_varies(make: Make) -> None:
    root, report = make(method="lsq", phase="optimize", window=40)
    found = thermoq.inspect(root)
    (trajectory,) = found.trajectories
    assert report.optimization is not None
    counts = {row.row_choice: row.num_layers for row in report.optimization.row_choices}
    assert (trajectory.phase, trajectory.num_time_groups) == ("optimize", 4)
    assert (trajectory.interpolation, trajectory.windows) == ("linear", (40.0, 40.0, 40.0))
    assert trajectory.num_pooled == counts["pooled"]
    assert trajectory.num_per_time_group == counts["per_time_group"]
    assert trajectory.time_bytes == report.sizes.time_parameter_bytes
    by_name = {row.name: row for row in report.layers}
    for tensor in found.tensors:
        if tensor.name in by_name:
            assert tensor.stored_bytes == by_name[tensor.name].stored_bytes
            assert tensor.time_bytes == by_name[tensor.name].time_parameter_bytes


# What is said, and what is refused.


def test_phase_2_without_calibration_smooths_the_report(tmp_path: Path) -> None:
    source = models.MAKERS["dit"](tmp_path / "dit", "F32")
    plain = thermoq.quantize(source, tmp_path / "a")
    smooth = thermoq.quantize(source, tmp_path / "b", phase="smooth")
    assert parts(tmp_path / "a") == parts(tmp_path / "b")
    assert "smoothing" not in manifest_of(tmp_path / "b")
    assert plain.smoothness_score is not None
    assert smooth.smoothness_score is not None
    assert smooth.smoothness_score > plain.smoothness_score
    (line,) = [line for line in smooth.warnings if line.startswith("smoothing: ")]
    assert "smooths the prior in the report only, and the weights are those of Phase 1" in line
    assert not [line for line in plain.warnings if "smoothing" in line]


def test_phase_3_without_calibration_is_refused(tmp_path: Path) -> None:
    source = models.MAKERS["dit"](tmp_path / "dit", "F32")
    with pytest.raises(UsageError, match=r"`thermoq calibrate --model DIR --output "):
        thermoq.quantize(source, tmp_path / "out", phase="optimize")
    assert not (tmp_path / "out").exists()


def test_a_window_that_is_too_large_is_clamped(make: Make) -> None:
    root, report = make(method="lsq", phase="smooth", window=300.0)
    assert manifest_of(root)["smoothing"]["windows"] == [125.0, 125.0, 125.0]
    assert (
        "smoothing: a window of 300 timesteps is more than half of the smaller time group at 3 of "
        "3 boundaries, and is clamped to 125 there"
    ) in report.warnings


def test_one_time_group_has_nothing_to_smooth(make: Make) -> None:
    baseline, _ = make(method="lsq", num_time_groups=1)
    smooth, report = make(method="lsq", num_time_groups=1, phase="smooth")
    assert parts(baseline) == parts(smooth)
    assert "smoothing" not in manifest_of(smooth)
    said = "smoothing: one time group has no boundaries, so Phase 2 changes nothing"
    assert said in report.warnings
    root, report = make(method="lsq", num_time_groups=1, phase="optimize")
    thermoq.verify(root)
    assert said in report.warnings
    assert any("with one time group there is nothing to couple" in w for w in report.warnings)
    assert report.optimization is not None
    assert report.optimization.row_choices[2].num_layers == 0


def test_sequential_fits_need_torch(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = make(method="lsq")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        thermoq.quantize(
            root.parent / "source", tmp_path / "out", phase="optimize", sequential=True,
            calibration=root.parent / "c.safetensors",
        )  # fmt: skip
    assert str(caught.value) == (
        "--sequential: expected the torch package, got none; pip install 'thermoq[torch]'"
    )
    assert not (tmp_path / "out").exists()


def test_the_baseline_has_one_phase(tmp_path: Path) -> None:
    source = models.MAKERS["dit"](tmp_path / "dit", "F32")
    with pytest.raises(UsageError, match=r"^baseline: expected phase baseline, got smooth$"):
        thermoq.baseline(source, tmp_path / "out", phase="smooth")
    with pytest.raises(UsageError, match=r"^baseline: expected no smoothing, got true$"):
        thermoq.baseline(source, tmp_path / "out", smoothing=True)


def test_the_estimator_goes_by_the_model(make: Make) -> None:
    _, image = make("dit", method="lsq", phase="optimize")
    _, language = make("dream", method="lsq", phase="optimize")
    _, asked = make("dit", method="lsq", phase="optimize", gain_estimator="least_squares")
    found = [
        one.optimization.gain_estimator for one in (image, language, asked) if one.optimization
    ]
    assert found == ["unbiased", "variance", "least_squares"]


def counts_of(report: thermoq.Report) -> int:
    return sum(row.optimization.searched_groups for row in report.layers if row.optimization)


def test_the_clip_search_can_be_left_out(make: Make) -> None:
    given = {"method": "lsq", "phase": "optimize", "activation_bits": 4}
    _, searched = make(**given)
    _, kept = make(**given, clip_search=False)
    counts = [counts_of(report) for report in (searched, kept)]
    assert counts[0] > 0
    assert counts[1] == 0
    assert counts_of(make(**{**given, "activation_bits": 8})[1]) == 0  # not by default


@pytest.mark.parametrize("choice", ["none", "pooled", "per_time_group"])
def test_all_rows_can_be_given_one_form(make: Make, choice: str) -> None:
    root, report = make(method="lsq", phase="optimize", row_choice=choice)
    thermoq.verify(root)
    chosen = {
        row.optimization.row_choice
        for row in report.layers
        if row.optimization and row.optimization.held_out_errors  # of others no rows are fitted
    }
    assert chosen == {choice}


def test_bins_go_to_the_groups_that_the_run_has(make: Make) -> None:
    root, _ = make(method="lsq", num_time_groups=3)
    checkpoint = open_checkpoint(root.parent / "source")
    schedule = schedule_for(checkpoint.scheduler_config, None)
    config = load_config(
        None, {"num_time_groups": 3, "calibration": str(root.parent / "c.safetensors")}
    )
    with MappedFiles() as files:
        found = measured_activations(checkpoint, schedule, config, files)
    assert isinstance(found, Activations)
    assert found.groups_of_bins == [slice(0, 7), slice(7, 14), slice(14, 20)]


def test_a_correction_comes_with_the_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fits it: stored, counted, in manifest and report, and nothing else is changed."""
    correction = OutputCorrection(
        uniform_time_groups(1000, 2),
        "channel",
        np.array([0.75, 1.5], np.float32),
        np.array([[0.25] * 4, [0.5] * 4], np.float32),
    )

    def fitted(
        checkpoint: Any, activations: Any, config: Any, quantized: Path, progress: Any
    ) -> Any:
        assert opened(quantized).manifest.output_correction is None  # whole but for its report
        return {"transformer": correction}, ("a line",)

    without, plain = make(method="lsq", phase="optimize")
    monkeypatch.setattr(output_step, "_fitted", fitted)
    output = tmp_path / "out"
    report = thermoq.quantize(
        without.parent / "source", output, method="lsq", phase="optimize",
        calibration=without.parent / "c.safetensors",
    )  # fmt: skip
    thermoq.verify(output)
    found = opened(output).output_correction()
    assert found is not None
    assert np.array_equal(found.gain, correction.gain)
    assert "a line" in report.warnings
    assert report.optimization is not None
    (stored,) = report.optimization.output_corrections
    assert (stored.component, stored.kind, stored.num_bins) == ("transformer", "channel", 2)
    sizes = report.sizes
    assert stored.stored_bytes == sizes.output_correction_bytes == 2 * (2 + 8)
    assert sizes.time_parameter_bytes == plain.sizes.time_parameter_bytes + 20
    files = models.safetensors_files(output / "transformer")
    assert sizes.model_bytes == sum(path.stat().st_size for path in files)
    beside = sizes.copied_bytes + sizes.header_bytes + sizes.output_correction_bytes
    assert sizes.quantized_bytes + beside == sizes.model_bytes
    manifest = (output / "transformer/thermoq.json").stat().st_size
    everything = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert sizes.directory_bytes == everything - manifest
    assert manifest_of(output)["report"]["optimization"]["output_corrections"]
    assert "output_correction_s" in report.provenance.times_s
    left = {key: part for key, part in parts(output).items() if not key.startswith("thermoq.")}
    assert left == parts(without)
