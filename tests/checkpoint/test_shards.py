"""Which weight files of a folder count, and shards that disagree with each other or their index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import write_json, write_safetensors, write_sharded, zeros
from thermoq.checkpoint import Checkpoint, open_checkpoint
from thermoq.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def error_of(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(directory)
    assert str(caught.value).isprintable()
    return str(caught.value)


def others_of(checkpoint: Checkpoint) -> list[str]:
    return [path.as_posix() for path in checkpoint.other_files]


def test_variant_beside_plain_weights_is_left_out(bare: Path) -> None:
    write_safetensors(bare / "diffusion_pytorch_model.fp16.safetensors", {"v": zeros("F32", 1)})
    (model,) = open_checkpoint(bare).components
    assert list(model.tensors) == ["w"]
    assert others_of(open_checkpoint(bare)) == ["config.json"]
    size = (bare / "diffusion_pytorch_model.fp16.safetensors").stat().st_size
    assert open_checkpoint(bare).notes == (
        f"left out further copies of the weights ({size / 1e6:.1f} MB): "
        "diffusion_pytorch_model.fp16.safetensors",
    )


def test_variant_alone_is_used_under_the_plain_stem(bare: Path) -> None:
    (bare / WEIGHTS).rename(bare / "diffusion_pytorch_model.fp16.safetensors")
    (model,) = open_checkpoint(bare).components
    assert model.stem == "diffusion_pytorch_model"
    assert list(model.tensors) == ["w"]


@pytest.mark.parametrize("index", [True, False])
def test_sharded_variant_beside_sharded_weights(model: Path, index: bool) -> None:
    shards = [{"a": zeros("F16", 1, itemsize=2)}, {"b": zeros("F16", 1, itemsize=2)}]
    write_sharded(model, "model", shards, index=index, variant="fp16")
    checkpoint = open_checkpoint(model)
    assert list(checkpoint.components[0].tensors) == ["a.weight", "a.bias", "b.weight"]
    assert others_of(checkpoint) == ["config.json", "tokenizer.json"]
    for path in [*model.glob("model-*"), model / "model.safetensors.index.json"]:
        path.unlink()
    assert list(open_checkpoint(model).components[0].tensors) == ["a", "b"]


def test_legacy_names_of_variants(bare: Path) -> None:
    (bare / WEIGHTS).unlink()
    shards = [{"a": zeros("F32", 1)}, {"b": zeros("F32", 1)}]
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.fp16.safetensors"
        write_safetensors(bare / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    index = bare / "diffusion_pytorch_model.safetensors.fp16.index.json"
    write_json(index, {"weight_map": weight_map})
    (model,) = open_checkpoint(bare).components
    assert (list(model.tensors), model.stem) == (["a", "b"], "diffusion_pytorch_model")
    assert model.files[-1] == index


def test_two_variants_and_no_plain_weights(bare: Path) -> None:
    for variant in ("fp16", "non_ema"):
        path = bare / f"diffusion_pytorch_model.{variant}.safetensors"
        write_safetensors(path, {"w": zeros("F32", 1)})
    (bare / WEIGHTS).unlink()
    names = "diffusion_pytorch_model.fp16.safetensors, diffusion_pytorch_model.non_ema.safetensors"
    expected = f"{bare}: expected one set of weights, got {names}; keep one of them"
    assert error_of(bare) == expected


def test_several_files_of_other_names(tmp_path: Path) -> None:
    for number in range(6):
        write_safetensors(tmp_path / f"{number}.safetensors", {"w": zeros("F32", 1)})
    names = "0.safetensors, 1.safetensors, 2.safetensors, 3.safetensors and 2 more"
    expected = f"{tmp_path}: expected one set of weights, got {names}; keep one of them"
    assert error_of(tmp_path) == expected


def test_index_chooses_among_other_names(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_safetensors(tmp_path / f"{name}.safetensors", {name: zeros("F32", 1)})
    weight_map = {"x": "x.safetensors", "y": "y.safetensors"}
    write_json(tmp_path / "weights.safetensors.index.json", {"weight_map": weight_map})
    (model,) = open_checkpoint(tmp_path).components
    assert (list(model.tensors), model.stem) == (["x", "y"], "weights")


def test_shards_without_index(model: Path) -> None:
    (model / "model.safetensors.index.json").unlink()
    (root,) = open_checkpoint(model).components
    assert list(root.tensors) == ["a.weight", "a.bias", "b.weight"]
    assert len(root.files) == 2
    (model / "model-00001-of-00002.safetensors").unlink()
    problem = "expected 2 shards or an index, got model-00002-of-00002.safetensors"
    expected = f"{model}: {problem}; model-00001-of-00002.safetensors is missing"
    assert error_of(model) == expected


def test_shard_numbers_out_of_range(model: Path) -> None:
    (model / "model.safetensors.index.json").unlink()
    write_safetensors(model / "model-00003-of-00002.safetensors", {"c": zeros("F32", 1)})
    names = ", ".join(f"model-0000{number}-of-00002.safetensors" for number in (1, 2, 3))
    assert error_of(model) == f"{model}: expected shards numbered 1 to 2, got {names}"


@pytest.mark.parametrize("other", ["model.safetensors", "model-00001-of-00003.safetensors"])
def test_two_sets_under_one_stem(model: Path, other: str) -> None:
    write_safetensors(model / other, {"c": zeros("F32", 1)})
    index = model / "model.safetensors.index.json"
    expected = f"{index}: expected it to name all weight files, it misses {other}"
    assert error_of(model) == expected
    index.unlink()
    assert error_of(model).startswith(f"{model}: expected one set of weights, got model-0000")


def test_tensor_in_two_shards(model: Path) -> None:
    shards = [{"a": zeros("F32", 1), "c": zeros("F32", 1)}, {"a": zeros("F32", 1)}]
    _, second = write_sharded(model, "model", shards)
    problem = "expected it in one shard, got it in model-00001-of-00002.safetensors too"
    assert error_of(model) == f"{second}: tensor 'a': {problem}"


# The index against its shards.


def rewrite_index(model: Path, changes: dict[str, Any], without: Sequence[str] = ()) -> Path:
    index = model / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"] | changes
    return write_json(
        index, {"weight_map": {k: weight_map[k] for k in weight_map if k not in without}}
    )


def test_index_names_a_missing_shard(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    (model / "model-00002-of-00002.safetensors").unlink()
    problem = "names the shard model-00002-of-00002.safetensors, which is missing"
    assert error_of(model) == f"{index}: {problem}"
    (model / "model-00001-of-00002.safetensors").unlink()
    assert error_of(model).startswith(f"{index}: names the shard model-00001-of-00002")


def test_index_names_an_unfinished_download(model: Path) -> None:
    shard = model / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to("../../blobs/0123")
    assert error_of(model).endswith(f"names the shard {shard.name}, which is missing")


def test_index_names_a_tensor_that_is_nowhere(model: Path) -> None:
    index = rewrite_index(model, {"c.weight": "model-00001-of-00002.safetensors"})
    problem = "expected it in model-00001-of-00002.safetensors, which does not hold it"
    assert error_of(model) == f"{index}: tensor 'c.weight': {problem}"


def test_index_places_a_tensor_in_another_shard(model: Path) -> None:
    index = rewrite_index(model, {"b.weight": "model-00001-of-00002.safetensors"})
    rewrite_index(model, {"a.bias": "model-00002-of-00002.safetensors"})
    problem = (
        "expected it in model-00002-of-00002.safetensors as the index says, "
        "got it in model-00001-of-00002.safetensors"
    )
    assert error_of(model) == f"{index}: tensor 'a.bias': {problem}"


def test_index_misses_a_tensor(model: Path) -> None:
    index = rewrite_index(model, {}, without=["a.bias"])
    problem = "expected every tensor in weight_map, got none for this one of"
    expected = f"{index}: tensor 'a.bias': {problem} model-00001-of-00002.safetensors"
    assert error_of(model) == expected


@pytest.mark.parametrize(
    "shard",
    ["../a.safetensors", "/tmp/a.safetensors", "x/a.safetensors", "..", "C:a", "a\\b", "a\0"],
)
def test_index_with_a_name_that_would_escape(model: Path, shard: str) -> None:
    index = rewrite_index(model, {"a.bias": shard})
    problem = f"expected a plain file name, got {shard!r}"
    escape = "a name that would escape the output directory"
    assert error_of(model) == f"{index}: tensor 'a.bias': {problem}: {escape}"


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "a\nb.safetensors", "config.json"])
def test_index_that_names_no_safetensors(model: Path, shard: str) -> None:
    index = rewrite_index(model, {"a.bias": shard})
    expected = f"{index}: tensor 'a.bias': expected a safetensors file, got {shard!r}"
    assert error_of(model) == expected


def test_index_that_maps_to_no_name(model: Path) -> None:
    index = rewrite_index(model, {"a.bias": 1})
    assert error_of(model) == f"{index}: tensor 'a.bias': expected a file name, got 1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected a JSON object, got []"),
        ("{", "expected JSON, got a syntax error: Expecting property name"),
        ("{}", "expected weight_map to be an object, got None"),
        ('{"weight_map": []}', "expected weight_map to be an object, got []"),
        ('{"weight_map": {}}', "expected weight_map to be an object, got {}"),
        ('{"weight_map": {"a": "b", "a": "b"}}', "expected JSON, got the key 'a' twice"),
    ],
)
def test_malformed_index(model: Path, text: str, problem: str) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text(text)
    assert error_of(model).startswith(f"{index}: {problem}")


def test_two_indexes(model: Path) -> None:
    for name in ("model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"):
        write_json(model / name, {"weight_map": {"a": "model.safetensors"}})
    (model / "model.safetensors.index.json").unlink()
    for path in model.glob("model-*"):
        path.unlink()
    names = "model.fp16.safetensors.index.json, model.safetensors.index.fp16.json"
    assert error_of(model) == f"{model}: expected one index for the weights, got {names}"
