"""`inspect`: the plan for a checkpoint, and what one that is quantized holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import pytest
import thermoq
from conftest import Run
from safetensors_files import write_header
from thermoq.errors import InputError, UsageError
from thermoq.inspection import Inspection

Quantized = Callable[[str, str], Run]


def test_the_plan_is_what_is_done(run: Run) -> None:
    planned = thermoq.inspect(run.source, **run.settings)
    stored = thermoq.inspect(run.output)
    assert (planned.quantized, stored.quantized) == (False, True)
    assert planned.layout == stored.layout
    after = {tensor.name: tensor for tensor in stored.tensors}
    assert after.keys() == {tensor.name for tensor in planned.tensors}
    for before in planned.tensors:
        tensor = after[before.name]
        for figure in ("component", "shape", "dtype", "num_weights", "layer_class", "encoding",
                       "bit_width", "source_bytes"):  # fmt: skip
            assert getattr(tensor, figure) == getattr(before, figure), (before.name, figure)
        if tensor.same_as is None:
            assert tensor.stored_bytes == before.stored_bytes
            assert tensor.bits_per_weight == before.bits_per_weight
        else:
            assert (tensor.stored_bytes, tensor.bits_per_weight) == (0, 0.0)
        assert before.same_as is None  # not known without reading every byte


def test_totals_by_class(run: Run) -> None:
    found = thermoq.inspect(run.output)
    *classes, everything = found.class_totals()
    assert everything.layer_class == "all"
    source = models.read_tensors(run.source / run.component)
    output = models.read_tensors(run.output / run.component)
    assert everything.num_tensors == len(source)
    assert everything.source_bytes == sum(len(data) for _, _, data in source.values())
    assert everything.stored_bytes == sum(len(data) for _, _, data in output.values())
    for total in classes:
        (row,) = (r for r in run.report.layer_classes if r.layer_class == total.layer_class)
        for figure in ("num_tensors", "num_weights", "source_bytes", "stored_bytes"):
            assert getattr(total, figure) == getattr(row, figure)
        assert total.bits_per_weight == pytest.approx(row.bits_per_weight)


def test_it_agrees_with_the_report(run: Run) -> None:
    by_name = {tensor.name: tensor for tensor in thermoq.inspect(run.output).tensors}
    for row in run.report.layers:
        tensor = by_name[row.name]
        assert tensor.layer_class == row.layer_class
        assert (tensor.bit_width, tensor.encoding) == (row.bit_width, row.encoding)
        assert (tensor.stored_bytes, tensor.same_as) == (row.stored_bytes, row.same_as)
    for copied in run.report.copied:
        tensor = by_name[copied.name]
        assert (tensor.layer_class, tensor.bit_width) == (None, None)
        assert (tensor.encoding, tensor.reason) == ("copied", copied.reason)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("unet", "diffusers"), ("dream", "transformers"), ("oddities", "component")],
)
def test_layouts_and_names(tmp_path: Path, name: str, layout: str) -> None:
    found = thermoq.inspect(models.MAKERS[name](tmp_path / "a-model", "F16"))
    assert (found.layout, found.name) == (layout, "a-model")


def test_settings_change_the_plan(quantized: Quantized, tmp_path: Path) -> None:
    source = quantized("dream", "BF16").source
    config = tmp_path / "thermoq.yaml"
    config.write_text(
        "quantization: {bit_width: 4, layers: [{match: '*.q_proj.*', skip: true}, "
        "{match: nothing, skip: true}]}"
    )
    found = thermoq.inspect(source, config=config)
    bits = {tensor.name: tensor.bit_width for tensor in found.tensors}
    assert bits["model.layers.0.mlp.up_proj.weight"] == 4
    assert bits["model.layers.0.self_attn.q_proj.weight"] is None
    assert found.notes == ("layers: pattern 'nothing' matches no tensor",)
    assert {t.bit_width for t in thermoq.inspect(source, bit_width=8).tensors} == {8, None}
    with pytest.raises(UsageError, match="--bit-width: expected 2, 3, 4 or 8, got 5"):
        thermoq.inspect(source, bit_width=5)


def test_rotated_tensors(quantized: Quantized, tmp_path: Path) -> None:
    source = quantized("dream", "BF16").source
    rotated = [
        {tensor.name for tensor in found.tensors if tensor.rotation == "hadamard"}
        for found in (
            thermoq.inspect(source),
            thermoq.inspect(source, encoding="coded", rotation="hadamard"),
            _quantized_with_rotation(source, tmp_path / "trellis"),
            _quantized_with_rotation(source, tmp_path / "coded", encoding="coded"),
        )
    ]
    assert rotated[0] == rotated[1] == rotated[2] == rotated[3]
    assert "model.layers.0.mlp.up_proj.weight" in rotated[0]
    assert "model.embed_tokens.weight" not in rotated[0]
    for settings in ({"encoding": "coded"}, {"rotation": "none"}):
        assert {tensor.rotation for tensor in thermoq.inspect(source, **settings).tensors} == {None}


def _quantized_with_rotation(source: Path, output: Path, **settings: str) -> Inspection:
    report = thermoq.quantize(source, output, rotation="hadamard", **settings)
    found = thermoq.inspect(output)
    by_name = {tensor.name: tensor.rotation for tensor in found.tensors}
    assert {row.name: row.rotation for row in report.layers}.items() <= by_name.items()
    return found


def test_an_extra_component(quantized: Quantized, tmp_path: Path) -> None:
    source = quantized("dit", "F32").source
    found = thermoq.inspect(source, components=["vae"])
    assert {tensor.component for tensor in found.tensors} == {"transformer", "vae"}
    thermoq.quantize(source, tmp_path / "out", components=["vae"])
    stored = thermoq.inspect(tmp_path / "out")  # without being told
    assert {tensor.component for tensor in stored.tensors} == {"transformer", "vae"}


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A file of a terabyte, nearly all of it a hole."""
    shape = [1 << 19, 1 << 20]
    header = {"w.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 1 << 40]}}
    path = write_header(tmp_path / "model.safetensors", header)
    try:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + (1 << 40))
    except OSError:
        pytest.skip("the file system has no files of this size")
    (tensor,) = thermoq.inspect(tmp_path).tensors
    assert tensor.num_weights == 1 << 39


def test_wrong_directories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no such directory"):
        thermoq.inspect(tmp_path / "missing")
    with pytest.raises(InputError, match=r"expected (safetensors weights|a folder)"):
        thermoq.inspect(tmp_path)
