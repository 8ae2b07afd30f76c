"""End to end: what each setting changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import reference
import thermoq
from conftest import Run
from safetensors import safe_open
from thermoq.errors import UsageError

Quantized = Callable[..., Run]


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in models.safetensors_files(folder))


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "thermoq.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_bit_widths(quantized: Quantized, tmp_path: Path, bit_width: int) -> None:
    run = quantized("dit", "BF16")
    report = thermoq.quantize(run.source, tmp_path / "out", bit_width=bit_width)
    bits = {row.layer_class: row.bit_width for row in report.layers}
    assert bits == {"body": bit_width, "modulation": max(4, bit_width), "sensitive": 8, "table": 8}
    assert report.nominal_compression_ratio == 16 / bit_width
    assert report.method == "lsq"
    encodings = {row.layer_class: row.encoding for row in report.layers}
    of_bits = {2: "trellis", 4: "coded", 8: "q8"}
    assert report.encoding == of_bits[bit_width]
    assert encodings == {key: of_bits[bits[key]] for key in bits}
    rotated = {row.encoding for row in report.layers if row.rotation is not None}
    assert rotated == ({"trellis"} if bit_width == 2 else set())
    assert report.smoothness_score == run.report.smoothness_score  # weights have no say in it
    thermoq.verify(tmp_path / "out")


def test_more_bits_are_closer(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("unet", "BF16")
    errors = [
        thermoq.quantize(run.source, tmp_path / str(bits), bit_width=bits).relative_squared_error
        or 0.0
        for bits in (2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == run.report.relative_squared_error


@pytest.mark.parametrize(
    ("method", "encoding"),
    [("minmax", "affine"), ("lsq", "affine"), ("lsq", "coded"), ("lsq", "trellis")],
)
@pytest.mark.parametrize("group_size", [8, 24, 128, 4096])
def test_group_sizes(
    quantized: Quantized, tmp_path: Path, group_size: int, method: str, encoding: str
) -> None:
    run = quantized("dream", "F16")
    report = thermoq.quantize(
        run.source, tmp_path / "out", group_size=group_size, encoding=encoding, method=method
    )
    assert report.group_size == group_size
    sizes = {row.group_size for row in report.layers if row.encoding == encoding}
    assert sizes == {group_size}
    thermoq.verify(tmp_path / "out")
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    before = models.float_tensors(run.source)
    after = models.float_tensors(tmp_path / "dense")
    for row in report.layers:
        truth = reference.error_figures(before[row.name], after[row.name])
        assert row.squared_error == pytest.approx(truth.squared_error, rel=1e-5)


def test_what_sets_the_size_of_coded_tensors(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16")
    report = thermoq.quantize(
        run.source, tmp_path / "out", group_size=16, super_block=48, scale_bits=3, minimum_bits=5
    )
    assert (report.encoding, report.group_size, report.super_block) == ("coded", 16, 48)
    assert (report.scale_bits, report.minimum_bits) == (3, 5)
    stored = models.read_tensors(tmp_path / "out/transformer")
    for row in report.layers:
        how = (row.group_size, row.super_block, row.scale_bits, row.minimum_bits)
        if row.bit_width == 8:
            assert (row.encoding, how) == ("q8", (32, None, None, None))
            continue
        assert (row.encoding, how) == ("coded", (16, 48, 3, 5))
        rows, cols = row.shape[0], row.num_weights // row.shape[0]
        groups, supers = -(-cols // 16), -(-cols // 48)
        nbytes = -(-groups * 3 // 8) + -(-groups * 5 // 8) + 4 * supers
        nbytes = rows * (nbytes + -(-cols * row.bit_width // 8))
        assert row.stored_bytes in (nbytes, 0)
        assert row.bits_per_weight == pytest.approx(8 * nbytes / row.num_weights)
        if row.same_as is None:
            parts = [data for name, (_, _, data) in stored.items() if name.startswith(row.name)]
            assert sum(map(len, parts)) == nbytes
    manifest = json.loads((tmp_path / "out/transformer/thermoq.json").read_text())
    entry = json.loads((tmp_path / "out/transformer/config.json").read_text())
    for keys in (entry["quantization_config"], *manifest["tensors"].values()):
        if keys["encoding"] == "coded":
            assert (keys["super_block"], keys["scale_bits"], keys["minimum_bits"]) == (48, 3, 5)
    thermoq.verify(tmp_path / "out")


def test_least_squares_are_closer_than_rounding_at_every_size(
    quantized: Quantized, tmp_path: Path
) -> None:
    run = quantized("dream", "BF16")
    rounded = quantized("dream", "BF16", "minmax").report
    affine = thermoq.quantize(run.source, tmp_path / "out", encoding="affine")
    # The same encoding, so the same bytes, and no tensor is worse; q8 is fitted too.
    assert affine.sizes.quantized_bytes == rounded.sizes.quantized_bytes
    assert {row.method for row in affine.layers} == {"lsq"}
    assert {row.method for row in rounded.layers} == {"minmax"}
    before = {row.name: row.squared_error for row in rounded.layers}
    for row in affine.layers:
        assert row.squared_error <= before[row.name]
    assert affine.relative_squared_error < 0.7 * rounded.relative_squared_error
    coded = quantized("dream", "BF16", encoding="coded").report
    assert coded.relative_squared_error < affine.relative_squared_error
    assert run.report.relative_squared_error < coded.relative_squared_error


@pytest.mark.parametrize(
    ("settings", "encoding"),
    [
        ({}, "trellis"),
        ({"group_size": 24}, "coded"),
        ({"super_block": 128}, "coded"),
        ({"scale_bits": 5}, "coded"),
        ({"minimum_bits": 5}, "coded"),
        ({"group_size": 24, "effort": 1}, "trellis"),
        ({"group_size": 24, "encoding": "trellis"}, "trellis"),
    ],
)
def test_what_trellis_has_not_asks_for_coded(
    quantized: Quantized, tmp_path: Path, settings: dict[str, Any], encoding: str
) -> None:
    run = quantized("dream", "F16")
    report = thermoq.quantize(run.source, tmp_path / "out", **settings)
    body = [row for row in report.layers if row.layer_class == "body"]
    assert report.encoding == encoding
    assert {row.encoding for row in body} == {encoding}
    assert {row.rotation for row in body} == {"hadamard" if encoding == "trellis" else None}
    for key in {*settings} - {"effort", "encoding"}:
        assert {getattr(row, key) for row in body} == {settings[key]}
    thermoq.verify(tmp_path / "out")


def test_rules_choose_the_encoding(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16")
    config = write_config(
        tmp_path,
        """
quantization:
  scale_bits: 5
  layers:
    - {match: "*.attn1.to_q.weight", encoding: affine}
    - {match: "*.attn1.to_k.weight", encoding: affine, group_size: 40, bit_width: 4}
    - {match: "*.attn1.to_v.weight", group_size: 24}
    - {match: "proj_out_2.weight", encoding: coded}
""",
    )
    report = thermoq.quantize(run.source, tmp_path / "out", config=config)
    rows = {row.name.removeprefix("transformer_blocks.1."): row for row in report.layers}
    stored = {
        name: (row.encoding, row.bit_width, row.group_size, row.scale_bits)
        for name, row in rows.items()
    }
    assert stored["attn1.to_q.weight"] == ("affine", 2, 64, None)
    assert stored["attn1.to_k.weight"] == ("affine", 4, 40, None)
    assert stored["attn1.to_v.weight"] == ("coded", 2, 24, 5)
    assert stored["ff.net.2.weight"] == ("coded", 2, 16, 5)
    assert stored["norm1.linear.weight"] == ("coded", 4, 32, 5)
    assert report.warnings == [
        "layers: pattern 'proj_out_2.weight' sets encoding coded, which does not apply to 1 of its "
        "tensors, such as proj_out_2.weight (8 bits are q8, with groups of 32)"
    ]
    thermoq.verify(tmp_path / "out")
    affine = write_config(
        tmp_path, "quantization: {encoding: affine, layers: [{match: '*.ff.*', encoding: coded}]}"
    )
    report = thermoq.quantize(run.source, tmp_path / "out2", config=affine)
    assert report.encoding == "affine"
    for row in report.layers:
        if row.bit_width != 8:
            assert row.encoding == ("coded" if ".ff." in row.name else "affine")


def test_rules_beside_the_default(quantized: Quantized, tmp_path: Path) -> None:
    """Groups that a rule asks for are those of coded, whose inputs stay as they are."""
    run = quantized("dit", "BF16")
    config = write_config(
        tmp_path,
        """
quantization:
  layers:
    - {match: "*.attn1.to_q.weight", encoding: coded}
    - {match: "*.attn1.to_k.weight", group_size: 24}
    - {match: "*.attn1.to_v.weight", encoding: trellis, bit_width: 3}
""",
    )
    report = thermoq.quantize(run.source, tmp_path / "out", config=config)
    assert report.warnings == []
    rows = {row.name.removeprefix("transformer_blocks.1."): row for row in report.layers}
    stored = {
        name: (row.encoding, row.bit_width, row.group_size, row.rotation)
        for name, row in rows.items()
    }
    assert stored["attn1.to_q.weight"] == ("coded", 2, 16, None)
    assert stored["attn1.to_k.weight"] == ("coded", 2, 24, None)
    assert stored["attn1.to_v.weight"] == ("trellis", 3, 40, "hadamard")
    assert stored["attn1.to_out.0.weight"] == ("trellis", 2, 40, "hadamard")
    assert stored["norm1.linear.weight"] == ("coded", 4, 32, None)
    thermoq.verify(tmp_path / "out")


def test_effort_is_of_the_trellis_that_rules_bring(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16")
    rules = [{"match": "*.attn1.to_q.weight", "bit_width": 2}]
    report = thermoq.quantize(run.source, tmp_path / "out", bit_width=4, effort=1, layers=rules)
    found = {row.name: (row.encoding, row.window_bits) for row in report.layers}
    assert found["transformer_blocks.0.attn1.to_q.weight"] == ("trellis", 8)
    assert found["transformer_blocks.0.attn1.to_k.weight"] == ("coded", None)
    for others in ([], [{"match": "*", "skip": True}], [{"match": "*", "group_size": 24}]):
        with pytest.raises(UsageError, match=r"--effort: expected null \(the encoding is not"):
            thermoq.quantize(run.source, tmp_path / "no", bit_width=4, effort=1, layers=others)


def test_layers_rules(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16")
    config = write_config(
        tmp_path,
        """
quantization:
  bit_width: 2
  layers:
    - {match: "*.attn1.to_q.weight", bit_width: 8}
    - {match: "transformer/*.attn1.to_k.weight", skip: true}
    - {match: "*.attn1.*", bit_width: 4, group_size: 16}
    - {match: "pos_embed.pos_embed", bit_width: 8}
    - {match: "no.such.*", skip: true}
""",
    )
    report = thermoq.quantize(run.source, tmp_path / "out", config=config)
    rows = {row.name: row for row in report.layers}
    copied = {row.name: row.reason for row in report.copied}
    block = "transformer_blocks.1.attn1"
    assert (rows[f"{block}.to_q.weight"].bit_width, rows[f"{block}.to_q.weight"].encoding) == (
        8,
        "q8",
    )
    assert "skipped by layers pattern" in copied[f"{block}.to_k.weight"]
    assert (rows[f"{block}.to_v.weight"].bit_width, rows[f"{block}.to_v.weight"].group_size) == (
        4,
        16,
    )
    assert rows["pos_embed.pos_embed"].bit_width == 8  # by name it would have been copied
    assert rows["transformer_blocks.1.ff.net.2.weight"].bit_width == 2
    assert report.warnings == ["layers: pattern 'no.such.*' matches no tensor"]
    thermoq.verify(tmp_path / "out")
    before = models.read_tensors(run.source / "transformer")
    after = models.read_tensors(tmp_path / "out/transformer")
    assert after[f"{block}.to_k.weight"] == before[f"{block}.to_k.weight"]


def test_rules_without_effect_warn(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "BF16")
    config = write_config(
        tmp_path,
        """
quantization:
  layers:
    - {match: "*.attn1.to_q.weight", bit_width: 8}
    - {match: "*.attn1.to_q.*", group_size: 16}
    - {match: "*.attn1.to_k.*", bit_width: 4}
    - {match: "*.attn1.to_k.bias", bit_width: 8}
    - {match: "*.bias", skip: true}
    - {match: "proj_out_*.weight", group_size: 16}
    - {match: "*.attn1.to_v.weight", group_size: 32}
""",
    )
    report = thermoq.quantize(run.source, tmp_path / "out", config=config)
    assert report.warnings == [
        "layers: pattern '*.attn1.to_q.*' has no effect: what it matches is copied anyway, such as "
        "transformer_blocks.0.attn1.to_q.bias (1-D)",
        "layers: pattern '*.attn1.to_k.bias' has no effect: earlier patterns match the same "
        "tensors",
        "layers: pattern 'proj_out_*.weight' sets group_size 16, which does not apply to 1 of its "
        "tensors, such as proj_out_2.weight (8 bits are q8, with groups of 32)",
    ]
    assert list(thermoq.inspect(run.source, config=config).notes) == report.warnings


def test_equal_tensors_under_different_rules_are_both_stored(tmp_path: Path) -> None:
    source = models.dit(tmp_path / "dit", "F32")
    config = write_config(
        tmp_path,
        """
quantization:
  layers:
    - {match: "transformer_blocks.1.norm1.emb.*", bit_width: 4}
    - {match: "transformer_blocks.2.norm1.emb.*", skip: true}
""",
    )
    report = thermoq.quantize(source, tmp_path / "out", config=config)
    assert [row.name for row in report.layers if row.same_as] == []
    assert [row.name for row in report.copied if row.same_as] == []
    thermoq.verify(tmp_path / "out")


def test_skipping_everything_leaves_null_scores(tmp_path: Path) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    config = write_config(tmp_path, "quantization: {layers: [{match: '*', skip: true}]}")
    report = thermoq.quantize(source, tmp_path / "out", config=config, report=tmp_path / "r.json")
    assert report.layers == []
    assert report.parameter_source == "none"
    assert report.smoothness_score is None
    assert report.cosine_similarity is None
    assert report.boundary_scores == []
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["smoothness_score"] is None
    thermoq.verify(tmp_path / "out")
    thermoq.export(tmp_path / "out", tmp_path / "dense")
    assert models.read_tensors(tmp_path / "dense") == models.read_tensors(source)


def test_without_validation_the_thermodynamic_keys_are_missing(
    quantized: Quantized, tmp_path: Path
) -> None:
    run = quantized("unet", "F32")
    report = thermoq.quantize(
        run.source, tmp_path / "out", validation=False, report=tmp_path / "r.json"
    )
    written = json.loads((tmp_path / "r.json").read_text())
    thermodynamic = {
        "smoothness_score",
        "violation_count",
        "violations",
        "boundary_scores",
        "min_boundary_score",
        "max_boundary_score",
        "mean_boundary_score",
        "std_boundary_score",
        "common_violation_patterns",
        "patterns",
        "thermodynamics",
        "assessment",
    }
    assert written.keys() & thermodynamic == set()
    assert report.thermodynamics is None
    assert report.cosine_similarity == run.report.cosine_similarity
    assert "parameter_source_s" not in report.provenance.times_s
    full = json.loads((run.output / "unet/thermoq.json").read_text())["report"]
    bare = json.loads((tmp_path / "out/unet/thermoq.json").read_text())["report"]
    assert full.keys() - bare.keys() == thermodynamic


def test_one_time_group(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "F32")
    report = thermoq.quantize(run.source, tmp_path / "out", num_time_groups=1)
    assert (report.smoothness_score, report.std_boundary_score) == (1.0, 0.0)
    assert report.min_boundary_score == report.max_boundary_score == 1.0
    assert (report.boundary_scores, report.violations) == ([], [])
    manifest = json.loads((tmp_path / "out/thermoq.json").read_text())
    assert manifest["time_groups"] == {"num_timesteps": 1000, "time_group_starts": [999.0]}


@pytest.mark.parametrize("num_time_groups", [0, 1001, -1])
def test_impossible_time_groups(tmp_path: Path, num_time_groups: int) -> None:
    source = models.dream(tmp_path / "dream", "BF16")
    with pytest.raises(UsageError, match="num-time-groups"):
        thermoq.quantize(source, tmp_path / "out", num_time_groups=num_time_groups)
    assert not (tmp_path / "out").exists()


def test_another_component(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dit", "F32")
    report = thermoq.quantize(run.source, tmp_path / "out", components=["vae"])
    assert {row.component for row in report.layers} == {"transformer", "vae"}
    for component in ("transformer", "vae"):
        manifest = json.loads((tmp_path / "out" / component / "thermoq.json").read_text())
        assert manifest["component"] == component
    assert thermoq.verify(tmp_path / "out").components == ("transformer", "vae")
    thermoq.export(tmp_path / "out", tmp_path / "dense", dtype="float32")
    after = models.float_tensors(tmp_path / "dense/vae")
    before = models.float_tensors(run.source / "vae")
    (row,) = [row for row in report.layers if row.component == "vae"]
    truth = reference.error_figures(before[row.name], after[row.name])
    assert row.squared_error == pytest.approx(truth.squared_error, rel=1e-5)
    assert report.sizes.model_bytes == sum(
        file_bytes(tmp_path / "out" / component) for component in ("transformer", "vae")
    )


# Shards.


@pytest.mark.parametrize("name", ["dream", "unet"])
def test_shards(quantized: Quantized, tmp_path: Path, name: str) -> None:
    run = quantized(name, "BF16")
    report = thermoq.quantize(run.source, tmp_path / "out", max_shard_size="8KB")
    folder = tmp_path / "out" / run.component
    files = models.safetensors_files(folder)
    stem = "model" if name == "dream" else "diffusion_pytorch_model"
    count = len(files)
    assert count > 3
    assert [f.name for f in files] == [
        f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]
    index = json.loads((folder / f"{stem}.safetensors.index.json").read_text())
    shard_of = {}
    for path in files:
        with safe_open(path, framework="numpy") as file:
            shard_of.update(dict.fromkeys(file.keys(), path.name))
    assert index["weight_map"] == shard_of
    tensors = models.read_tensors(folder)
    assert index["metadata"]["total_size"] == sum(len(t[2]) for t in tensors.values())
    for row in report.layers:
        parts = {shard_of[n] for n in shard_of if n.rpartition(".")[0] == row.name}
        assert len(parts) == 1, row.name
    for path in files:
        held = {n.removesuffix(".codes").removesuffix(".scale").removesuffix(".minimum")
                for n in shard_of if shard_of[n] == path.name}  # fmt: skip
        nbytes = sum(len(tensors[n][2]) for n in shard_of if shard_of[n] == path.name)
        assert nbytes <= 8000 or len(held) == 1, path.name
    # Sharding moves bytes and changes none.
    assert tensors == models.read_tensors(run.output / run.component)
    assert report.sizes.model_bytes == file_bytes(folder)
    thermoq.verify(tmp_path / "out")


def test_one_tensor_larger_than_a_shard(quantized: Quantized, tmp_path: Path) -> None:
    run = quantized("dream", "F32")
    thermoq.quantize(run.source, tmp_path / "out", max_shard_size=1)
    names = {path.name for path in models.safetensors_files(tmp_path / "out")}
    assert len(names) == len(models.read_tensors(run.source))
    thermoq.verify(tmp_path / "out")
