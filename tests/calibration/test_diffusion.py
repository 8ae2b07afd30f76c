"""Sampling along a model's own trajectory: what is counted, where, and of which inputs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers_models import (  # noqa: E402
    ddpm_pipeline,
    dit,
    dit_pipeline,
    flux,
    qwen_image,
    sd3,
    stable_diffusion,
    wan,
)
from thermoq.calibration import loading  # noqa: E402
from thermoq.calibration.file import Calibration  # noqa: E402
from thermoq.calibration.patches import input_rows  # noqa: E402
from thermoq.calibration.run import calibrate  # noqa: E402
from thermoq.calibration.trajectory import Clock, noised  # noqa: E402
from thermoq.errors import InputError, UsageError  # noqa: E402
from thermoq.schedule import schedule_for  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
Maker = Callable[[Path], Path]


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The model that a test is parametrized with."""
    path: Path = request.param(tmp_path / "model")
    return path


class Plain:
    """Hooks that keep whatever the layers of a model get, and what the model itself gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, list[Any]] = defaultdict(list)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.loaded: Any = None
        real = loading.load_diffusers

        def load(checkpoint: Any) -> Any:
            self.loaded = real(checkpoint)
            for component, denoiser in self.loaded.denoisers.items():
                denoiser.register_forward_pre_hook(self._call, with_kwargs=True)
                for path, module in denoiser.named_modules():
                    rows = input_rows(module)
                    if rows is not None:
                        name = f"{component}/{path}.weight" if component else f"{path}.weight"
                        module.register_forward_pre_hook(self._keeper(name, rows))
            return self.loaded

        monkeypatch.setattr(loading, "load_diffusers", load)

    def _call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append((args, kwargs))

    def _keeper(self, name: str, rows: Any) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...]) -> None:
            self.rows[name].append(torch.cat(list(rows.chunks(args[0]))).double().numpy())

        return keep


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Plain:
    return Plain(monkeypatch)


def calibrated(model: Path, **settings: Any) -> Calibration:
    settings = {"samples": 3, "steps": 6, "rows": 4, "threads": 1, **settings}
    return calibrate(model, model.parent / "c.safetensors", overwrite=True, **settings)


def visited(calibration: Calibration) -> list[int]:
    found = next(iter(calibration.inputs.values()))
    return [int(bin) for bin in np.flatnonzero(found.count)]


# Statistics.


@pytest.mark.parametrize("model", [ddpm_pipeline, dit_pipeline, sd3], indirect=True)
def test_statistics_equal_an_independent_computation(model: Path, plain: Plain) -> None:
    found = calibrated(model, bins=1)
    assert set(found.description.layers) <= set(plain.rows)
    assert found.description.not_reached == ()
    for layer in found.description.layers:
        rows = np.concatenate(plain.rows[layer])
        ours = found.input_of(layer)
        assert ours is not None
        assert ours.count[0] == len(rows)
        assert (ours.minimum[0], ours.maximum[0]) == (rows.min(), rows.max())
        # A mean near zero is a sum that cancels: relative to the spread, as f32 stores it.
        spread = np.sqrt(np.square(rows).mean(axis=0)) + 1e-30
        assert np.abs((ours.mean[0] - rows.mean(axis=0)) / spread).max() < 1e-6
        np.testing.assert_allclose(
            ours.second_moment[0], np.square(rows).mean(axis=0), rtol=1e-5, atol=1e-30
        )
        kept = {row.tobytes() for row in rows.astype(np.float32).astype(np.float16)}
        assert {row.astype(np.float16).tobytes() for row in ours.sample()} <= kept


def test_queries_keys_and_values_share_an_input(tmp_path: Path) -> None:
    layers = calibrated(dit(tmp_path / "model")).description.layers
    attention = "transformer/transformer_blocks.0.attn1"
    assert layers[f"{attention}.to_k.weight"] == layers[f"{attention}.to_v.weight"]
    assert layers[f"{attention}.to_out.0.weight"] == f"{attention}.to_out.0.weight"
    assert not any("embedding_table" in name for name in layers)


# Where on the trajectory.


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_gaussian_chains(tmp_path: Path, prediction: str, plain: Plain) -> None:
    chain = diffusers.DDIMScheduler(
        prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )
    found = calibrated(dit(tmp_path / "model", chain), steps=10, bins=10)
    assert found.description.schedule_kind == "gaussian"
    assert visited(found) == list(range(10))
    handed = [int(kwargs["timestep"][0]) for _, kwargs in plain.calls]
    assert handed == list(range(999, 0, -100))
    # The chain's own formula, one step on from what the model got first.
    bars = chain.alphas_cumprod.double()
    (first, *_), (second, *_) = (args for args, _ in plain.calls[:2])
    with torch.no_grad():
        labels = plain.calls[0][1]["class_labels"]
        denoiser = plain.loaded.denoisers["transformer"]
        out = denoiser(first, timestep=torch.full((3,), 999), class_labels=labels).sample
    a, s = bars[999].sqrt(), (1 - bars[999]).sqrt()
    clean, noise = {
        "epsilon": ((first - s * out) / a, out),
        "v_prediction": (a * first - s * out, a * out + s * first),
        "sample": (out, (first - a * out) / s),
    }[prediction]
    expected = bars[899].sqrt() * clean + (1 - bars[899]).sqrt() * noise
    torch.testing.assert_close(second.double(), expected.double(), rtol=1e-3, atol=1e-3)


FLOWS: list[tuple[Maker, dict[str, Any], float]] = [
    (sd3, {}, 1.0),
    (flux, {"size": 32}, 1 / 1000),
    (qwen_image, {"size": 32}, 1 / 1000),
    (wan, {"size": 32}, 1.0),
]


@pytest.mark.parametrize(("make", "settings", "unit"), FLOWS)
def test_flow_matching(
    make: Maker, settings: dict[str, Any], unit: float, tmp_path: Path, plain: Plain
) -> None:
    model = make(tmp_path / "model")
    found = calibrated(model, samples=1, **settings)
    assert found.description.schedule_kind == "flow_matching"
    assert "text embeddings of zeros" in found.description.details["note"]
    # Families differ in what they hand over; the level in it is the one that was counted.
    levels = [float(kwargs["timestep"].reshape(-1)[0]) / (1000 * unit) for _, kwargs in plain.calls]
    assert len(levels) == 6
    assert levels == sorted(levels, reverse=True)
    timesteps = [min(level, 1.0) * 999 for level in levels]
    assert visited(found) == sorted({min(19, int((999 - t) * 20 / 1000)) for t in timesteps})
    assert 0 in visited(found)


SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("DDPMScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("EDMEulerScheduler", {}),
    (
        "EulerDiscreteScheduler",
        {
            "use_karras_sigmas": True,
            "sigma_min": 0.002,
            "sigma_max": 700.0,
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
        },
    ),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("name", "settings"), SCHEDULERS)
def test_the_clock_follows_every_scheduler(name: str, settings: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**settings)
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    schedule = schedule_for(config, None)
    state = torch.randn(1, 1, 2, 2)
    with Clock(scheduler, schedule) as clock:
        scheduler.set_timesteps(20)
        seen = []
        for timestep in scheduler.timesteps:
            seen.append(clock.timestep)
            sigmas = getattr(scheduler, "sigmas", None)
            if sigmas is not None:
                sigma = float(sigmas[len(seen) - 1])
                _, noise = schedule.variances(clock.timestep)
                if schedule.kind == "flow_matching":
                    assert noise**0.5 == pytest.approx(sigma, abs=1e-4)
                else:
                    data = float(scheduler.config.get("sigma_data", 1.0))
                    assert noise == pytest.approx(1 / (1 + (data / sigma) ** 2), abs=2e-2)
            state = scheduler.step(torch.zeros_like(state), timestep, state).prev_sample
        assert clock.steps_done == len(scheduler.timesteps)
    assert "step" not in vars(scheduler)
    assert seen[0] > 900
    assert seen[-1] < 120
    assert all(0 <= timestep <= 999 for timestep in seen)
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    ("name", "config", "handed", "expected"),
    [
        ("SCMScheduler", {}, [math.pi / 2, 1.3], [999.0, 1.3 / (math.pi / 2) * 999]),
        ("DDPMWuerstchenScheduler", {}, [1.0, 0.25], [999.0, 0.25 * 999]),
    ],
)
def test_timesteps_that_are_no_counts(
    name: str, config: dict[str, Any], handed: list[float], expected: list[float]
) -> None:
    scheduler = getattr(diffusers, name)(**config)
    schedule = schedule_for({"_class_name": name, **scheduler.config}, None)
    scheduler.timesteps = torch.tensor(handed)
    clock = Clock(scheduler, schedule)
    found = []
    for _ in handed:
        found.append(clock.timestep)
        clock.steps_done += 1
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("chain", ["gaussian", "flow"])
def test_noising_is_the_scheduler_s_own(chain: str) -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    if chain == "gaussian":
        scheduler = diffusers.DDPMScheduler()
        timesteps = torch.tensor([20, 980])
        expected = scheduler.add_noise(clean, noise, timesteps)
    else:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        timesteps = torch.tensor([99.9, 999.0])
        expected = torch.stack([0.9 * clean[0] + 0.1 * noise[0], noise[1]])
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    found = noised(clean, noise, timesteps, schedule_for(config, None))
    torch.testing.assert_close(found, expected)


# Labels, guidance, prompts.


def test_labels_visit_every_class_and_none(tmp_path: Path, plain: Plain) -> None:
    found = calibrated(dit(tmp_path / "model"), samples=22, steps=1)
    assert found.description.guidance is None
    (_, kwargs), *_ = plain.calls
    labels = kwargs["class_labels"].tolist()
    assert sorted(set(labels[:3])) == [0, 1, 2]
    assert (labels.count(3), labels[10], labels[21]) == (2, 3, 3)


def test_a_dit_pipeline_is_guided(tmp_path: Path, plain: Plain) -> None:
    model = dit_pipeline(tmp_path / "model")
    found = calibrated(model)
    assert found.description.guidance == 4.0
    (given, *_), kwargs = plain.calls[0]
    assert torch.equal(given[:3], given[3:])
    assert kwargs["class_labels"].tolist()[3:] == [7] * 3
    assert len(plain.calls) == 6
    assert calibrated(model, guidance=1.0).description.guidance == 1.0
    assert len(plain.calls[-1][0][0]) == 3


def test_guidance_is_the_pipeline_s(tmp_path: Path) -> None:
    """Against `DiTPipeline` itself, whose label for none is 1000."""
    model = dit(
        tmp_path / "model", num_embeds_ada_norm=1000, in_channels=4, out_channels=8, sample_size=4
    )
    transformer = diffusers.DiTTransformer2DModel.from_pretrained(model / "transformer").eval()
    scheduler = diffusers.DDIMScheduler()
    pipeline = diffusers.DiTPipeline(transformer, diffusers.AutoencoderKL(), scheduler)
    theirs: list[Any] = []
    hook = transformer.register_forward_pre_hook(lambda module, args: theirs.append(args[0]))
    pipeline.set_progress_bar_config(disable=True)
    pipeline(class_labels=[5], num_inference_steps=4, output_type="pt", guidance_scale=3.0)
    hook.remove()

    from thermoq.calibration.loading import DiffusersModel
    from thermoq.calibration.plain_sampler import PlainSampler
    from thermoq.calibration.sampling import DiffusionSampling

    schedule = schedule_for({"_class_name": "DDIMScheduler", **scheduler.config}, None)
    sampler = PlainSampler(
        DiffusersModel(model, {"transformer": transformer}, scheduler),
        schedule,
        DiffusionSampling(1, 4, 0, 3.0),
        None,
    )
    with torch.no_grad():
        scheduler.set_timesteps(4)
        state, labels = theirs[0][:1], torch.tensor([5])
        for timestep, expected in zip(scheduler.timesteps, theirs, strict=True):
            torch.testing.assert_close(state, expected[:1])
            predicted = sampler._predict(state, timestep, labels)
            state = scheduler.step(predicted, timestep, state).prev_sample


def test_prompts_go_through_the_text_encoder(tmp_path: Path, plain: Plain) -> None:
    model = stable_diffusion(tmp_path / "model")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\n  the dog\n")
    found = calibrated(model, prompts=prompts, samples=2, steps=3)
    assert (found.description.guidance, found.description.details["num_prompts"]) == (7.5, 2)
    assert "note" not in found.description.details
    texts = [kwargs["encoder_hidden_states"] for _, kwargs in plain.calls]
    empty, cat, dog = texts[0][0], texts[0][1], texts[-1][1]
    assert not torch.equal(cat, dog)
    assert torch.equal(texts[-1][0], empty)  # the half of the batch that has no prompt
    found = calibrated(model, samples=1, steps=3, guidance=1.0)
    assert "empty prompts" in found.description.details["note"]
    assert torch.equal(plain.calls[-1][1]["encoder_hidden_states"][0], empty)


# Data.


def test_images_are_noised_to_every_part_of_the_trajectory(tmp_path: Path, plain: Plain) -> None:
    model = ddpm_pipeline(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    found = calibrated(model, data=tmp_path / "images.npy", mix=0.75, samples=4, steps=20)
    assert found.description.data_share == 0.75
    of_images = plain.calls[20:]
    clean = torch.from_numpy(images).float().permute(0, 3, 1, 2) / 127.5 - 1
    chain = diffusers.DDPMScheduler()
    for number, ((given, *_), kwargs) in enumerate(of_images):
        timesteps = kwargs["timestep"]
        assert ((19 - number) * 50 <= timesteps).all()
        assert (timesteps < (20 - number) * 50).all()
        bars = chain.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        noise = (given - bars.sqrt() * clean) / (1 - bars).sqrt()
        assert noise.std() == pytest.approx(1.0, abs=0.15)
    assert found.inputs["unet/conv_in.weight"].count.tolist() == [4 * 64] * 20


def test_images_go_through_the_autoencoder(tmp_path: Path, plain: Plain) -> None:
    model = dit_pipeline(tmp_path / "model")
    folder = tmp_path / "images"
    folder.mkdir()
    from PIL import Image

    Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(folder / "white.png")
    calibrated(model, data=folder, mix=1.0, samples=1, steps=40)
    (given, *_), _ = plain.calls[-1]
    with torch.no_grad():
        encoded = plain.loaded.vae.encode(torch.ones(1, 3, 8, 8)).latent_dist.mode()
    expected = encoded * plain.loaded.vae.config.scaling_factor
    assert (given - expected).abs().max() < 1.0  # all but clean at the end
    assert plain.calls[-1][1]["class_labels"].tolist() == [7]


def test_images_in_a_pipeline_take_the_place_of_its_latents(tmp_path: Path, plain: Plain) -> None:
    model = stable_diffusion(tmp_path / "model")
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8), np.float32))
    calibrated(model, data=tmp_path / "images.npy", mix=1.0, samples=1, steps=50)
    # The hooks on the denoiser are older than the one that swaps; the first layer gets the swapped.
    # The middle of its 3x3 patches: [passes, with and without prompt, positions, channels].
    given = np.stack(plain.rows["unet/conv_in.weight"])[..., 4::9].reshape(-1, 2, 16, 4)
    with torch.no_grad():
        encoded = plain.loaded.vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist.mode()
    clean = (encoded * plain.loaded.vae.config.scaling_factor)[0].flatten(1).T.double().numpy()
    assert np.array_equal(given[:, 0], given[:, 1])
    assert (given[-1, 0] - clean).std() < 0.1
    assert (given[0, 0] - clean).std() > 0.7


def bad_data(folder: Path, kind: str) -> Path:
    path = folder / ("data" if kind in ("none", "text") else "data.npy")
    if kind == "none":
        path.mkdir()
    elif kind == "text":
        path.write_text("text")
    elif kind == "broken":
        path.write_bytes(b"\x93NUMPY\x01")
    elif kind == "pickled":
        np.save(path, np.array([{}]), allow_pickle=True)
    else:
        shape = (2, 8, 8, 2) if kind == "channels" else (2, 8, 8)
        dtype = np.int64 if kind == "integers" else np.float32
        np.save(path, np.full(shape, 7, dtype))
    return path


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("none", "expected PNG, JPEG or NPY images, got none"),
        ("text", "expected a folder of images or an .npy file"),
        ("broken", "not an array that can be read"),
        ("pickled", "not an array that can be read"),
        ("channels", r"expected an image of 1, 3 or 4 channels, got \[2, 8, 8\]|got \[8, 8, 2\]"),
        ("integers", "expected bytes or floats, got int64"),
        ("large", "expected floats from -1 to 1, got 7"),
    ],
)
def test_data_that_cannot_be_used(kind: str, problem: str, tmp_path: Path) -> None:
    model = dit(tmp_path / "model")
    with pytest.raises((InputError, UsageError), match=problem):
        calibrated(model, data=bad_data(tmp_path, kind))


# What cannot be.


def test_settings_that_do_not_go_with_the_model(tmp_path: Path) -> None:
    bare, labelled = sd3(tmp_path / "sd3"), dit(tmp_path / "dit")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n")
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((1, 8, 8), np.float32))
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (labelled, {"prompts": prompts}, "--prompts: expected a pipeline with a text encoder"),
        (bare, {"prompts": prompts}, "--prompts: expected a pipeline with a text encoder"),
        (bare, {"guidance": 2.0}, "--guidance: expected a pipeline with a text encoder"),
        (bare, {"data": images}, "--data: expected a vae beside a model of 4 channels"),
        (labelled, {"size": 16}, "--size: the samples of DiTTransformer2DModel have a fixed size"),
        (labelled, {"length": 16}, "--length: expected a masked-diffusion language model"),
        (labelled, {"steps": 1001}, r"--steps: expected at most 1000 \(the model's timesteps\)"),
        (ddpm_pipeline(tmp_path / "u"), {"guidance": 2.0}, "--guidance: expected a model with a"),
    ]
    for model, settings, problem in wrong:
        with pytest.raises((UsageError, InputError), match=problem):
            calibrated(model, **settings)
        assert not (model.parent / "c.safetensors").exists()


def test_a_denoiser_that_needs_its_pipeline(tmp_path: Path) -> None:
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=8,
        in_channels=4,
        num_layers=1,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    )
    transformer.save_pretrained(tmp_path / "model/transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "model/scheduler")
    problem = "expected a pipeline, got PixArtTransformer2DModel alone"
    with pytest.raises(InputError, match=problem):
        calibrated(tmp_path / "model")


def test_nan_in_an_activation_names_layer_and_timestep(tmp_path: Path) -> None:
    model = dit(tmp_path / "model")
    transformer = diffusers.DiTTransformer2DModel.from_pretrained(model / "transformer")
    with torch.no_grad():
        transformer.transformer_blocks[0].attn1.to_v.bias[0] = torch.nan
    transformer.save_pretrained(model / "transformer")
    problem = r"layer transformer/transformer_blocks.0.attn1.to_out.0.weight at timestep 830: "
    with pytest.raises(InputError, match=problem):
        calibrated(model)
