"""GGUF files against the dense export and the `gguf` package's reader."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import thermoq
from conftest import Run
from gguf_files import Read, dense, long_names, read_gguf, wide
from numpy.typing import NDArray
from safetensors_files import write_json, write_safetensors
from thermoq.errors import InputError, UsageError
from thermoq.gguf.names import FULL_NAME_KEY, full_names
from thermoq.gguf.result import GgufExport

pytest.importorskip("gguf")

Quantized = Callable[..., Run]

FALLBACKS = [None, "q8_0", "q4_0"]
RUNS = [
    *((name, dtype, "coded") for name in models.MAKERS for dtype in models.FLOAT_DTYPES),
    ("minilm", "F32", "coded"),
    ("minilm", "BF16", "coded"),
    *((name, "BF16", "affine") for name in models.MAKERS),
]
REASONS = ("dimensions", "no multiple of", "in no ggml type")


def same(found: NDArray[np.generic], expected: NDArray[np.generic]) -> bool:
    """Equal bit for bit; a NaN may have another payload."""
    if expected.dtype == np.float32:
        nan = np.isnan(expected)
        return np.array_equal(np.isnan(found), nan) and np.array_equal(
            np.where(nan, 0, found).view("u4"), np.where(nan, 0, expected).view("u4")
        )
    return np.array_equal(found, expected)


def check(written: GgufExport, expected: dict[str, NDArray[np.generic]]) -> dict[str, Read]:
    """Every tensor is in the file as the result says, and exact where it says so."""
    fields, tensors = read_gguf(written.path)
    back = full_names(fields)
    assert len(tensors) == len([row for row in written.tensors if row.outcome != "dropped"])
    assert {back.get(name, name) for name in tensors} == {row.name for row in written.tensors}
    for row in written.tensors:
        found = tensors[row.gguf_name]
        assert (found.type, found.shape, found.nbytes) == (row.type, row.shape, row.nbytes)
        truth = expected.get(row.name)
        if truth is None:  # float8, which NumPy lacks
            continue
        if row.outcome == "exact":
            assert row.relative_squared_error == 0
            assert same(found.values, truth), row.name
        else:
            difference = found.values.astype("f8") - truth
            error = np.square(difference).sum() / np.square(truth, dtype="f8").sum()
            assert row.relative_squared_error == pytest.approx(error, rel=1e-9)
    assert written.nbytes == written.path.stat().st_size
    return tensors


@pytest.fixture(params=RUNS, ids="-".join)
def run(request: pytest.FixtureRequest, quantized: Quantized) -> Run:
    """Every model in every dtype, in the codes that GGUF can hold."""
    name, dtype, encoding = request.param
    if encoding == "affine":
        return quantized(name, dtype, "minmax")
    return quantized(name, dtype, encoding=encoding)


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_every_model_comes_back(run: Run, tmp_path: Path, fallback: str | None) -> None:
    written = thermoq.export(run.output, tmp_path / "m.gguf", format="gguf", fallback=fallback)
    check(written, dense(run.output, run.component, tmp_path / "dense"))
    quantized = {row.name for row in run.report.layers}
    for row in written.tensors:
        if row.name not in quantized:
            assert row.outcome == "exact"
        elif row.type in ("F16", "F32") or row.outcome == "rounded":
            assert any(reason in row.note for reason in REASONS)
        if fallback is None:
            assert row.outcome == "exact"


@pytest.mark.parametrize("dtype", models.FLOAT_DTYPES)
@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_blocks_of_llama_cpp(tmp_path: Path, dtype: str, bit_width: int) -> None:
    source = wide(tmp_path / "in", dtype)
    encoding = None if bit_width == 8 else "coded"
    thermoq.quantize(source, tmp_path / "out", bit_width=bit_width, encoding=encoding)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    types = {row.name: row.type for row in written.tensors}
    body = {2: "Q2_K", 4: "Q4_K", 8: "Q8_0"}[bit_width]
    assert types["blocks.0.attn.to_q.weight"] == types["blocks.1.ff.net.0.proj.weight"] == body
    assert types["time_embed.linear_1.weight"] == "Q8_0"
    assert types["blocks.0.conv.weight"] in ("F16", "F32")
    assert types["ragged.weight"] in ("F16", "F32")
    assert written.inexact == ()
    bits = {"Q2_K": 2.625, "Q4_K": 4.5, "Q8_0": 8.5}
    for total in written.type_totals():
        if total.type in bits:
            assert 8 * total.nbytes == bits[total.type] * total.num_weights


@pytest.mark.parametrize("bit_width", [2, 4])
def test_affine_groups_fit_into_q4_1(tmp_path: Path, bit_width: int) -> None:
    source = wide(tmp_path / "in", "BF16")
    thermoq.baseline(source, tmp_path / "out", bit_width=bit_width)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    types = {row.name: row.type for row in written.tensors}
    assert types["blocks.0.attn.to_q.weight"] == "Q4_1"
    assert types["ragged.weight"] == "F32"


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("encoding", ["affine", "coded"])
def test_rotated_tensors_become_numbers(
    tmp_path: Path, encoding: str, fallback: str | None
) -> None:
    source = wide(tmp_path / "in", "F32")
    settings = {"method": "lsq", "rotation": "hadamard", "encoding": encoding}
    thermoq.quantize(source, tmp_path / "out", **settings)
    written = thermoq.export(
        tmp_path / "out", tmp_path / "m.gguf", format="gguf", fallback=fallback
    )
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    entries = json.loads((tmp_path / "out/thermoq.json").read_text())["tensors"]
    rows = {row.name: row for row in written.tensors}
    rotated = {name for name, entry in entries.items() if "rotation" in entry}
    assert rotated >= {"blocks.0.attn.to_q.weight", "ragged.weight"}
    for name in rotated:
        assert rows[name].note == "rotated inputs, which GGUF cannot hold"
        if fallback is None:
            assert (rows[name].type, rows[name].outcome) == ("F32", "exact")
    if fallback is not None:
        assert rows["blocks.0.attn.to_q.weight"].type == fallback.upper()
    assert rows["time_embed.linear_1.weight"].type == "Q8_0"
    assert rows["blocks.0.conv.weight"].note == "4 dimensions"


@pytest.mark.parametrize(
    ("fallback", "least", "most"), [("q8_0", 1e-6, 1e-4), ("q4_0", 1e-4, 0.02)]
)
def test_a_second_rounding_is_measured(
    tmp_path: Path, fallback: str, least: float, most: float
) -> None:
    source = wide(tmp_path / "in", "F32")
    thermoq.baseline(source, tmp_path / "out", group_size=24)
    written = thermoq.export(
        tmp_path / "out", tmp_path / "m.gguf", format="gguf", fallback=fallback
    )
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    rows = {row.name: row for row in written.tensors}
    linear = rows["blocks.0.attn.to_q.weight"]
    assert (linear.type, linear.outcome) == (fallback.upper(), "rounded")
    assert least < linear.relative_squared_error < most
    for name in ("blocks.0.conv.weight", "blocks.1.conv3d.weight", "ragged.weight"):
        assert (rows[name].type, rows[name].outcome) == ("F16", "rounded")
        assert 0 < rows[name].relative_squared_error < 1e-6
    assert rows["time_embed.linear_1.weight"].type == "Q8_0"
    assert rows["time_embed.linear_1.weight"].outcome == "exact"
    assert {row.outcome for row in written.tensors} == {"exact", "rounded"}


def test_weights_that_a_second_rounding_would_ruin_stay_exact(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    rng = np.random.default_rng(0)
    faint = rng.standard_normal((8, 96)) * 1e-7
    faint[0, :32] = 0
    maker.put("faint.weight", faint)
    maker.put("far.weight", np.linspace(-65504, 65504, 64).reshape(1, 64))
    maker.put("far_ragged.weight", np.linspace(-65504, 65504, 65).reshape(1, 65))
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.baseline(tmp_path / "in", tmp_path / "out", group_size=24)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf", fallback="q4_0")
    tensors = check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    assert all(np.isfinite(tensor.values).all() for tensor in tensors.values())


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("size", [1e-7, 1e-6, 1e-5])
def test_a_fallback_leaves_small_weights_exact(
    tmp_path: Path, fallback: str | None, size: float
) -> None:
    maker = models.Maker("F16")
    maker.put("faint.weight", np.random.default_rng(0).standard_normal((16, 64)) * size)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    written = thermoq.export(
        tmp_path / "out", tmp_path / "m.gguf", format="gguf", fallback=fallback
    )
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    (row,) = written.tensors
    assert (row.type, row.outcome) == ("F16", "exact")


def test_quiet_blocks_in_a_louder_matrix_do_not_count(tmp_path: Path) -> None:
    maker = models.Maker("F16")
    weights = np.random.default_rng(0).standard_normal((16, 64)) * 1e-2
    weights[:8, 32:] *= 1e-5
    maker.put("mixed.weight", weights)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf", fallback="q8_0")
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    (row,) = written.tensors
    assert row.type == "Q8_0"
    assert row.relative_squared_error < 1e-4


def test_a_reason_is_given_once(tmp_path: Path) -> None:
    source = models.oddities(tmp_path / "in", "F32")
    thermoq.quantize(source, tmp_path / "out", encoding="coded")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    notes = {row.name: row.note for row in written.tensors}
    assert notes["kernel_3d.weight"] == "5 dimensions, ggml itself reads 4"


def test_dtypes_that_gguf_lacks_are_widened(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("oddities", "F32", encoding="coded")
    written = thermoq.export(run.output, tmp_path / "m.gguf", format="gguf")
    rows = {row.name: row for row in written.tensors}
    tensors = check(written, dense(run.output, "", tmp_path / "dense"))
    assert (rows["as_bool.weight"].type, rows["as_bool.weight"].note) == ("I8", "GGUF has no BOOL")
    assert rows["as_u8.weight"].type == "I16"
    assert rows["as_i64.weight"].type == "I64"
    assert rows["as_f64.weight"].type == "F64"
    assert rows["as_f8.weight"].type == "F16"
    assert tensors["as_f8.weight"].values.tolist() == [
        [0, 2**-9, 2**-8],
        [3 * 2**-9, 2**-7, 5 * 2**-9],
    ]
    assert rows["kernel_3d.weight"].shape == (5, 7, 9, 2, 3)
    assert "ggml itself reads 4" in rows["kernel_3d.weight"].note
    assert rows["empty.weight"].nbytes == 0
    assert rows["scalar.weight"].shape == ()


@pytest.mark.parametrize("dtype", ["U64", "C64", "F8_E8M0"])
def test_a_dtype_that_cannot_be_held_is_refused(tmp_path: Path, dtype: str) -> None:
    maker = models.Maker("F32")
    maker.linear("layer", 8, 16)
    size = {"U64": 8, "C64": 8, "F8_E8M0": 1}[dtype]
    maker.tensors["odd"] = (dtype, (2,), bytes(2 * size))
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    before = models.tree(tmp_path)
    with pytest.raises(InputError, match=rf"tensor 'odd': expected a dtype .*, got {dtype}$"):
        thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    assert models.tree(tmp_path) == before


def test_more_than_five_dimensions_are_refused(tmp_path: Path) -> None:
    maker = models.Maker("F32")
    maker.linear("layer", 8, 16)
    maker.add("six", 1, 2, 1, 2, 1, 2)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    with pytest.raises(InputError, match="tensor 'six': expected at most 5 dimensions"):
        thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_bfloat16_is_kept_only_where_loaders_decode_it(tmp_path: Path) -> None:
    maker = models.Maker("BF16")
    maker.linear("layer", 8, 16)
    maker.linear("skipped", 8, 16)
    maker.put("fine", np.array([[1e-30, 1.0]]))
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    rules = [{"match": "skipped.weight", "skip": True}]
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded", layers=rules)
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    check(written, dense(tmp_path / "out", "", tmp_path / "dense"))
    types = {row.name: row.type for row in written.tensors}
    assert types["skipped.weight"] == "BF16"
    assert types["skipped.bias"] in ("F16", "F32")
    assert types["fine"] == "F32"


def test_long_names_are_shortened_and_kept_in_the_metadata(tmp_path: Path) -> None:
    output, name = long_names(tmp_path)
    written = thermoq.export(output, tmp_path / "m.gguf", format="gguf")
    fields, tensors = read_gguf(written.path)
    assert all(len(name.encode()) <= 63 for name in tensors)
    (short,) = (row.gguf_name for row in written.tensors if row.name == name)
    assert fields[FULL_NAME_KEY + short] == name
    assert {row.name for row in written.shortened} == {name, name.replace("weight", "bias")}
    check(written, dense(output, "", tmp_path / "dense"))


def test_full_names(tmp_path: Path) -> None:
    output, name = long_names(tmp_path)
    written = thermoq.export(output, tmp_path / "m.gguf", format="gguf", names="full")
    fields, tensors = read_gguf(written.path)
    assert name in tensors
    assert not full_names(fields)


def test_metadata(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("unet", "BF16", encoding="coded")
    written = thermoq.export(run.output, tmp_path / "m.gguf", format="gguf")
    fields, _ = read_gguf(written.path)
    manifest = json.loads((run.output / "unet/thermoq.json").read_text())
    assert fields["general.architecture"] == written.architecture == "unet2dmodel"
    assert fields["general.name"] == f"{run.output.name} unet"
    assert fields["general.quantization_version"] == 2
    assert fields["thermoq.version"] == thermoq.__version__
    assert fields["thermoq.component"] == "unet"
    assert fields["thermoq.tensors_sha256"] == manifest["tensors_sha256"]
    assert fields["thermoq.method"] == manifest["method"]
    assert fields["thermoq.bit_width"] == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "flux"),
        ({"_class_name": "WanTransformer3DModel"}, "wan"),
        ({"_class_name": "UNet2DConditionModel"}, "sd1"),
        ({"model_type": "Dream"}, "dream"),
        ({"_class_name": "???"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_architecture(tmp_path: Path, config: dict[str, str], expected: str) -> None:
    maker = models.Maker("F32")
    maker.linear("layer", 8, 32)
    write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
    write_json(tmp_path / "in/config.json", config)
    thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    assert written.architecture == expected
    if expected == "sd1":
        maker.linear("add_embedding.linear_1", 8, 32)
        write_safetensors(tmp_path / "in/model.safetensors", maker.tensors)
        thermoq.quantize(tmp_path / "in", tmp_path / "out", encoding="coded", overwrite=True)
        written = thermoq.export(
            tmp_path / "out", tmp_path / "m.gguf", format="gguf", overwrite=True
        )
        assert written.architecture == "sdxl"


def test_additions_are_dropped_and_said(tmp_path: Path) -> None:
    thermoq.quantize(wide(tmp_path / "in"), tmp_path / "out", encoding="coded")
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    gain = ("F32", (4,), bytes(16))
    models.replace_tensors(
        weights, lambda tensors: tensors | {"blocks.0.attn.to_q.weight.time_gain": gain}
    )
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    (row,) = written.inexact
    assert (row.name, row.outcome, row.gguf_name) == (
        "blocks.0.attn.to_q.weight.time_gain",
        "dropped",
        "",
    )
    assert "time parameters" in row.note
    assert row.name not in read_gguf(written.path)[1]


def test_one_component_of_several(tmp_path: Path) -> None:
    source = models.dit(tmp_path / "dit")
    thermoq.quantize(source, tmp_path / "out", components=["vae"], encoding="coded")
    with pytest.raises(UsageError, match=r"expected --component with several .* transformer, vae"):
        thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf")
    written = thermoq.export(tmp_path / "out", tmp_path / "m.gguf", format="gguf", component="vae")
    assert written.component == "vae"
    assert {row.name for row in written.tensors} == {
        "encoder.conv_in.weight",
        "encoder.conv_in.bias",
    }
    with pytest.raises(UsageError, match=r"^--component: expected one of .*, got 'unet'$"):
        thermoq.export(tmp_path / "out", tmp_path / "n.gguf", format="gguf", component="unet")


def test_wrong_arguments(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("unet", "F32", encoding="coded")
    target = tmp_path / "m.gguf"
    with pytest.raises(UsageError, match=r"^--format: expected safetensors or gguf, got onnx$"):
        thermoq.export(run.output, target, format="onnx")
    for flag in ("dtype", "max_shard_size"):
        with pytest.raises(UsageError, match=r"expected none with --format gguf, got float16$"):
            thermoq.export(run.output, target, format="gguf", **{flag: "float16"})  # type: ignore[call-overload]
    for flag in ("names", "fallback", "component"):
        with pytest.raises(UsageError, match=r"expected none with --format safetensors, got x$"):
            thermoq.export(run.output, target, **{flag: "x"})  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"^--fallback: expected q8_0, q4_0, got q2_k$"):
        thermoq.export(run.output, target, format="gguf", fallback="q2_k")
    with pytest.raises(UsageError, match=r"^--names: expected checkpoint, full, original, got x$"):
        thermoq.export(run.output, target, format="gguf", names="x")
    with pytest.raises(UsageError, match=r"ends in \.gguf$"):
        thermoq.export(run.output, tmp_path / "m.bin", format="gguf")
    with pytest.raises(UsageError, match="outside the input directory"):
        thermoq.export(run.output, run.output / "m.gguf", format="gguf")
    with pytest.raises(InputError, match="expected an existing directory"):
        thermoq.export(run.output, tmp_path / "none/m.gguf", format="gguf")
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    with pytest.raises(InputError, match="expected a file"):
        thermoq.export(run.output, target, format="gguf", overwrite=True)


def test_an_existing_target_needs_overwrite(quantized: Quantized, tmp_path: Path) -> None:
    run, target = quantized("unet", "F32", encoding="coded"), tmp_path / "m.gguf"
    target.write_text("before")
    with pytest.raises(InputError, match=r"already exists; --overwrite replaces it$"):
        thermoq.export(run.output, target, format="gguf")
    assert target.read_text() == "before"
    thermoq.export(run.output, target, format="gguf", overwrite=True)
    assert target.read_bytes()[:4] == b"GGUF"
    assert list(tmp_path.iterdir()) == [target]


def test_a_changed_byte_is_not_exported(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "F32", encoding="coded")
    copied = tmp_path / "copied"
    shutil.copytree(run.output, copied)
    (weights, *_) = sorted(copied.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (tmp_path / "m.gguf").write_text("before")
    with pytest.raises(InputError, match="the file has changed"):
        thermoq.export(copied, tmp_path / "m.gguf", format="gguf", overwrite=True)
    assert (tmp_path / "m.gguf").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"copied", "m.gguf"}


def test_a_full_disk_leaves_nothing(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    def full(self: object, tensor: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = quantized("unet", "F32", encoding="coded")
    (tmp_path / "m.gguf").write_text("before")
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(InputError, match=r"m\.gguf: cannot be written: No space left on device$"):
        thermoq.export(run.output, tmp_path / "m.gguf", format="gguf", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_text() == "before"


def test_the_demo_model(tmp_path: Path) -> None:
    model = Path(thermoq.__file__).parent / "models/digits-dit"
    thermoq.quantize(model, tmp_path / "out", encoding="coded")
    expected = dense(tmp_path / "out", "transformer", tmp_path / "dense")
    for fallback in FALLBACKS:
        written = thermoq.export(
            tmp_path / "out", tmp_path / f"{fallback}.gguf", format="gguf", fallback=fallback
        )
        check(written, expected)
        assert bool(written.inexact) == (fallback is not None)


def test_the_same_bytes_at_any_number_of_threads(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16", encoding="coded")
    files = set()
    for threads in (1, 4):
        target = tmp_path / f"{threads}.gguf"
        thermoq.export(run.output, target, format="gguf", fallback="q8_0", threads=threads)
        files.add(target.read_bytes())
    assert len(files) == 1


def test_without_the_package(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quantized("unet", "F32", encoding="coded")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"pip install 'thermoq\[gguf\]'$"):
        thermoq.export(run.output, tmp_path / "m.gguf", format="gguf")


def test_progress(quantized: Quantized, tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {}
    totals: dict[str, tuple[int, int]] = {}

    class Recording:
        def start(self, task: str, total_tensors: int, total_bytes: int) -> None:
            totals[task] = total_tensors, total_bytes
            self.task = seen.setdefault(task, [])

        def advance(self, tensor: str, nbytes: int) -> None:
            self.task.append(nbytes)

    run = quantized("dit", "F16", encoding="coded")
    thermoq.export(run.output, tmp_path / "m.gguf", format="gguf", progress=Recording())
    assert totals == {task: (len(sizes), sum(sizes)) for task, sizes in seen.items()}
    assert totals.keys() == {"examine", "export"}
