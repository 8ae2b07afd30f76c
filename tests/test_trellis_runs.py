"""Runs with `encoding: trellis`: what they write is read, checked and exported alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibrations
import models
import numpy as np
import pytest
import thermoq
from safetensors.numpy import save_file
from thermoq import encodings
from thermoq.candidates import candidates_for
from thermoq.checkpoint.manifest import QuantizedTensor, tensors_checksum
from thermoq.checkpoint.quantized import open_quantized
from thermoq.encodings import EncodingChoice, scheme_for
from thermoq.errors import InputError, UsageError
from thermoq.matrices import as_matrix
from thermoq.weights import dequantize, dequantize_rows, quantize

TRELLIS = {"encoding": "trellis", "effort": 1}
QUERY = "transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("name", list(models.MAKERS))
@pytest.mark.parametrize(("bit_width", "effort"), [(2, 1), (2, 5), (3, 2), (4, 3)])
def test_what_is_written_is_what_was_measured(
    tmp_path: Path, name: str, bit_width: int, effort: int
) -> None:
    source = models.MAKERS[name](tmp_path / "source", "BF16")
    settings = {"encoding": "trellis", "bit_width": bit_width, "effort": effort}
    report = thermoq.quantize(source, tmp_path / "out", max_shard_size="60KB", **settings)
    thermoq.quantize(source, tmp_path / "one", max_shard_size="60KB", threads=1, **settings)
    folder = models.COMPONENTS[name]
    assert models.read_tensors(tmp_path / "out" / folder) == models.read_tensors(
        tmp_path / "one" / folder
    )
    thermoq.verify(tmp_path / "out")
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    before = models.float_tensors(source / folder)
    after = models.float_tensors(tmp_path / "dense" / folder)
    rows = [row for row in report.layers if row.encoding == "trellis"]
    assert {row.bit_width for row in rows} <= {bit_width, 4}
    assert (report.encoding, report.window_bits) == ("trellis", effort + 7)
    for row in rows:
        lost = np.square(after[row.name].astype("f8") - before[row.name]).sum()
        assert row.squared_error == pytest.approx(lost, rel=1e-4, abs=1e-12)
        assert row.window_bits == effort + 7
        assert row.rotation == ("hadamard" if _can_rotate(row.shape, row.layer_class) else None)
    assert rows


def _can_rotate(shape: list[int], layer_class: str) -> bool:
    return len(shape) == 2 and shape[1] % 2 == 0 and layer_class != "table"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DiT `source`, its calibration, and it in trellis codes as `out`."""
    root = tmp_path_factory.mktemp("trellis")
    models.dit(root / "source", "F32")
    calibrations.calibrated(root / "source", root / "c.safetensors", rows_per_bin=24)
    thermoq.quantize(root / "source", root / "out", **TRELLIS)
    return root


Change = Callable[[dict[str, Any]], None]


def changed(there: Path, tmp_path: Path, change: Change, *, seals: bool = True) -> Path:
    """A copy whose entry of the query says something else; `seals`: with the checksum to it."""
    copy = Path(shutil.copytree(there / "out", tmp_path / "copy"))
    path = copy / "transformer/thermoq.json"
    content = json.loads(path.read_text())
    change(content["tensors"][QUERY])
    if seals:
        content["tensors_sha256"] = tensors_checksum(content["tensors"])
    path.write_text(json.dumps(content))
    return copy


def test_an_altered_seed_is_found(there: Path, tmp_path: Path) -> None:
    copy = changed(there, tmp_path, lambda entry: entry.update(table_seed=2), seals=False)
    with pytest.raises(InputError, match="tensors_sha256"):
        thermoq.verify(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_bits": 13}, "expected window_bits from 8 to 12, got 13: .* newer version"),
        ({"window_bits": None}, "expected a number as window_bits with trellis, got"),
        ({"table_seed": -1}, "table_seed.*got -1"),
        ({"block_rows": 12}, "block_rows.*got 12"),
        ({"block_rows": 4104}, "block_rows.*4096.*got 4104"),
        ({"scale_bits": 4}, "expected none as scale_bits with trellis, got 4"),
        ({"bit_width": 8}, "expected 8 bits with q8, 2 or 4 with affine"),
        ({"window_bits": 12}, r"codes': expected U8 \[\d+\], got U8"),
        ({"encoding": "trellis2"}, "expected a known encoding, got 'trellis2'"),
    ],
)
def test_entries_that_are_wrong(
    there: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        thermoq.verify(changed(there, tmp_path, lambda entry: entry.update(change)))
    assert QUERY in str(raised.value)


def test_streams_that_are_damaged(there: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(there / "out", tmp_path / "copy"))
    (component,) = open_quantized(copy)[1]
    codes = component.parts(QUERY)[-1]
    whole = codes.path.read_bytes()
    entry = component.manifest.tensors[QUERY]
    assert isinstance(entry, QuantizedTensor)
    size = entry.scheme.trellis.stream_bytes(entry.shape[0])
    last = codes.offset + size - 1
    for place, value, message in (
        (codes.offset, whole[codes.offset] ^ 4, "expected the checksum"),
        (last, whole[last] | 0x80, "expected 0 in the bits after the stream of column 0 from row"),
    ):
        codes.path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        with pytest.raises(InputError, match=message):
            thermoq.verify(copy)
    codes.path.write_bytes(whole[:-1])
    with pytest.raises(InputError):
        thermoq.verify(copy)


@pytest.mark.parametrize("method", ["lsq", "hessian"])
@pytest.mark.parametrize("phase", ["baseline", "smooth", "optimize"])
def test_every_phase(there: Path, tmp_path: Path, method: str, phase: str) -> None:
    report = thermoq.quantize(
        there / "source", tmp_path / "out", method=method, phase=phase, output_correction=False,
        calibration=str(there / "c.safetensors"), **TRELLIS,
    )  # fmt: skip
    thermoq.verify(tmp_path / "out")
    body = [row for row in report.layers if row.encoding == "trellis"]
    assert {row.method for row in body} == {method}
    assert all(row.output_relative_squared_error is not None for row in body)
    config = json.loads((tmp_path / "out/transformer/config.json").read_text())
    entry = config["quantization_config"]
    assert (entry["encoding"], entry["window_bits"], entry["group_size"]) == ("trellis", 8, None)


def test_hessian_loses_less_of_the_output(there: Path, tmp_path: Path) -> None:
    errors = {}
    for method in ("lsq", "hessian"):
        report = thermoq.quantize(
            there / "source", tmp_path / method, method=method,
            calibration=str(there / "c.safetensors"), **TRELLIS,
        )  # fmt: skip
        rows = [row for row in report.layers if row.layer_class == "body"]
        errors[method] = np.mean([row.output_relative_squared_error for row in rows])
    assert errors["hessian"] < 0.9 * errors["lsq"]


def test_some_rows_are_those_of_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2100, 24), np.float32)
    matrix = as_matrix(weights.reshape(-1).view(np.uint8), "F32", weights.shape, 0)
    scheme = scheme_for(2, 24, EncodingChoice("lsq", "trellis", effort=1), 2100)
    assert 2 * scheme.block_rows < 2100
    stored = quantize(matrix, scheme, method="lsq")[0]
    chosen = np.array([2099, 0, 7, 7, 703, 1404])
    for dtype, bytes_ in (("F32", 4), ("BF16", 2)):
        whole = dequantize(stored, dtype).reshape(2100, 24 * bytes_)
        assert (dequantize_rows(stored, chosen, dtype).reshape(6, -1) == whole[chosen]).all()


def test_a_table_in_trellis_codes_is_looked_up(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    source = Path(__file__).parent / "data" / "masked-lm"
    rule = {"match": "*embed_tokens*", "bit_width": 2, "encoding": "trellis"}
    thermoq.quantize(source, tmp_path / "out", layers=[rule], **TRELLIS)
    tokens = torch.arange(2, 34).reshape(2, 16)
    with torch.no_grad():
        looked_up, decoded = (
            thermoq.load(tmp_path / "out", packed=packed)(tokens).logits for packed in (True, False)
        )
    assert torch.equal(looked_up, decoded)
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")


@pytest.mark.parametrize(("fallback", "most"), [("q8_0", 1e-4), ("q4_0", 2e-2)])
def test_gguf_refuses_and_quantizes_anew(
    there: Path, tmp_path: Path, fallback: str, most: float
) -> None:
    gguf = pytest.importorskip("gguf")
    with pytest.raises(InputError, match="got trellis; quantize the model with --enc") as told:
        thermoq.export(there / "out", tmp_path / "m.gguf", format="gguf")
    assert not (tmp_path / "m.gguf").exists()
    assert "\n" not in str(told.value)
    written = thermoq.export(there / "out", tmp_path / "m.gguf", format="gguf", fallback=fallback)
    rows = {row.name: row for row in written.tensors}
    assert rows[QUERY].note == "trellis codes, which GGUF cannot hold"
    # What it holds are the weights that the model runs with, rounded once more.
    thermoq.export(there / "out", tmp_path / "dense", dtype="float32")
    dense = models.float_tensors(tmp_path / "dense/transformer")
    again = 0
    for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors:
        row = rows.get(tensor.name)  # long names are cut
        if row is None or row.note != "trellis codes, which GGUF cannot hold":
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        expected = dense[tensor.name].reshape(values.shape)
        lost, energy = (np.square(x, dtype="f8").sum() for x in (values - expected, expected))
        assert lost <= most * energy
        again += tensor.tensor_type.name == fallback.upper()
    assert again > 0


def test_a_budget_between_bit_widths(there: Path, tmp_path: Path) -> None:
    settings = {**TRELLIS, "layers": [{"match": "*norm*", "skip": True}]}
    sizes = [
        thermoq.plan_quantization(there / "source", bit_width=bits, **settings) for bits in (2, 3)
    ]
    middle = sum(plan.bits_per_weight_quantized for plan in sizes) / 2
    plan = thermoq.plan_quantization(there / "source", target_bits=middle, **settings)
    kinds = {row.bit_width for row in plan.tensors if row.encoding == "trellis"}
    assert kinds <= {2, 3, 4}
    assert len(kinds) > 1
    assert sizes[1].squared_error < plan.squared_error < sizes[0].squared_error
    report = thermoq.quantize(there / "source", tmp_path / "out", target_bits=middle, **settings)
    assert report.sizes.bits_per_weight_quantized <= middle
    predicted = plan.relative_squared_error
    assert report.relative_squared_error == pytest.approx(predicted, rel=0.03)


def test_budgets_are_never_worse_for_trellis(there: Path) -> None:
    """It joins the other codes, which are better between 4 and 8 bits; a rule is for it alone."""
    source, chosen = there / "source", set()
    for target in (3.5, 5.0, 6.5, 8.0):
        usual = thermoq.plan_quantization(source, target_bits=target)
        joined = thermoq.plan_quantization(source, target_bits=target, encoding="trellis")
        assert joined.bits_per_weight_quantized <= target
        assert joined.squared_error <= 1.001 * usual.squared_error
        chosen |= {row.encoding for row in joined.tensors}
    assert chosen >= {"coded", "trellis", "q8"}
    rules = [{"match": QUERY, "encoding": "trellis"}]
    for target in (5.0, 8.0):
        ruled = thermoq.plan_quantization(source, target_bits=target, layers=rules, effort=1)
        (row,) = (row for row in ruled.tensors if row.name == QUERY)
        assert row.encoding in ("trellis", "q8")


def test_a_sample_predicts_a_large_matrix(tmp_path: Path) -> None:
    """Of 1.2 million weights an eighth is measured: fewer rows and fewer columns."""
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((600, 2048)).astype(np.float32)
    (tmp_path / "in").mkdir()
    save_file({"layers.0.mlp.up_proj.weight": weights}, tmp_path / "in/model.safetensors")
    plan = thermoq.plan_quantization(tmp_path / "in", **TRELLIS)
    report = thermoq.quantize(tmp_path / "in", tmp_path / "out", **TRELLIS)
    assert report.relative_squared_error == pytest.approx(plan.relative_squared_error, rel=0.02)
    assert [row.effort for row in plan.efforts] == [1, 2, 3, 4, 5]
    assert [row.effort for row in plan.efforts if row.is_chosen] == [1]
    assert plan.num_trellis_weights == weights.size


def test_minmax_has_no_paths(there: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trellis needs method lsq"):
        thermoq.baseline(there / "source", tmp_path / "out", encoding="trellis")


@pytest.mark.parametrize("is_default", [False, True])
def test_the_switch(monkeypatch: pytest.MonkeyPatch, is_default: bool) -> None:
    monkeypatch.setattr(encodings, "TRELLIS_BY_DEFAULT", is_default)
    usual = EncodingChoice("lsq")
    of_two = "trellis" if is_default else "coded"
    assert scheme_for(2, 384, usual).encoding == of_two
    assert scheme_for(4, 384, usual).encoding == "coded"
    assert scheme_for(2, 384, EncodingChoice("minmax")).encoding == "affine"
    assert scheme_for(2, 384, EncodingChoice("lsq", scale_bits=3)).encoding == "coded"
    found = candidates_for("body", 384, usual)
    assert ({s.bit_width for s in found if s.encoding == "trellis"} == {2, 3, 4}) is is_default
    for bits in (2, 4):
        assert [s for s in found if s.bit_width == bits][-1] == scheme_for(bits, 384, usual)
