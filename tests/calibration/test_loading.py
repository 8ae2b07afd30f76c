"""Directories that diffusers cannot build a model from, or only with code of theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers_models import ddpm_pipeline, dit, dit_pipeline, stable_diffusion  # noqa: E402
from thermoq.calibration.job import precision_for  # noqa: E402
from thermoq.calibration.loading import load_diffusers  # noqa: E402
from thermoq.checkpoint import open_checkpoint  # noqa: E402
from thermoq.errors import InputError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's


def change(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text())
    content.update(entries)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def index(**entries: Any) -> Callable[[Path], None]:
    return lambda model: change(model / "model_index.json", **entries)


def config(file: str, **entries: Any) -> Callable[[Path], None]:
    return lambda model: change(model / file, **entries)


def without(name: str) -> Callable[[Path], None]:
    def remove(model: Path) -> None:
        path = model / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def own_code(model: Path) -> None:
    (model / "pipeline.py").write_text("raise SystemExit('this must never run')\n")
    change(model / "model_index.json", _class_name="MyPipeline")


ONLY_FOLDERS = "calibrate a directory with only the denoiser's and the scheduler's folders"
WRONG: list[tuple[Callable[[Path], None], str]] = [
    (own_code, rf"got 'MyPipeline' \(pipeline.py\); code from the directory .*{ONLY_FOLDERS}"),
    (index(_class_name=["my_code", "Mine"]), rf"a custom one with code .*{ONLY_FOLDERS}"),
    (index(_class_name=None), "expected a pipeline of diffusers"),
    (index(_class_name="DDIMScheduler"), "expected a pipeline that diffusers .* knows"),
    (index(transformer=["my_model", "DiT"]), "transformer: expected a class of diffusers or trans"),
    (index(vae=["diffusers", "MyVae"]), "vae: expected a class of diffusers or transformers"),
    (without("scheduler"), "expected a folder scheduler"),
    (without("scheduler/scheduler_config.json"), "expected a folder scheduler with scheduler_conf"),
    (without("vae"), "expected a folder vae, as model_index.json says, got none"),
    (config("transformer/config.json", _class_name="MyDiT"), "expected a model class that diffuse"),
    (config("transformer/config.json", _class_name=None), "config.json that names its class"),
    (config("transformer/config.json", auto_map={"AutoModel": "m.M"}), "one with code of its own"),
    (config("transformer/config.json", num_layers=3), r"expected a tensor transf\w+_blocks.2.*"),
    (config("vae/config.json", auto_map={"AutoModel": "m.M"}), "got one with code of its own"),
    (config("scheduler/scheduler_config.json", _class_name="MySampler"), "expected a scheduler cl"),
    (
        config("scheduler/scheduler_config.json", _class_name="DiTTransformer2DModel"),
        "expected a scheduler class",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "problem"), WRONG)
def test_what_cannot_be_loaded(spoil: Callable[[Path], None], problem: str, tmp_path: Path) -> None:
    model = dit_pipeline(tmp_path / "model")
    spoil(model)
    with pytest.raises(InputError, match=problem) as caught:
        load_diffusers(open_checkpoint(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_a_pipeline_without_a_part_that_reads_prompts(part: str, tmp_path: Path) -> None:
    model = stable_diffusion(tmp_path / "model")
    shutil.rmtree(model / part)
    with pytest.raises(InputError, match=f"expected a folder {part}, as model_index.json says"):
        load_diffusers(open_checkpoint(model))
    change(model / "model_index.json", **{part: None})
    with pytest.raises(InputError, match=f"cannot load it: .*{part}"):
        load_diffusers(open_checkpoint(model))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    model = stable_diffusion(tmp_path / "model")
    (model / "text_encoder/model.safetensors").unlink()
    torch.save({}, model / "text_encoder/pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot load it: .*safetensors"):
        load_diffusers(open_checkpoint(model))


def test_who_runs_the_sampler(tmp_path: Path) -> None:
    plain = load_diffusers(open_checkpoint(ddpm_pipeline(tmp_path / "ddpm")))
    assert (plain.pipeline, plain.vae, list(plain.denoisers)) == (None, None, ["unet"])
    latent = load_diffusers(open_checkpoint(dit_pipeline(tmp_path / "dit")))
    assert type(latent.vae).__name__ == "AutoencoderKL"
    assert not any(module.training for module in latent.denoisers["transformer"].modules())
    texts = load_diffusers(open_checkpoint(stable_diffusion(tmp_path / "sd")))
    assert texts.denoisers["unet"] is texts.pipeline.unet
    assert texts.scheduler is texts.pipeline.scheduler


def test_a_component_beside_its_scheduler(tmp_path: Path) -> None:
    model = dit(tmp_path / "model")
    loaded = load_diffusers(open_checkpoint(model / "transformer"))
    assert list(loaded.denoisers) == [""]
    assert type(loaded.scheduler).__name__ == "DDIMScheduler"


def test_a_variant(tmp_path: Path) -> None:
    model = dit(tmp_path / "model")
    weights = model / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert list(load_diffusers(open_checkpoint(model)).denoisers) == ["transformer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_widened_where_there_is_room(
    dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dit(tmp_path / "model")
    folder = model / "transformer"
    saved = diffusers.DiTTransformer2DModel.from_pretrained(folder).to(dtype)
    saved.save_pretrained(folder)
    checkpoint = open_checkpoint(model)
    widened = 4 * sum(p.numel() for p in saved.parameters())
    memory = "thermoq.calibration.job.physical_memory"
    monkeypatch.setattr(memory, lambda: 2 * widened + 200_000)  # headers count too
    assert precision_for(checkpoint) == "float32"
    monkeypatch.setattr(memory, lambda: 2 * widened - 1000)
    assert precision_for(checkpoint) == "bfloat16"
    assert load_diffusers(checkpoint).denoisers["transformer"].dtype == torch.bfloat16
