"""`export`: dense checkpoints that other tools load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import reference
import thermoq
from conftest import Run
from safetensors import safe_open
from safetensors_files import write_json, write_safetensors
from thermoq import _core
from thermoq.errors import InputError, UsageError

Quantized = Callable[[str, str], Run]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def test_the_original_dtype_unless_told(run: Run, tmp_path: Path) -> None:
    thermoq.export(run.output, tmp_path / "dense")
    before = models.read_tensors(run.source / run.component)
    after = models.read_tensors(tmp_path / "dense" / run.component)
    exact = models.read_tensors(run.dense / run.component)  # to float32
    quantized = {row.name for row in run.report.layers}
    assert after.keys() == before.keys()
    for name, (dtype, shape, data) in after.items():
        assert (dtype, shape) == before[name][:2]
        if name in quantized:
            values = reference.decode_dtype(exact[name][2], "F32")
            assert data == reference.encode_dtype(values, dtype), name
        else:
            assert data == before[name][2], name


@pytest.mark.parametrize("name", ["unet", "dit", "dream"])
@pytest.mark.parametrize("source_dtype", models.FLOAT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_dtype_rounds_the_float32_value(
    quantized: Quantized, tmp_path: Path, name: str, source_dtype: str, dtype: str
) -> None:
    run = quantized(name, source_dtype)
    assert thermoq.export(run.output, tmp_path / "dense", dtype=dtype) == tmp_path / "dense"
    exact = models.float_tensors(run.dense / run.component)
    after = models.read_tensors(tmp_path / "dense" / run.component)
    for tensor, (stored, _, data) in after.items():
        assert stored == DTYPES[dtype]
        assert data == reference.encode_dtype(exact[tensor], stored), tensor


def test_rotated_tensors_come_back_in_every_dtype(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "BF16")
    report = thermoq.quantize(run.source, tmp_path / "out", method="lsq", rotation="hadamard")
    dense = {}
    for dtype, stored in DTYPES.items():
        thermoq.export(tmp_path / "out", tmp_path / dtype, dtype=dtype)
        dense[stored] = models.read_tensors(tmp_path / dtype)
    before = models.float_tensors(run.source)
    exact = models.float_tensors(tmp_path / "float32")
    for name, values in exact.items():
        for stored in DTYPES.values():
            assert dense[stored][name][2] == reference.encode_dtype(values, stored), name
    entries = json.loads((tmp_path / "out/thermoq.json").read_text())["tensors"]
    assert sum("rotation" in entry for entry in entries.values()) > 10
    for row in report.layers:
        truth = reference.error_figures(before[row.name], exact[row.name])
        assert row.squared_error == pytest.approx(truth.squared_error, rel=1e-5), row.name
        assert row.relative_squared_error < 0.15, row.name


def test_threads_and_levels_change_no_rotated_byte(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "F32")
    found = []
    before = _core.simd_level()
    try:
        for level in _core.available_simd_levels():
            _core.set_simd_level(level)
            for threads in (1, 4):
                output = tmp_path / f"out-{level}-{threads}"
                target = tmp_path / f"dense-{level}-{threads}"
                settings = {"method": "lsq", "rotation": "hadamard", "seed": 3}
                thermoq.quantize(run.source, output, threads=threads, **settings)
                thermoq.export(output, target, dtype="float32", threads=threads)
                found.append((models.read_tensors(output), models.tree(target)))
    finally:
        _core.set_simd_level(before)
    assert all(other == found[0] for other in found)


def test_tensors_that_are_no_floats_keep_their_dtype(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("oddities", "F32")
    thermoq.export(run.output, tmp_path / "dense", dtype="bfloat16")
    before = models.read_tensors(run.source)
    after = models.read_tensors(tmp_path / "dense")
    others = {name for name, (dtype, _, _) in before.items() if dtype not in models.FLOAT_DTYPES}
    assert len(others) == 6
    for name in others:
        assert after[name] == before[name]
    assert after["empty_inside.weight"] == ("BF16", (4, 0, 3), b"")
    assert np.isnan(models.float_tensors(tmp_path / "dense")["nonfinite.bias"][0])


def test_threads_and_levels_change_no_byte(
    quantized: Quantized, simd_level: str, tmp_path: Path
) -> None:
    for name, dtype in (("unet", "BF16"), ("dream", "F32"), ("oddities", "F16")):
        run = quantized(name, dtype)
        for threads in (1, 4):
            target = tmp_path / f"{name}-{threads}"
            thermoq.export(run.output, target, dtype="float32", threads=threads)
            assert models.tree(target) == models.tree(run.dense)


def test_transposed_convolutions_come_back_in_their_order(quantized: Quantized) -> None:
    run = quantized("unet", "BF16", "minmax")
    name = "up_blocks.0.upsamplers.0.conv_transpose.weight"
    manifest = json.loads((run.output / "unet/thermoq.json").read_text())
    assert manifest["tensors"][name]["row_dimension"] == 1
    before = models.float_tensors(run.source / "unet")[name]
    after = models.float_tensors(run.dense / "unet")[name]
    # Rows are output channels: dimension 1. Each has groups of its own.
    rows = np.moveaxis(before, 1, 0).reshape(before.shape[1], -1)
    codes, scale, minimum = reference.quantize_affine(rows, 2, 64)
    decoded = reference.dequantize_affine(codes, scale, minimum, 64)
    assert np.array_equal(np.moveaxis(after, 1, 0).reshape(rows.shape), decoded)


def test_repeated_tensors_are_written_out_again(quantized: Quantized) -> None:
    run = quantized("dit", "BF16")
    before = models.read_tensors(run.source / "transformer")
    after = models.read_tensors(run.dense / "transformer")
    assert after.keys() == before.keys()
    table = "norm1.emb.class_embedder.embedding_table.weight"
    copies = {after[f"transformer_blocks.{i}.{table}"] for i in range(3)}
    assert len(copies) == 1


def test_the_rest_of_the_directory(quantized: Quantized, tmp_path: Path) -> None:
    for name in ("unet", "dit", "dream"):
        run = quantized(name, "F16")
        thermoq.export(run.output, tmp_path / name)
        before, after = models.tree(run.source), models.tree(tmp_path / name)
        assert {path for path in after if "safetensors" not in path} == {
            path for path in before if "safetensors" not in path
        }
        for path in after.keys() & before.keys():
            if path.endswith("config.json"):
                assert json.loads(after[path]) == json.loads(before[path])
            elif not path.endswith("model.safetensors"):
                assert after[path] == before[path]


def test_the_config_names_the_new_dtype(quantized: Quantized) -> None:
    run = quantized("dream", "BF16")
    assert json.loads((run.source / "config.json").read_text())["torch_dtype"] == "bfloat16"
    config = json.loads((run.dense / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert "quantization_config" not in config


def test_a_component_without_a_config_has_none_afterwards(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.linear("layer", 8, 16)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/config.json").is_file()
    thermoq.export(tmp_path / "out", tmp_path / "dense")
    assert {path.name for path in (tmp_path / "dense").iterdir()} == {"model.safetensors"}


def test_an_adapter_goes_through(tmp_path: Path) -> None:
    """It is small beside the model, but not beside the quantized one."""
    source = models.dream(tmp_path / "dream", "F32", 1)
    adapter = models.Maker("F32")
    adapter.add("lora.weight", 150, 100)
    write_safetensors(source / "adapter_model.safetensors", adapter.tensors)
    report = thermoq.quantize(source, tmp_path / "out")
    assert report.warnings == []
    assert report.model_size_mb < 2 * 0.06
    thermoq.export(tmp_path / "out", tmp_path / "dense")
    expected = (source / "adapter_model.safetensors").read_bytes()
    for directory in ("out", "dense"):
        assert (tmp_path / directory / "adapter_model.safetensors").read_bytes() == expected


def test_shards(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "BF16")
    thermoq.export(run.output, tmp_path / "dense", dtype="float32", max_shard_size="100KB")
    files = models.safetensors_files(tmp_path / "dense")
    assert len(files) > 2
    assert all(path.stat().st_size < 110_000 for path in files)
    index = json.loads((tmp_path / "dense/model.safetensors.index.json").read_text())
    for path in files:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                assert index["weight_map"].pop(name) == path.name
    assert index["weight_map"] == {}
    assert models.read_tensors(tmp_path / "dense") == models.read_tensors(run.dense)


@pytest.mark.parametrize("bit_width", [4, 8])
def test_other_bit_widths(quantized: Quantized, tmp_path: Path, bit_width: int) -> None:
    run = quantized("unet", "BF16")
    report = thermoq.quantize(run.source, tmp_path / "out", bit_width=bit_width)
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    before = models.float_tensors(run.source / "unet")
    after = models.float_tensors(tmp_path / "dense/unet")
    for row in report.layers:
        truth = reference.error_figures(before[row.name], after[row.name])
        assert row.squared_error == pytest.approx(truth.squared_error, rel=1e-5), row.name


def overflowing(tmp_path: Path) -> Path:
    """A quantized model with a copied bias beyond float16, and a matrix within."""
    maker = models.Maker("F32")
    maker.add("layer.weight", 8, 16)
    maker.put("layer.bias", np.array([1.0, 65520.0, -1e6, np.inf]))
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/config.json", {})
    thermoq.quantize(tmp_path / "in", tmp_path / "out")
    return tmp_path / "out"


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    output = overflowing(tmp_path)
    before = set(tmp_path.iterdir())
    message = (
        r"tensor 'layer\.bias': expected values within the range of F16, got 2 beyond it; "
        r"--dtype float32 holds them$"
    )
    with pytest.raises(InputError, match=message):
        thermoq.export(output, tmp_path / "dense", dtype="float16")
    assert set(tmp_path.iterdir()) == before
    thermoq.export(output, tmp_path / "dense", dtype="bfloat16")


def test_a_decoded_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    """Scales are rounded up, so the largest weights may decode to more than there is in f16."""
    maker = models.Maker("F32")
    maker.put("layer.weight", np.linspace(-65504, 65504, 64).reshape(1, 64))
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.baseline(tmp_path / "in", tmp_path / "out")
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    assert np.abs(models.float_tensors(tmp_path / "dense")["layer.weight"]).max() >= 65520
    with pytest.raises(InputError, match=r"'layer\.weight': expected values within the range"):
        thermoq.export(tmp_path / "out", tmp_path / "half", dtype="float16")


def test_an_existing_target_needs_overwrite(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("unet", "F32")
    target = tmp_path / "dense"
    thermoq.export(run.output, target, dtype="bfloat16")
    before = models.tree(tmp_path)
    with pytest.raises(InputError, match=r"already exists; --overwrite replaces it$"):
        thermoq.export(run.output, target)
    assert models.tree(tmp_path) == before
    thermoq.export(run.output, target, dtype="float32", overwrite=True)
    assert models.tree(target) == models.tree(run.dense)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_target_survives_an_export_that_fails(tmp_path: Path) -> None:
    output = overflowing(tmp_path)
    thermoq.export(output, tmp_path / "dense")
    before = models.tree(tmp_path)
    with pytest.raises(InputError, match="within the range of F16"):
        thermoq.export(output, tmp_path / "dense", dtype="float16", overwrite=True)
    assert models.tree(tmp_path) == before


@pytest.mark.parametrize("target", [".", "out", "out/dense"])
def test_the_target_is_apart_from_the_source(tmp_path: Path, target: str) -> None:
    thermoq.quantize(models.dream(tmp_path / "dream", "BF16"), tmp_path / "out")
    before = models.tree(tmp_path)
    with pytest.raises(UsageError, match="expected an output"):
        thermoq.export(tmp_path / "out", tmp_path / target, overwrite=True)
    assert models.tree(tmp_path) == before


def test_wrong_arguments(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("unet", "F32")
    with pytest.raises(UsageError, match=r"^--dtype: expected float32, .*, got float64$"):
        thermoq.export(run.output, tmp_path / "dense", dtype="float64")
    with pytest.raises(UsageError, match="--max-shard-size: expected"):
        thermoq.export(run.output, tmp_path / "dense", max_shard_size="many")
    with pytest.raises(InputError, match="expected a checkpoint quantized by thermoq"):
        thermoq.export(run.source, tmp_path / "dense")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_progress(quantized: Quantized, tmp_path: Path, name: str) -> None:
    seen: list[tuple[str, int]] = []
    totals: list[tuple[str, int, int]] = []

    class Recording:
        def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
            totals.append((task, total_tensors, total_bytes))

        def advance(self, tensor: str, nbytes: int) -> None:
            seen.append((tensor, nbytes))

    run = quantized(name, "F16")
    thermoq.export(run.output, tmp_path / "dense", progress=Recording())
    assert totals == [("export", len(seen), sum(nbytes for _, nbytes in seen))]
    assert {tensor for tensor, _ in seen} == models.read_tensors(run.dense / run.component).keys()


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_transformers_loads_the_real_model(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    run = quantized("minilm", "F32")
    model = transformers.AutoModel.from_pretrained(run.dense, local_files_only=True)
    exported = models.float_tensors(run.dense)
    loaded = model.state_dict()
    assert loaded.keys() <= exported.keys() | {"embeddings.position_ids"}
    assert len(loaded) > 100
    for name, tensor in loaded.items():
        if name in exported:
            assert np.array_equal(tensor.numpy(), exported[name]), name


def test_a_changed_byte_is_not_exported(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "F32")
    copied = tmp_path / "copied"
    shutil.copytree(run.output, copied)
    (weights, *_) = sorted(copied.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="the file has changed"):
        thermoq.export(copied, tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
