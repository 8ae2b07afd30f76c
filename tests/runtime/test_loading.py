"""Quantized checkpoints as models of diffusers: in loops, in pipelines, or refused."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import thermoq
from thermoq.errors import InputError, UsageError
from time_parameter_files import add_time_parameters

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers_models import (  # noqa: E402
    ddpm_pipeline,
    dit_pipeline,
    flux,
    qwen_image,
    sd3,
    stable_diffusion,
    wan,
)
from thermoq.calibration.conditioning import bare_pipeline, empty_embeddings  # noqa: E402
from thermoq.runtime.timing import ATTRIBUTE  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

DEMO = Path(thermoq.__file__).parent / "models" / "digits-dit"
DEMO_CALIBRATION = DEMO.parent / "digits-dit-calibration.safetensors"
GROUPS = 4


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with all that the phases add."""
    out = tmp_path_factory.mktemp("digits") / "out"
    quantize(DEMO, out, calibration=str(DEMO_CALIBRATION), rotation="hadamard", bit_width=4)
    return out


def quantize(model: Path, out: Path, **settings: Any) -> Path:
    usual = {"method": "lsq", "num_time_groups": GROUPS, "threads": 1, "validation": False}
    thermoq.quantize(model, out, **{**usual, **settings})
    return out


def calibrated(make: Callable[[Path], Path], folder: Path, **settings: Any) -> tuple[Path, Path]:
    """A model and its quantized form, with row parameters, calibrated on its own trajectory."""
    model, out = make(folder / "model"), folder / "out"
    path = folder / "c.safetensors"
    small = {"size": 32} if make is wan else {}
    thermoq.calibrate(model, path, samples=2, steps=6, rows=4, threads=1, **small)
    quantize(model, out, calibration=str(path), bit_width=8, **settings)
    return model, out


class Seen:
    """Keeps the timesteps of a loaded model's passes."""

    def __init__(self, model: Any) -> None:
        self.timesteps: list[float] = []
        current = getattr(model, ATTRIBUTE)
        model.register_forward_pre_hook(lambda *_: self.timesteps.extend(current.timesteps))


def relative_error(found: Any, expected: Any) -> float:
    return float((found.float() - expected).norm() / expected.norm())


# The demo model.


def test_digits_are_sampled_in_a_loop_of_diffusers(digits: Path) -> None:
    model = thermoq.load(digits)
    full = diffusers.DiTTransformer2DModel.from_pretrained(DEMO / "transformer")
    found, expected = sampled(model), sampled(full)
    assert relative_error(found, expected) < 0.1
    assert isinstance(model, diffusers.DiTTransformer2DModel)
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")
    assert model.config.num_layers == full.config.num_layers
    assert not model.training


def sampled(model: Any) -> Any:
    """Digits 0 to 9 with guidance, as the documentation of diffusers has it."""
    scheduler = diffusers.DDIMScheduler.from_pretrained(DEMO / "scheduler")
    scheduler.set_timesteps(20)
    x = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.cat([torch.arange(10), torch.full((10,), 10)])
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = model(torch.cat([x, x]), timestep=t.expand(20), class_labels=labels).sample
            with_label, without = both.chunk(2)
            x = scheduler.step(without + 2.0 * (with_label - without), t, x).prev_sample
    return x


@pytest.mark.parametrize("packed", [False, True])
def test_weights_are_those_that_export_decodes(digits: Path, tmp_path: Path, packed: bool) -> None:
    thermoq.export(digits, tmp_path / "dense", dtype="float32")
    dense = models.float_tensors(tmp_path / "dense" / "transformer")
    model = thermoq.load(digits, packed=packed)
    manifest = json.loads((digits / "transformer" / "thermoq.json").read_text())
    modules = dict(model.named_modules())
    compared = 0
    for name, entry in manifest["tensors"].items():
        if "rotation" in entry:  # decoded for rotated inputs
            continue
        module, last = modules[name.rpartition(".")[0]], name.rpartition(".")[2]
        found = getattr(module, last).numpy()
        np.testing.assert_array_equal(found, dense[name])
        compared += 1
    assert compared > 40


def test_packed_is_the_same_and_smaller(digits: Path) -> None:
    decoded, packed = thermoq.load(digits), thermoq.load(digits, packed=True)
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 10])
    arguments = {"timestep": torch.tensor([500] * 3), "class_labels": labels}
    assert torch.equal(decoded(x, **arguments).sample, packed(x, **arguments).sample)
    sizes = [sum(one.nbytes for one in model.parameters()) for model in (decoded, packed)]
    assert sizes[1] < sizes[0] / 20


def test_what_is_stored_once_lies_in_memory_once(digits: Path) -> None:
    model = thermoq.load(digits)
    embedders = [block.norm1.emb.timestep_embedder for block in model.transformer_blocks]
    assert len({one.linear_1.weight.data_ptr() for one in embedders}) == 1


def test_a_mixed_batch_is_its_samples(digits: Path) -> None:
    model = thermoq.load(digits)
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    timesteps = [999, 640, 120, 0]
    together = model(x, timestep=torch.tensor(timesteps), class_labels=labels).sample
    alone = [
        model(x[i : i + 1], timestep=torch.tensor([t]), class_labels=labels[i : i + 1]).sample
        for i, t in enumerate(timesteps)
    ]
    # Not to the bit: sums of other sizes are rounded otherwise, and a code may flip.
    assert relative_error(together, torch.cat(alone)) < 0.01
    same = model(x, timestep=torch.tensor([640] * 4), class_labels=labels).sample
    assert relative_error(together[:1], same[:1]) > 0.01


@pytest.mark.parametrize(("said", "samples"), [([1, 2, 3], 4), ([1, 2, 3, 4, 5], 4), ([1, 2], 1)])
def test_as_many_timesteps_as_samples(digits: Path, said: list[float], samples: int) -> None:
    model = thermoq.load(digits)
    x, labels = torch.randn(samples, 1, 8, 8), torch.arange(samples)
    given = {"timestep": torch.tensor([500] * samples), "class_labels": labels}
    problem = (
        f"timestep: expected one timestep, or one for each of {samples} samples, got {len(said)}"
    )
    for args, kwargs in (((x,), given), ((), {**given, "hidden_states": x})):
        with pytest.raises(UsageError) as caught, thermoq.timestep(model, said):
            model(*args, **kwargs)
        assert str(caught.value) == problem


def test_gradients_reach_the_input(digits: Path) -> None:
    model = thermoq.load(digits)
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    model(x, timestep=torch.tensor([9]), class_labels=torch.tensor([1])).sample.sum().backward()
    assert x.grad is not None
    assert not any(one.requires_grad for one in model.parameters())


def test_a_copy_of_a_model_is_one(digits: Path) -> None:
    import copy

    model = thermoq.load(digits)
    other = copy.deepcopy(model)
    arguments = {"timestep": torch.tensor([300]), "class_labels": torch.tensor([1])}
    x = torch.randn(1, 1, 8, 8)
    with thermoq.timestep(other, 10):
        found = model(x, **arguments).sample  # the other's timestep is not this one's
        differs = other(x, **arguments).sample
    assert torch.equal(found, model(x, **arguments).sample)
    assert not torch.equal(found, differs)


@pytest.mark.parametrize("packed", [False, True])
def test_a_loaded_model_is_no_checkpoint(digits: Path, tmp_path: Path, packed: bool) -> None:
    import copy

    model = thermoq.load(digits, packed=packed)
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(UsageError) as caught:
            one.save_pretrained(tmp_path / "saved", safe_serialization=True)
        assert str(caught.value) == (
            "save_pretrained: expected a full-precision model, got a quantized one that "
            "thermoq.load returned; the quantized directory is the checkpoint, `thermoq export` "
            "writes dense weights"
        )
    assert not (tmp_path / "saved").exists()


# The output correction.


def corrected(digits: Path, tmp_path: Path, kind: str) -> tuple[Path, Any, Any]:
    random = np.random.default_rng(3)
    shape = (1,) if kind == "channel" else (1, 8, 8)
    gain = random.uniform(0.5, 1.5, 5).astype(np.float16)
    bias = random.standard_normal((5, *shape)).astype(np.float16)
    out = tmp_path / kind
    shutil.copytree(digits, out)
    starts = [999.0, 700.0, 400.5, 200.0, 100.0]
    add_time_parameters(out / "transformer", correction=(kind, starts, gain, bias))
    return out, gain.astype(np.float32), bias.astype(np.float32)


@pytest.mark.parametrize("kind", ["channel", "position"])
def test_predictions_are_corrected_by_bin(digits: Path, tmp_path: Path, kind: str) -> None:
    out, gain, bias = corrected(digits, tmp_path, kind)
    plain, model = thermoq.load(digits), thermoq.load(out)
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    for timesteps, bins in (
        ([999, 401, 400.5, 0], [0, 1, 2, 4]),
        ([700.5] * 4, [0] * 4),
        ([700] * 4, [1] * 4),
    ):
        arguments = {"timestep": torch.tensor(timesteps), "class_labels": labels}
        expected = plain(x, **arguments).sample.numpy()
        b = bias[bins].reshape(4, *((1, 1, 1) if kind == "channel" else (1, 8, 8)))
        expected = gain[bins].reshape(4, 1, 1, 1) * expected + b
        found = model(x, **arguments)
        np.testing.assert_allclose(found.sample.numpy(), expected, rtol=1e-6, atol=1e-6)
        (as_tuple,) = model(x, **arguments, return_dict=False)
        assert torch.equal(as_tuple, found.sample)


def test_a_correction_of_other_sizes_is_refused(digits: Path, tmp_path: Path) -> None:
    out, _, _ = corrected(digits, tmp_path, "position")
    model = thermoq.load(out)
    with pytest.raises(UsageError, match=r"biases of shape \[1, 8, 8\], got \[1, 4, 4\]"):
        model(
            torch.randn(1, 1, 4, 4),
            timestep=torch.tensor([5]),
            class_labels=torch.tensor([1]),
        )


def test_a_learned_variance_is_left_alone() -> None:
    from thermoq.runtime.correction import corrected

    prediction = torch.randn(2, 6, 4, 4)
    bias = torch.tensor([1.0, 2.0, 3.0])
    found = corrected(prediction, torch.tensor(2.0), bias)
    assert torch.equal(found[:, 3:], prediction[:, 3:])
    assert torch.equal(found[:, :3], 2 * prediction[:, :3] + bias[:, None, None])
    tokens = torch.randn(2, 7, 3)  # packed, as Flux has them: channels come last
    gains = torch.tensor([1.0, 0.5])
    found = corrected(tokens, gains, torch.stack([bias, -bias]))
    expected = torch.stack([tokens[0] + bias, 0.5 * tokens[1] - bias])
    assert torch.equal(found, expected)


# Pipelines.


@pytest.mark.parametrize("packed", [False, True])
def test_a_dit_pipeline_samples(tmp_path: Path, packed: bool) -> None:
    model, out = calibrated(dit_pipeline, tmp_path)
    pipe = diffusers.DiTPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)

    def images() -> Any:
        torch.manual_seed(0)
        return pipe([1, 2], guidance_scale=1.0, num_inference_steps=5, output_type="np").images

    expected = images()
    pipe.transformer = thermoq.load(out, packed=packed)
    seen = Seen(pipe.transformer)
    found = images()
    assert seen.timesteps == [800, 600, 400, 200, 0]
    assert found.shape == expected.shape
    assert 0 < np.abs(found - expected).mean() < 0.05


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipeline_with_a_loaded_model_is_not_saved(tmp_path: Path, packed: bool) -> None:
    model = dit_pipeline(tmp_path / "model")
    out = quantize(model, tmp_path / "out")
    pipe = diffusers.DiTPipeline.from_pretrained(model)
    pipe.transformer = thermoq.load(out, packed=packed)
    with pytest.raises(UsageError, match="the quantized directory is the checkpoint"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("transformer/*"))


def test_a_unet_pipeline_samples(tmp_path: Path) -> None:
    model, out = calibrated(ddpm_pipeline, tmp_path)
    pipe = diffusers.DDPMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet = thermoq.load(out)
    seen = Seen(pipe.unet)
    images = pipe(batch_size=2, num_inference_steps=4, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
    assert seen.timesteps == [750, 500, 250, 0]


def test_stable_diffusion_samples_with_guidance(tmp_path: Path) -> None:
    model, out = calibrated(stable_diffusion, tmp_path)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet = thermoq.load(out)
    seen = Seen(pipe.unet)
    found = pipe(["a", "b"], guidance_scale=3.0, num_inference_steps=4, output_type="latent").images
    assert found.shape == (2, 4, 4, 4)
    assert max(seen.timesteps) > 700
    assert min(seen.timesteps) < 300


@pytest.mark.parametrize("make", [flux, sd3, qwen_image, wan])
def test_flow_matching_finds_its_fractional_timesteps(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    directory, out = calibrated(make, tmp_path)
    model = thermoq.load(out)
    content = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, content["_class_name"]).from_config(content)
    pipe, seen = bare_pipeline(model, scheduler), Seen(model)
    known = inspect.signature(pipe.__call__).parameters
    wanted = {"guidance_scale": 1.0, "true_cfg_scale": 1.0, "height": 32, "width": 32}
    given = {name: value for name, value in wanted.items() if name in known}
    given |= {"num_inference_steps": 5, "output_type": "latent"}
    if make is wan:
        given["num_frames"] = 1
    pipe(**given, **empty_embeddings(model, 1))
    levels = pipe.scheduler.sigmas[:-1].double() * 999
    np.testing.assert_allclose(seen.timesteps, levels.numpy(), atol=1.0)
    assert any(t != round(t) for t in seen.timesteps)


# What is refused.


def test_two_denoisers_are_loaded_one_by_one(digits: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(DEMO, source)
    shutil.copytree(source / "transformer", source / "transformer_2")
    quantize(source, out)
    with pytest.raises(UsageError, match=r"got transformer and transformer_2; load each by itself"):
        thermoq.load(out)
    for name in ("transformer", "transformer_2"):
        assert isinstance(thermoq.load(out / name), diffusers.DiTTransformer2DModel)


def test_an_original_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected a checkpoint quantized by thermoq, got no"):
        thermoq.load(DEMO)


@pytest.mark.parametrize("dtype", ["float64", torch.int8, "nonsense"])
def test_other_dtypes_are_refused(digits: Path, dtype: Any) -> None:
    with pytest.raises(UsageError, match=r"load: expected a dtype of torch.float32, .* got"):
        thermoq.load(digits, dtype=dtype)


def test_weights_beyond_float16_are_refused(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(digits, out)
    (path,) = models.safetensors_files(out / "transformer")
    name = "pos_embed.proj.weight.scale"

    def large(tensors: Any) -> Any:
        dtype, shape, data = tensors[name]
        values = np.full(len(data) // 2, 60000, np.float16)
        return {**tensors, name: (dtype, shape, values.tobytes())}

    models.replace_tensors(path, large)
    with pytest.raises(InputError, match=r"within the range of float16, got \d+ beyond it"):
        thermoq.load(out, dtype="float16")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"_class_name": "NoSuchModel"}, "expected a model class that diffusers"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "expected a model class that diffusers"),
        ({"num_layers": 7}, r"expected a tensor transformer_blocks\.6\."),
        ({"attention_head_dim": 16}, "cannot be loaded"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    digits: Path, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(digits, out)
    path = out / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=problem):
        thermoq.load(out)


def test_without_torch_one_line_says_what_to_install(digits: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import thermoq\n"
        "assert callable(thermoq.timestep)\n"
        f"try: thermoq.load({str(digits)!r})\n"
        "except thermoq.UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "load: expected the torch package, got none; pip install 'thermoq[torch]'\n"
    )


def test_importing_thermoq_imports_no_torch() -> None:
    code = "import sys, thermoq; thermoq.load, thermoq.timestep; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
