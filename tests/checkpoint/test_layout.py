"""Which parts of a directory are found, carried over or left out, and each refusal's one line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import (
    write_json,
    write_raw,
    write_safetensors,
    zeros,
)
from thermoq.checkpoint import Checkpoint, open_checkpoint
from thermoq.errors import InputError, UsageError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def error_of(directory: Path, extra_components: Sequence[str] = ()) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(directory, extra_components)
    assert str(caught.value).isprintable()
    return str(caught.value)


def names_of(checkpoint: Checkpoint) -> list[str]:
    return [component.name for component in checkpoint.components]


def others_of(checkpoint: Checkpoint) -> list[str]:
    return [path.as_posix() for path in checkpoint.other_files]


def test_pipeline(pipeline: Path) -> None:
    checkpoint = open_checkpoint(pipeline)
    assert checkpoint.layout == "diffusers"
    assert checkpoint.name == "sd"
    (unet,) = checkpoint.components
    assert unet.name == "unet"
    assert unet.directory == pipeline / "unet"
    assert unet.config == {"_class_name": "UNet2DConditionModel"}
    assert unet.files == (pipeline / "unet" / WEIGHTS,)
    assert unet.stem == "diffusion_pytorch_model"
    assert unet.tensors["conv.weight"].shape == (2, 3, 3, 3)
    assert checkpoint.scheduler_config == {"num_train_timesteps": 1000}
    assert checkpoint.pipeline_config is not None
    assert checkpoint.pipeline_config["_class_name"] == "StableDiffusionPipeline"
    assert checkpoint.notes == ()
    assert others_of(checkpoint) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "vae/config.json",
        f"vae/{WEIGHTS}",
    ]


def test_pipeline_without_model_index(pipeline: Path) -> None:
    (pipeline / "model_index.json").unlink()
    (pipeline / "unet").rename(pipeline / "transformer")
    checkpoint = open_checkpoint(pipeline)
    assert checkpoint.layout == "diffusers"
    assert names_of(checkpoint) == ["transformer"]
    assert checkpoint.pipeline_config is None
    assert checkpoint.scheduler_config == {"num_train_timesteps": 1000}


def test_two_denoisers_may_share_names(pipeline: Path) -> None:
    for name in ("transformer_2", "transformer"):
        write_safetensors(pipeline / name / WEIGHTS, {"conv.weight": zeros("F32", 1)})
    checkpoint = open_checkpoint(pipeline)
    assert names_of(checkpoint) == ["transformer", "transformer_2", "unet"]
    assert all("conv.weight" in component.tensors for component in checkpoint.components)


def test_model_index_may_leave_a_denoiser_out(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    write_json(pipeline / "model_index.json", index | {"transformer_2": [None, None]})
    assert names_of(open_checkpoint(pipeline)) == ["unet"]
    write_json(pipeline / "model_index.json", index | {"transformer_2": ["diffusers", "Wan"]})
    problem = "expected a folder transformer_2 with weights, as model_index.json says, got none"
    assert error_of(pipeline) == f"{pipeline}: {problem}"


def test_transformers_model(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    assert checkpoint.layout == "transformers"
    (root,) = checkpoint.components
    assert (root.name, root.directory, root.stem) == ("", model, "model")
    assert list(root.tensors) == ["a.weight", "a.bias", "b.weight"]
    assert root.tensors["b.weight"].path.name == "model-00002-of-00002.safetensors"
    assert [path.name for path in root.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert others_of(checkpoint) == ["config.json", "tokenizer.json"]
    assert checkpoint.scheduler_config is None


def test_bare_component(bare: Path) -> None:
    write_json(bare / "scheduler_config.json", {"prediction_type": "epsilon"})
    checkpoint = open_checkpoint(bare)
    assert (checkpoint.layout, checkpoint.name) == ("component", "dit")
    assert names_of(checkpoint) == [""]
    assert checkpoint.scheduler_config == {"prediction_type": "epsilon"}


def test_bare_component_inside_a_pipeline(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline / "unet")
    checkpoint = open_checkpoint(Path())
    assert (checkpoint.layout, checkpoint.name) == ("component", "sd")
    assert checkpoint.scheduler_config == {"num_train_timesteps": 1000}
    assert others_of(checkpoint) == ["config.json"]


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (None, "component"),
        ({}, "component"),
        ({"_class_name": "X"}, "component"),
        ({"model_type": "llada"}, "transformers"),
    ],
)
def test_single_file_of_another_name(
    tmp_path: Path, config: dict[str, Any] | None, layout: str
) -> None:
    write_safetensors(tmp_path / "Qwen2.5-mini.safetensors", {"a": zeros("F32", 1)})
    if config is not None:
        write_json(tmp_path / "config.json", config)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == layout
    assert checkpoint.components[0].stem == "Qwen2.5-mini"
    assert checkpoint.components[0].config == config


def test_name_in_a_hub_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Dream-org--Dream-v0-7B" / "snapshots" / "05334cb9"
    blob = write_safetensors(tmp_path / "blobs" / "0123", {"a": zeros("F32", 1)})
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.name == "Dream-v0-7B"
    assert checkpoint.components[0].tensors["a"].nbytes == 4


def test_extra_components(pipeline: Path) -> None:
    checkpoint = open_checkpoint(pipeline, ["text_encoder", "unet", "text_encoder"])
    assert names_of(checkpoint) == ["unet", "text_encoder"]
    assert "text_encoder/model.safetensors" not in others_of(checkpoint)


def test_extra_component_alone(pipeline: Path) -> None:
    for file in (pipeline / "unet").iterdir():
        file.unlink()
    (pipeline / "model_index.json").unlink()
    checkpoint = open_checkpoint(pipeline, ["vae"])
    assert (checkpoint.layout, names_of(checkpoint)) == ("diffusers", ["vae"])


def test_extra_component_below_a_transformers_model(model: Path) -> None:
    write_safetensors(model / "2_Dense" / "model.safetensors", {"a.weight": zeros("F32", 1)})
    checkpoint = open_checkpoint(model, ["2_Dense"])
    assert (checkpoint.layout, names_of(checkpoint)) == ("transformers", ["", "2_Dense"])


@pytest.mark.parametrize("name", ["vea", "", ".", "..", "/etc", "unet/..", "scheduler"])
def test_unknown_extra_component(pipeline: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_checkpoint(pipeline, [name])
    expected = f"unknown component '{name}': expected one of text_encoder, unet, vae"
    assert str(caught.value) == expected


def test_extra_component_where_no_folder_has_safetensors(model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_checkpoint(model, ["vae"])
    assert str(caught.value) == "unknown component 'vae': expected none, no folder has safetensors"


# Refusals.


def test_missing_directory(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert error_of(path) == f"{path}: expected a model directory, got no such directory"


def test_a_file_is_no_directory(bare: Path) -> None:
    path = bare / "config.json"
    assert error_of(path) == f"{path}: expected a model directory, got a file"
    path = bare / WEIGHTS
    expected = f"{path}: expected a model directory, got a file; give its directory, {bare}"
    assert error_of(path) == expected


def test_empty_directory(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: expected safetensors weights, got none"


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model-Q4_K_M.gguf", "model.pt", "v1-5.ckpt", "original/model.pth"],
)
def test_weights_in_other_formats_alone(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "config.json", {})
    write_json(tmp_path / name, {})
    hint = f"there is {name}, but thermoq reads safetensors only"
    assert error_of(tmp_path) == f"{tmp_path}: expected safetensors weights, got none; {hint}"


def test_denoiser_in_another_format(pipeline: Path) -> None:
    (pipeline / "unet" / WEIGHTS).rename(pipeline / "unet/diffusion_pytorch_model.bin")
    hint = "there is diffusion_pytorch_model.bin, but thermoq reads safetensors only"
    expected = f"{pipeline / 'unet'}: expected safetensors weights, got none; {hint}"
    assert error_of(pipeline) == expected


@pytest.mark.parametrize("with_index", [True, False])
def test_no_denoiser(pipeline: Path, with_index: bool) -> None:
    (pipeline / "unet").rename(pipeline / "decoder")
    hint = "; decoder, text_encoder, vae could be named as an extra component (--component)"
    if with_index:
        write_json(pipeline / "model_index.json", {})
        problem = "expected a folder transformer, transformer_2 or unet, got none"
    else:
        (pipeline / "model_index.json").unlink()
        problem = "expected safetensors weights, got none"
    assert error_of(pipeline) == f"{pipeline}: {problem}{hint}"


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[1]", "expected a JSON object, got [1]"),
        (b"", "expected JSON, got a syntax error: Expecting value at line 1 column 1"),
        (b"\xff", "expected JSON, got bytes that are not UTF-8 at position 0"),
        (b'{"a":' * 5000, "expected JSON, got more than 100 levels of nesting"),
        (b'{"a":1' + b"0" * 500 + b"}", "expected JSON, got an integer of 501 digits"),
    ],
)
def test_malformed_json(pipeline: Path, name: str, text: bytes, problem: str) -> None:
    (pipeline / name).write_bytes(text)
    assert error_of(pipeline) == f"{pipeline / name}: {problem}"


def test_configurations_are_read_leniently(bare: Path) -> None:
    (bare / "config.json").write_text('{"a": 1, "a": Infinity, "max_length": 1' + "0" * 30 + "}")
    (model,) = open_checkpoint(bare).components
    assert model.config == {"a": float("inf"), "max_length": 10**30}


def test_oversized_configuration(bare: Path) -> None:
    with (bare / "config.json").open("r+b") as file:
        file.truncate(100_000_001)
    problem = "expected at most 100,000,000 bytes of JSON, got more"
    assert error_of(bare) == f"{bare / 'config.json'}: {problem}"


def test_configuration_that_is_a_link_to_nothing(bare: Path) -> None:
    (bare / "config.json").unlink()
    (bare / "config.json").symlink_to("../blobs/0")
    problem = "expected a file, got a link to nothing: '../blobs/0'"
    assert error_of(bare) == f"{bare / 'config.json'}: {problem}"


def test_weights_that_are_a_link_to_nothing(bare: Path) -> None:
    (bare / WEIGHTS).unlink()
    (bare / WEIGHTS).symlink_to("../blobs/0")
    problem = "expected a file, got a link to nothing: '../blobs/0'"
    assert error_of(bare) == f"{bare / WEIGHTS}: {problem}"


def test_broken_header_names_the_file(bare: Path) -> None:
    path = write_raw(bare / WEIGHTS, b"{}", b"left over")
    assert error_of(bare).startswith(f"{path}: expected 10 bytes, got 19")


@pytest.mark.parametrize(
    ("entry", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"load_in_4bit": True}, "None"),
        ("int8", "'int8'"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_already_quantized(pipeline: Path, entry: Any, method: str, key: str) -> None:
    config = write_json(pipeline / "unet/config.json", {key: entry})
    problem = f"expected an original model, got one already quantized by {method}"
    assert error_of(pipeline) == f"{config}: {problem}; use the original"
    assert names_of(open_checkpoint(pipeline, allow_quantized=True)) == ["unet"]


def test_already_quantized_root(model: Path) -> None:
    config = write_json(model / "config.json", {"quantization_config": {"quant_method": "awq"}})
    assert error_of(model).startswith(f"{config}: expected an original model")


def test_already_quantized_by_thermoq(pipeline: Path) -> None:
    problem = "expected an original model, got one already quantized by thermoq; use the original"
    config = write_json(
        pipeline / "unet/config.json", {"quantization_config": {"quant_method": "thermoq"}}
    )
    assert error_of(pipeline) == f"{config.parent}: {problem}"
    write_json(config, {})
    write_json(pipeline / "unet/thermoq.json", {"format_version": 1})
    assert error_of(pipeline) == f"{config.parent}: {problem}"
    checkpoint = open_checkpoint(pipeline, allow_quantized=True)
    assert "unet/thermoq.json" not in others_of(checkpoint)


@pytest.mark.parametrize("entry", [None, {}])
def test_empty_quantization_config_is_none(bare: Path, entry: Any) -> None:
    write_json(bare / "config.json", {"quantization_config": entry})
    assert names_of(open_checkpoint(bare)) == [""]


def test_quantized_text_encoder_beside_is_carried_over(pipeline: Path) -> None:
    write_json(
        pipeline / "text_encoder/config.json", {"quantization_config": {"quant_method": "awq"}}
    )
    assert names_of(open_checkpoint(pipeline)) == ["unet"]
    assert "text_encoder" in error_of(pipeline, ["text_encoder"])
