"""What is carried over beside the quantized weights, what is left out, and the notes about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors_files import write_json, write_safetensors, zeros
from thermoq.checkpoint import Checkpoint, carried, open_checkpoint
from thermoq.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def others_of(checkpoint: Checkpoint) -> list[str]:
    return [path.as_posix() for path in checkpoint.other_files]


def test_folders_of_tools_are_ignored(bare: Path) -> None:
    for name in (".git/HEAD", ".cache/huggingface/x", "code/__pycache__/m.pyc", "code/m.py"):
        write_json(bare / name, {})
    assert others_of(open_checkpoint(bare)) == ["code/m.py", "config.json"]
    assert open_checkpoint(bare).notes == ()


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.bin",
        "unet/onnx/model.onnx_data",
        "vae/diffusion_pytorch_model.fp16.BIN",
        "text_encoder/pytorch_model.bin.index.json",
        "v1-5-pruned.ckpt",
    ],
)
def test_weights_in_other_formats_are_left_out(pipeline: Path, name: str) -> None:
    before = others_of(open_checkpoint(pipeline))
    (pipeline / name).parent.mkdir(exist_ok=True)
    (pipeline / name).write_bytes(bytes(2_000_000))
    checkpoint = open_checkpoint(pipeline)
    assert others_of(checkpoint) == before
    expected = f"left out weights in other formats than safetensors (2.0 MB): {name}"
    assert checkpoint.notes == (expected,)


def test_the_only_weights_of_another_component_are_carried_over(pipeline: Path) -> None:
    (pipeline / "vae" / WEIGHTS).rename(pipeline / "vae/diffusion_pytorch_model.bin")
    (pipeline / "tokenizer").mkdir()
    (pipeline / "tokenizer/vocab.bin").write_bytes(b"0")
    checkpoint = open_checkpoint(pipeline)
    assert {"vae/diffusion_pytorch_model.bin", "tokenizer/vocab.bin"} < set(others_of(checkpoint))
    assert checkpoint.notes == ()


def test_nested_model_of_a_transformers_model(model: Path) -> None:
    write_json(model / "2_Dense/config.json", {})
    for name in ("2_Dense/pytorch_model.bin", "openvino/openvino_model.bin", "pytorch_model.bin"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"0")
    checkpoint = open_checkpoint(model)
    assert "2_Dense/pytorch_model.bin" in others_of(checkpoint)
    (note,) = checkpoint.notes
    assert note.endswith(": openvino/openvino_model.bin, pytorch_model.bin")


def test_single_file_checkpoint_is_left_out_and_an_adapter_stays(pipeline: Path) -> None:
    write_safetensors(pipeline / "unet" / WEIGHTS, {"w": zeros("F32", 100, 100)})
    write_safetensors(pipeline / "sd-v1-5.safetensors", {"w": zeros("F16", 100, 100, itemsize=2)})
    write_safetensors(pipeline / "pytorch_lora_weights.safetensors", {"w": zeros("F32", 10)})
    checkpoint = open_checkpoint(pipeline)
    assert "pytorch_lora_weights.safetensors" in others_of(checkpoint)
    assert "sd-v1-5.safetensors" not in others_of(checkpoint)
    (note,) = checkpoint.notes
    assert note == "left out further copies of the weights (0.0 MB): sd-v1-5.safetensors"


def test_variants_of_other_components_are_carried_over(pipeline: Path) -> None:
    path = "text_encoder/model.fp16.safetensors"
    write_safetensors(pipeline / path, {"x": zeros("F32", 4)})
    assert path in others_of(open_checkpoint(pipeline))


def test_links_are_followed(bare: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "elsewhere/vocab.json", {})
    (bare / "tokenizer").symlink_to(tmp_path / "elsewhere")
    (bare / "license").symlink_to(tmp_path / "elsewhere/vocab.json")
    (bare / "loop").symlink_to(bare)
    assert others_of(open_checkpoint(bare)) == ["config.json", "license", "tokenizer/vocab.json"]


def test_links_to_nothing_are_noted(bare: Path) -> None:
    (bare / "README.md").symlink_to("../blobs/0")
    (bare / "a\nb").symlink_to("../blobs/1")
    checkpoint = open_checkpoint(bare)
    assert others_of(checkpoint) == ["config.json"]
    assert checkpoint.notes == ("left out links to nothing (0.0 MB): README.md, 'a\\nb'",)


def test_pipes_are_ignored(bare: Path) -> None:
    os.mkfifo(bare / "pipe")
    assert others_of(open_checkpoint(bare)) == ["config.json"]


def test_too_many_files(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "MAX_FILES", 1)
    with pytest.raises(InputError) as caught:
        open_checkpoint(bare)
    expected = f"{bare}: expected a model directory, got one with more than 1 files"
    assert str(caught.value) == expected
