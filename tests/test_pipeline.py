"""End to end: what a run writes, whatever the machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import thermoq
from conftest import Run
from safetensors import safe_open
from safetensors_files import write_json, write_safetensors
from thermoq.invocation import Invocation

Quantized = Callable[..., Run]

DEFAULT = {"method": None, "encoding": None, "effort": None}
ENCODINGS = pytest.mark.parametrize("encoding", [None, "coded"])

# What lies in the output.


def test_files_of_the_output(run: Run) -> None:
    produced = set(models.tree(run.output))
    carried = set(models.tree(run.source))
    component = f"{run.component}/" if run.component else ""
    manifest = f"{component}thermoq.json"
    left_out = {name for name in carried if name.startswith(component) and "safetensors" in name}
    assert carried - left_out <= produced
    extra = produced - carried
    assert manifest in extra
    assert all(name == manifest or name.endswith(".safetensors") for name in extra)


def test_other_files_are_carried_over(run: Run) -> None:
    before, after = models.tree(run.source), models.tree(run.output)
    config = f"{run.component}/config.json".lstrip("/")
    for name in before.keys() & after.keys():
        if not name.endswith("model.safetensors") and name != config:
            assert after[name] == before[name], name
    changed = json.loads(after[config])
    entry = changed.pop("quantization_config")
    assert changed == json.loads(before[config])
    assert entry["quant_method"] == "thermoq"
    # Inputs are rotated by default with trellis, which version 1 cannot say.
    assert (entry["format_version"], entry["bit_width"]) == (1 + (run.settings == DEFAULT), 2)
    expected = {
        "trellis": {"method": "lsq", "group_size": None, "window_bits": 12},
        "coded": {
            "method": "lsq", "group_size": 16, "super_block": None, "scale_bits": 4,
            "minimum_bits": 4,
        },
        "affine": {"method": "minmax", "group_size": 64},
    }  # fmt: skip
    keys = {key for how in expected.values() for key in how}
    encoding = entry["encoding"]
    assert (encoding == "trellis") is (run.settings == DEFAULT)
    assert {key: entry[key] for key in keys if key in entry} == expected[encoding]


def test_a_vae_is_copied_as_it_is(quantized: Quantized) -> None:
    run = quantized("dit", "F16")
    name = "vae/diffusion_pytorch_model.safetensors"
    assert models.tree(run.output)[name] == models.tree(run.source)[name]


def test_every_tensor_comes_back(run: Run) -> None:
    before = models.read_tensors(run.source / run.component)
    after = models.read_tensors(run.dense / run.component)
    assert after.keys() == before.keys()
    for name, (dtype, shape, _) in before.items():
        expected = "F32" if dtype in models.FLOAT_DTYPES else dtype
        assert after[name][:2] == (expected, shape)


def test_copied_tensors_keep_every_bit(run: Run) -> None:
    before = models.read_tensors(run.source / run.component)
    stored = models.read_tensors(run.output / run.component)
    for row in run.report.copied:
        assert stored[row.same_as or row.name] == before[row.name], row.name


def test_files_open_with_the_plain_safetensors_package(run: Run) -> None:
    for path in models.safetensors_files(run.output / run.component):
        with safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name.endswith((".codes", ".scale", ".minimum")):
                    file.get_tensor(name)


def test_identical_tensors_are_stored_once(quantized: Quantized) -> None:
    run = quantized("dit", "BF16")
    stored = models.read_tensors(run.output / "transformer")
    repeated = [row for row in run.report.layers if row.same_as is not None]
    assert len(repeated) == 6  # three embedders in the second and third block
    for row in repeated:
        assert row.same_as == row.name.replace(row.name.split(".")[1], "0", 1)
        assert f"{row.name}.codes" not in stored
        assert f"{row.same_as}.codes" in stored
        assert row.stored_bytes == 0
    after = models.read_tensors(run.dense / "transformer")
    for row in repeated:
        assert row.same_as is not None
        assert after[row.name] == after[row.same_as]


def test_the_report_in_the_manifest_varies_with_nothing_but_the_input(
    quantized: Quantized,
) -> None:
    run = quantized("dream", "F16")
    embedded = json.loads((run.output / "thermoq.json").read_text())["report"]
    assert embedded["smoothness_score"] == run.report.smoothness_score
    assert embedded["provenance"].keys() == {"seed", "input_fingerprint"}
    assert str(run.output) not in json.dumps(embedded)


@pytest.mark.parametrize("first", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_head_with_the_bytes_of_the_table(tmp_path: Path, first: str) -> None:
    """Tied weights that were saved twice: the head runs at every timestep, the table never does."""
    names = {"lm_head.weight", "model.embed_tokens.weight"}
    (second,) = names - {first}
    maker = models.Maker("BF16")
    maker.add(first, 64, 40)
    maker.repeat(second, first)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/config.json", {"model_type": "Dream"})
    report = thermoq.quantize(tmp_path / "in", tmp_path / "out")
    rows = {row.name: row for row in report.layers}
    assert rows[second].same_as == first
    assert rows["lm_head.weight"].time_parameters is not None
    assert rows["model.embed_tokens.weight"].time_parameters is None
    assert [row.in_headline for row in report.layers].count(True) == 1


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "in/model.safetensors", {})
    write_json(tmp_path / "in/config.json", {})
    report = thermoq.quantize(tmp_path / "in", tmp_path / "out", report=tmp_path / "r.json")
    assert (report.layers, report.copied, report.smoothness_score) == ([], [], None)
    assert thermoq.verify(tmp_path / "out").num_tensors == 0
    thermoq.export(tmp_path / "out", tmp_path / "dense")
    assert models.read_tensors(tmp_path / "dense") == {}


# The same bytes on every machine.


@pytest.mark.parametrize("name", ["unet", "dit", "dream", "oddities"])
@pytest.mark.parametrize("dtype", models.FLOAT_DTYPES)
@ENCODINGS
def test_threads_and_levels_change_no_byte(
    quantized: Quantized,
    simd_level: str,
    tmp_path: Path,
    name: str,
    dtype: str,
    encoding: str | None,
) -> None:
    run = quantized(name, dtype, encoding=encoding)
    expected = models.tree(run.output)
    for threads in (1, 4):
        output = tmp_path / f"with-{threads}-threads"
        thermoq.quantize(run.source, output, threads=threads, encoding=encoding)
        found = models.tree(output)
        assert found.keys() == expected.keys()
        assert [n for n in found if found[n] != expected[n]] == []


@pytest.mark.parametrize("settings", [{"effort": 1}, {"encoding": "coded"}], ids=str)
def test_threads_and_levels_change_no_byte_of_a_real_model(
    quantized: Quantized, simd_level: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = quantized("minilm", "BF16", **settings)
    thermoq.quantize(run.source, tmp_path / "again", threads=3, **settings)
    assert models.tree(tmp_path / "again") == models.tree(run.output)


def test_reports_and_paths_change_no_byte(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "F32")
    moved = tmp_path / run.source.name
    models.dit(moved, "F32")
    thermoq.quantize(
        moved,
        tmp_path / "elsewhere",
        report=tmp_path / "report.json",
        html_report=tmp_path / "report.html",
        invocation=Invocation("baseline", "thermoq baseline"),
    )
    assert models.tree(tmp_path / "elsewhere") == models.tree(run.output)


@ENCODINGS
def test_the_seed_changes_the_prior_and_the_rotation_alone(
    quantized: Quantized, tmp_path: Path, encoding: str | None
) -> None:
    run = quantized("unet", "F32", encoding=encoding)
    report = thermoq.quantize(run.source, tmp_path / "out", seed=1, encoding=encoding)
    assert report.smoothness_score != run.report.smoothness_score
    before, after = models.tree(run.output), models.tree(tmp_path / "out")
    weights = "unet/diffusion_pytorch_model.safetensors"
    changed = {"unet/thermoq.json"} | ({weights} if encoding is None else set())
    assert {n for n in after if after[n] != before[n]} == changed
    stored = [models.read_tensors(output / "unet") for output in (run.output, tmp_path / "out")]
    for row in report.layers:
        parts = [key for key in stored[0] if key.startswith(f"{row.name}.")]
        assert all(stored[0][p] == stored[1][p] for p in parts) is (row.rotation is None)


# Reports as files.


def test_report_files(tmp_path: Path) -> None:
    source = models.unet(tmp_path / "unet", "F32")
    report = thermoq.quantize(
        source, tmp_path / "out", report=tmp_path / "r.json", html_report=tmp_path / "page.html"
    )
    produced = {path.name for path in tmp_path.iterdir()}
    assert produced == {"unet", "out", "r.json", "r.log", "page.html"}
    written = json.loads((tmp_path / "r.json").read_text())
    assert thermoq.Report.model_validate(written) == report
    assert written["violation_count"] == report.violation_count
    assert "<html" in (tmp_path / "page.html").read_text()


def test_baseline_is_minmax(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    report = thermoq.baseline(source, tmp_path / "out", bit_width=4)
    assert (report.method, report.phase, report.bit_width) == ("minmax", "baseline", 4)


def test_paths_may_be_strings(tmp_path: Path) -> None:
    models.dream(tmp_path / "dream", "BF16")
    thermoq.quantize(
        str(tmp_path / "dream"), str(tmp_path / "out"), report=str(tmp_path / "r.json")
    )
    assert thermoq.verify(str(tmp_path / "out")).num_tensors > 0
