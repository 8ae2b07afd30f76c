"""End to end: every figure of the report, recomputed from the files and from `layers`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import reference
import thermoq
from conftest import Run
from safetensors_files import write_json, write_safetensors
from thermoq.config import QuantizationConfig
from thermoq.report.model import LayerRow
from thermoq.report.thermodynamics_model import LayerTimeParameters

Quantized = Callable[[str, str], Run]


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in models.safetensors_files(folder))


def timed(report: thermoq.Report) -> list[tuple[LayerRow, LayerTimeParameters]]:
    return [(row, row.time_parameters) for row in report.layers if row.time_parameters]


def test_errors_in_the_report_are_those_of_the_exported_weights(run: Run) -> None:
    before = models.float_tensors(run.source / run.component)
    after = models.float_tensors(run.dense / run.component)
    assert len(run.report.layers) > 0
    for row in run.report.layers:
        truth = reference.error_figures(before[row.name], after[row.name])
        relative = truth.squared_error / truth.source_energy if truth.source_energy else 0.0
        assert row.relative_squared_error == pytest.approx(relative, rel=1e-5), row.name
        assert row.cosine_similarity == pytest.approx(truth.cosine_similarity, abs=1e-5), row.name
        assert row.max_error == pytest.approx(truth.max_error, rel=1e-5), row.name
        assert row.squared_error == pytest.approx(truth.squared_error, rel=1e-5), row.name
        assert row.source_energy == pytest.approx(truth.source_energy, rel=1e-5), row.name


def test_headline_errors_follow_from_the_layers(run: Run) -> None:
    report, layers = run.report, run.report.layers
    count = sum(row.num_weights for row in layers)
    cosine = sum(row.num_weights * row.cosine_similarity for row in layers) / count
    assert report.cosine_similarity == pytest.approx(cosine, rel=1e-12)
    error = sum(row.squared_error for row in layers) / sum(row.source_energy for row in layers)
    assert report.relative_squared_error == pytest.approx(error, rel=1e-12)


def test_headline_scores_follow_from_the_layers(run: Run) -> None:
    report, rows = run.report, timed(run.report)
    truth = reference.boundary_jumps(
        np.array([parameters.scale for _, parameters in rows]),
        np.array([parameters.zero_point for _, parameters in rows]),
        np.array([float(row.num_weights) for row, _ in rows]),
        [parameters.activation_bits or 0 for _, parameters in rows],
        0.3,
    )
    for i, (_, parameters) in enumerate(rows):
        assert parameters.unclipped_scale_jump == pytest.approx(truth.layer_scale_jump[i])
        assert parameters.scale_jump == pytest.approx(np.minimum(truth.layer_scale_jump[i], 1))
        assert parameters.boundary_scores == pytest.approx(truth.layer_boundary_score[i])
        assert parameters.smoothness_score == pytest.approx(np.mean(parameters.boundary_scores))
        worst = np.maximum(parameters.scale_jump, parameters.zero_point_jump)
        assert parameters.violation_count == np.count_nonzero(worst > 0.3)
    assert report.smoothness_score == pytest.approx(truth.smoothness_score, rel=1e-12)
    assert report.boundary_scores == pytest.approx(truth.boundary_score)
    assert report.min_boundary_score == pytest.approx(truth.boundary_score.min())
    assert report.max_boundary_score == pytest.approx(truth.boundary_score.max())
    assert report.mean_boundary_score == pytest.approx(truth.boundary_score.mean())
    assert report.std_boundary_score == pytest.approx(truth.boundary_score.std(), abs=1e-12)
    assert report.violations is not None
    assert report.violation_count == len(report.violations)
    severities = {v.boundary_idx: v.severity for v in report.violations}
    assert severities == {i: s for i, s in enumerate(truth.severity) if s is not None}
    for violation in report.violations:
        i = violation.boundary_idx
        assert violation.scale_jump == pytest.approx(truth.scale_jump[i])
        assert violation.zero_point_jump == pytest.approx(truth.zero_point_jump[i])
    thermodynamics = report.thermodynamics
    assert thermodynamics is not None
    assert thermodynamics.max_possible_jump == 6.0
    total = float(np.sum(truth.scale_jump + truth.zero_point_jump))
    assert thermodynamics.total_jump == pytest.approx(total, rel=1e-12)
    assert thermodynamics.num_layers_with_time_parameters == len(rows)


def test_time_parameters_follow_from_kappa_and_the_schedule(run: Run) -> None:
    report = run.report
    assert report.parameter_source == "noise-schedule prior"
    assert report.thermodynamics is not None
    groups = report.thermodynamics.time_groups
    assert len(groups) == 4
    for row, parameters in timed(report):
        kappa = parameters.spectral_concentration
        expected = [(g.signal_variance * kappa + g.noise_variance) ** 0.5 for g in groups]
        assert parameters.scale == pytest.approx(expected, rel=1e-12), row.name
        assert parameters.zero_point == [128.0] * 4


def test_kappa_is_close_to_the_singular_values(quantized: Quantized) -> None:
    for run in (quantized("unet", "BF16"), quantized("dit", "F16")):
        source = models.float_tensors(run.source / run.component)
        for row, parameters in timed(run.report):
            values = source[row.name]
            axis = 1 if "transpose" in row.name else 0
            matrix = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
            truth = reference.spectral_concentration(matrix)
            found = parameters.spectral_concentration
            assert 0.6 * truth <= found <= truth * (1 + 1e-5), row.name


def test_tables_are_out_of_the_headline(quantized: Quantized) -> None:
    rows = {row.name: row for row in quantized("dream", "BF16").report.layers}
    table = rows["model.embed_tokens.weight"]
    assert (table.layer_class, table.in_headline, table.time_parameters) == ("table", False, None)
    assert rows["lm_head.weight"].in_headline


def test_only_what_runs_at_every_timestep_is_in_the_headline(
    quantized: Quantized, tmp_path: Path
) -> None:
    alone = quantized("dit", "F32")
    report = thermoq.quantize(alone.source, tmp_path / "out", components=["vae"])
    rows = [row for row in report.layers if row.component == "vae"]
    assert rows
    assert {(row.in_headline, row.time_parameters) for row in rows} == {(False, None)}
    assert report.thermodynamics == alone.report.thermodynamics
    assert report.boundary_scores == alone.report.boundary_scores


def test_without_a_denoiser_there_are_no_scores(quantized: Quantized, tmp_path: Path) -> None:
    shutil.copytree(quantized("dit", "F32").source / "vae", tmp_path / "in/vae")
    report = thermoq.quantize(tmp_path / "in", tmp_path / "out", components=["vae"])
    assert (report.smoothness_score, report.parameter_source) == (None, "none")
    assert report.assessment is not None
    assert report.assessment.band is None


def test_a_carried_file_that_is_no_safetensors_counts_in_bytes_alone(tmp_path: Path) -> None:
    source = models.dit(tmp_path / "in")
    (source / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors")
    sizes = thermoq.quantize(source, tmp_path / "out").sizes
    expected = 8 * sizes.directory_bytes / sizes.num_weights
    assert sizes.bits_per_weight_directory == pytest.approx(expected)


# Matrices that are copied because of their names.


def with_experts(directory: Path, size: int) -> Path:
    """A model of 6,400 layer weights and `size` x 64 weights that no name gives away."""
    maker = models.Maker("BF16")
    maker.linear("blocks.0.to_q", 100, 64, bias=False)
    maker.add("blocks.0.experts.gate_up_proj", 1, size, 64)
    maker.tensors["constants"] = ("F64", (900, 8), bytes(8 * 900 * 8))
    maker.tensors["ids"] = ("I64", (900, 8), bytes(8 * 900 * 8))
    write_safetensors(directory / "model.safetensors", maker.tensors)
    write_json(directory / "config.json", {"model_type": "Dream"})
    return directory


def test_many_copied_matrices_are_warned_of(tmp_path: Path) -> None:
    report = thermoq.quantize(with_experts(tmp_path / "in", 100), tmp_path / "out")
    assert report.warnings == [
        "model: 50% of the floating-point weights are copied, in matrices that are not named like "
        "layer weights (largest: 'blocks.0.experts.gate_up_proj'); a `layers` rule with bit_width "
        "that matches them quantizes them"
    ]


def test_few_copied_matrices_are_not_warned_of(tmp_path: Path) -> None:
    report = thermoq.quantize(with_experts(tmp_path / "in", 5), tmp_path / "out")
    assert report.warnings == []


@pytest.mark.parametrize("rule", [{"bit_width": 4}, {"skip": True}])
def test_a_rule_ends_the_warning(tmp_path: Path, rule: dict[str, object]) -> None:
    source = with_experts(tmp_path / "in", 100)
    layers = [{"match": "*.experts.*", **rule}]
    report = thermoq.quantize(source, tmp_path / "out", config=QuantizationConfig(layers=layers))
    assert report.warnings == []


# The fingerprint.


def fingerprint(source: Path, output: Path, **settings: object) -> str:
    return thermoq.quantize(source, output, **settings).provenance.input_fingerprint


def test_the_fingerprint_is_of_the_weights_not_of_the_folder(tmp_path: Path) -> None:
    pipeline = models.dit(tmp_path / "pipeline")
    shutil.copytree(pipeline / "transformer", tmp_path / "bare")
    alone = fingerprint(pipeline, tmp_path / "out-1")
    assert fingerprint(tmp_path / "bare", tmp_path / "out-2") == alone
    both = fingerprint(pipeline, tmp_path / "out-3", components=["vae"])
    assert both != alone
    (pipeline / "vae").rename(pipeline / "autoencoder")
    assert fingerprint(pipeline, tmp_path / "out-4", components=["autoencoder"]) == both
    models.replace_tensors(
        tmp_path / "bare/diffusion_pytorch_model.safetensors",
        lambda tensors: {f"{name}_": tensor for name, tensor in tensors.items()},
    )
    assert fingerprint(tmp_path / "bare", tmp_path / "out-5") != alone


# Sizes.


def test_sizes_are_those_on_disk(run: Run) -> None:
    report, sizes = run.report, run.report.sizes
    source = file_bytes(run.source / run.component)
    model = file_bytes(run.output / run.component)
    assert (sizes.source_bytes, sizes.model_bytes) == (source, model)
    assert report.compression_ratio == source / model
    assert report.model_size_mb == model / 1e6
    assert sizes.quantized_bytes + sizes.copied_bytes + sizes.header_bytes == model
    stored = models.read_tensors(run.output / run.component)
    assert sizes.quantized_bytes + sizes.copied_bytes == sum(len(t[2]) for t in stored.values())
    manifest = (run.output / run.component / "thermoq.json").stat().st_size
    directory = sum(len(data) for data in models.tree(run.output).values()) - manifest
    assert sizes.directory_bytes == directory
    tensors = models.read_tensors(run.source / run.component)
    assert sizes.num_weights == sum(int(np.prod(t[1])) for t in tensors.values())
    assert sizes.num_quantized_weights == sum(row.num_weights for row in report.layers)
    assert sizes.bits_per_weight_component == pytest.approx(8 * model / sizes.num_weights)
    everything = sizes.num_weights
    if run.name == "dit":  # its VAE is carried over
        vae = models.read_tensors(run.source / "vae")
        everything += sum(int(np.prod(t[1])) for t in vae.values())
    assert sizes.bits_per_weight_directory == pytest.approx(8 * directory / everything)
    assert sizes.bits_per_weight_quantized == pytest.approx(
        8 * sizes.quantized_bytes / sizes.num_quantized_weights
    )
    nominal = {"F32": 32, "F16": 16, "BF16": 16}[run.dtype] / 2
    assert report.nominal_compression_ratio == nominal


def test_layers_and_classes_add_up_to_the_sizes(run: Run) -> None:
    report = run.report
    stored = models.read_tensors(run.output / run.component)
    for row in report.layers:
        parts = {name: t for name, t in stored.items() if name.rpartition(".")[0] == row.name}
        nbytes = sum(len(data) for _, _, data in parts.values())
        assert row.stored_bytes == nbytes, row.name
        if row.same_as is None:
            assert row.bits_per_weight == pytest.approx(8 * nbytes / row.num_weights)
    by_class = {total.layer_class: total for total in report.layer_classes}
    assert sum(row.stored_bytes for row in report.layers) == report.sizes.quantized_bytes
    assert sum(row.stored_bytes for row in report.copied) == report.sizes.copied_bytes
    for name, total in by_class.items():
        stored_bytes = [row.stored_bytes for row in report.layers if row.layer_class == name]
        if name == "copied":
            stored_bytes = [row.stored_bytes for row in report.copied]
        assert total.num_tensors == len(stored_bytes)
        assert total.stored_bytes == sum(stored_bytes)
    assert sum(r.num_weights for r in report.layer_classes) == report.sizes.num_weights


def test_every_tensor_is_in_the_report_once(run: Run) -> None:
    names = [row.name for row in run.report.layers] + [row.name for row in run.report.copied]
    assert sorted(names) == sorted(models.read_tensors(run.source / run.component))
