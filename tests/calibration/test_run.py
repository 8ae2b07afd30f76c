"""A whole calibration: the file, its bytes, interruptions, and what quantization makes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import language_checkpoints
import numpy as np
import pytest
import thermoq
from models import replace_tensors

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers_models import ddpm_pipeline, dit, dit_pipeline, sd3  # noqa: E402
from thermoq.calibration.file import Calibration, read_calibration  # noqa: E402
from thermoq.calibration.run import calibrate  # noqa: E402
from thermoq.errors import InputError, UsageError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

SETTINGS: dict[str, Any] = {"samples": 5, "steps": 6, "rows": 4, "threads": 1}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return dit(tmp_path / "model")


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples a batch, so that there is something to interrupt between."""
    monkeypatch.setattr("thermoq.calibration.plain_sampler._MAX_BATCH", 2)


class Interrupting:
    """A progress that stops the run at a step."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines: list[str] = []
        self.started: tuple[str, int, int] | None = None

    def start(self, task: str, total_steps: int, done: int) -> None:
        self.started = (task, total_steps, done)

    def advance(self, where: str) -> None:
        self.lines.append(where)
        if len(self.lines) == self.at:
            raise KeyboardInterrupt


def output(model: Path, name: str = "c.safetensors") -> Path:
    return model.parent / name


def names(model: Path) -> list[str]:
    return sorted(path.name for path in model.parent.iterdir() if path != model)


# The file.


def test_the_file_says_how_it_came_to_be(model: Path) -> None:
    written = calibrate(model, output(model), seed=3, **SETTINGS)
    read = read_calibration(output(model))
    assert read.description == written.description
    about = read.description
    assert (about.sampler, about.steps, about.seed, about.num_samples) == ("DDIMScheduler", 6, 3, 5)
    assert (about.rows_per_bin, about.data_share, len(about.bin_starts)) == (4, 0.0, 20)
    assert about.components["transformer"].architecture == "DiTTransformer2DModel"
    assert about.details["precision"] == "float32"
    for name, expected in written.inputs.items():
        for key, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(read.inputs[name], key), value)


@pytest.mark.parametrize("make", [dit, sd3, ddpm_pipeline])
def test_same_seed_same_bytes(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    files = []
    for number, seed in enumerate((1, 1, 2)):
        calibrate(model, output(model, f"{number}"), seed=seed, **SETTINGS)
        files.append(output(model, f"{number}").read_bytes())
    assert files[0] == files[1] != files[2]


def test_rows_in_files_are_the_same(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate(model, output(model, "in memory"), **SETTINGS)
    made: list[str] = []
    real = np.memmap

    def counted(*arguments: Any, **keywords: Any) -> Any:
        made.append("one")
        return real(*arguments, **keywords)

    monkeypatch.setattr("thermoq.calibration.storage._SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(np, "memmap", counted)
    calibrate(model, output(model, "in files"), **SETTINGS)
    assert made
    assert output(model, "in files").read_bytes() == output(model, "in memory").read_bytes()
    assert names(model) == ["in files", "in memory"]


def test_a_layer_that_never_runs_is_listed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention import BasicTransformerBlock

    def passed_by(block: Any, hidden_states: Any, **arguments: Any) -> Any:
        return hidden_states

    monkeypatch.setattr(BasicTransformerBlock, "forward", passed_by)
    found = calibrate(model, output(model), **SETTINGS)
    query = "transformer/transformer_blocks.0.attn1.to_q.weight"
    assert query in found.description.not_reached
    assert "transformer/proj_out_2.weight" in found.description.layers
    report = thermoq.baseline(model, output(model, "out"), calibration=str(output(model)))
    assert any("to_q" in warning or "not reached" in warning for warning in report.warnings)


def test_old_names_of_an_attention_are_found(tmp_path: Path) -> None:
    model = ddpm_pipeline(tmp_path / "model")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, before in old.items():
            if "attentions" in name:
                name = name.replace(f".{new}.", f".{before}.")
        return name

    path = model / "unet/diffusion_pytorch_model.safetensors"
    new = calibrate(model, output(model, "new"), **SETTINGS)
    replace_tensors(path, lambda tensors: {renamed(k): v for k, v in tensors.items()})
    found = calibrate(model, output(model, "old"), **SETTINGS)
    assert found.description.not_reached == ()
    assert set(found.description.layers) == {renamed(name) for name in new.description.layers}


@pytest.mark.parametrize("make", [ddpm_pipeline, dit_pipeline])
def test_quantization_takes_it(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    calibrate(model, output(model), **SETTINGS)
    report = thermoq.baseline(model, output(model, "out"), calibration=str(output(model)))
    assert report.parameter_source == "calibration"
    assert thermoq.verify(output(model, "out")).num_quantized > 0


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_language_models(family: str, tmp_path: Path) -> None:
    model = language_checkpoints.write(tmp_path / "model", family)
    found = calibrate(model, output(model), samples=3, length=12, rows=4, threads=1)
    about = found.description
    assert (about.schedule_kind, about.steps, about.details["length"]) == ("masked", 12, 12)
    assert set(about.layers) == language_checkpoints.linear_layers(family)
    assert about.not_reached == ()
    report = thermoq.baseline(model, output(model, "out"), calibration=str(output(model)))
    assert report.parameter_source == "calibration"
    for name in ("guidance", "size"):
        with pytest.raises(UsageError, match=f"--{name}: expected an image model"):
            calibrate(model, output(model, "b"), **{name: 2})


@pytest.mark.parametrize(
    ("family", "key"), [("dream", "max_position_embeddings"), ("llada", "max_sequence_length")]
)
def test_a_length_is_one_that_the_model_has(family: str, key: str, tmp_path: Path) -> None:
    model = language_checkpoints.write(tmp_path / "model", family, **{key: 10})
    settings = {"samples": 1, "steps": 2, "rows": 2, "threads": 1}
    problem = r"--length: expected at most 10 \(the model's positions\), got 100000"
    with pytest.raises(UsageError, match=problem):
        calibrate(model, output(model), length=100_000, **settings)
    assert names(model) == []
    found = calibrate(model, output(model), **settings)
    assert found.description.details["length"] == 10
    assert found.description.details["position_temperature"] == 0.1


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to "
                      "allocate 40000000000 bytes. Error code 12"), " for 40,000.00 MB more"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), " for 2 GiB more"),
        (MemoryError(), ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [dit, "dream"])
def test_too_little_memory(
    make: Any, error: Exception, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make == "dream":
        model = language_checkpoints.write(tmp_path / "model", "dream")
    else:
        model = make(tmp_path / "model")

    def fail(layer: Any, values: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.nn.Linear, "forward", fail)
    settings = {"samples": 1, "steps": 1, "threads": 1}
    with pytest.raises(InputError) as raised:
        calibrate(model, output(model), **settings)
    hint = "; a smaller --length needs less" if make == "dream" else ""
    assert str(raised.value) == (
        f"{model}: cannot be sampled: expected enough memory{asked}, got too little{hint}"
    )
    assert names(model) == []


def test_a_text_that_is_too_short(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(Path(__file__).parents[1] / "data" / "masked-lm", model)
    text = tmp_path / "text.txt"
    text.write_text("while\n")
    with pytest.raises(InputError) as raised:
        calibrate(model, output(model), data=text, mix=1.0, samples=1, steps=1, length=16)
    assert re.fullmatch(
        rf"{re.escape(str(text))}: --data: expected at least 16 tokens \(--length\), got \d",
        str(raised.value),
    )


def test_the_noise_schedule_is_kept(model: Path) -> None:
    calibrate(model, output(model), bins=1, **SETTINGS)
    about = read_calibration(output(model)).description
    assert about.schedule == "linear betas 0.0001 to 0.02, T = 1000 (DDIMScheduler)"
    assert about.noise_levels is not None
    assert len(about.noise_levels) == 21
    betas = np.linspace(0.0001, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    assert about.noise_levels[0] == pytest.approx(1 - bars[999], rel=1e-12)
    assert about.noise_levels[10] == pytest.approx(1 - (bars[499] + bars[500]) / 2, rel=1e-12)
    assert about.noise_levels[20] == pytest.approx(1e-4, rel=1e-9)
    path = model / "scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"linear"', '"scaled_linear"'))
    with pytest.raises(InputError, match=r"got one over .linear betas .*; calibrate again"):
        thermoq.baseline(
            model, output(model, "out"), calibration=str(output(model)), num_time_groups=1
        )


# Interruptions.


def test_an_interrupt_leaves_nothing(model: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, output(model), progress=Interrupting(4), **SETTINGS)
    assert names(model) == []


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("make", [dit, "dream"])
def test_resuming_gives_the_same_file(make: Any, tmp_path: Path) -> None:
    if make == "dream":
        model = language_checkpoints.write(tmp_path / "model", "dream")
        settings = {"samples": 20, "length": 8, "steps": 4, "rows": 4, "threads": 1}
        steps, batch = 4, 8
    else:
        model, settings, steps, batch = make(tmp_path / "model"), SETTINGS, 6, 2
    whole = calibrate(model, output(model, "whole"), **settings)
    for at in (steps - 1, steps + 2, 2 * steps):
        progress = Interrupting(at)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, output(model), resume=True, progress=progress, **settings)
    assert names(model) == ["c.safetensors.partial", "whole"]
    last = Interrupting(0)
    resumed = calibrate(model, output(model), resume=True, progress=last, **settings)
    total = settings["samples"]
    assert last.started == ("calibrating", 3 * steps, 2 * steps)
    assert last.lines[-1] == f"step {steps} of {steps}, sample {total} of {total}"
    assert last.lines[0] == f"step 1 of {steps}, sample {min(total, 3 * batch)} of {total}"
    assert output(model).read_bytes() == output(model, "whole").read_bytes()
    assert resumed.description == whole.description
    assert names(model) == ["c.safetensors", "whole"]


@pytest.mark.usefixtures("_small_batches")
def test_a_partial_file_of_another_run(model: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, output(model), resume=True, progress=Interrupting(8), **SETTINGS)
    partial = output(model, "c.safetensors.partial")
    before = partial.read_bytes()
    problem = r"c.safetensors.partial: expected the partial result of this command, got one with "
    with pytest.raises(UsageError, match=problem + "seed 0, not 1; delete it to begin anew"):
        calibrate(model, output(model), resume=True, **SETTINGS, seed=1)
    np.save(output(model, "images.npy"), np.zeros((1, 8, 8), np.float32))
    with pytest.raises(UsageError, match=problem + "data None, not .*images.npy"):
        calibrate(model, output(model), resume=True, data=output(model, "images.npy"), **SETTINGS)
    scheduler = model / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"linear"', '"scaled_linear"'))
    with pytest.raises(UsageError, match=problem + "scheduler .*'linear'.* not .*'scaled_linear'"):
        calibrate(model, output(model), resume=True, **SETTINGS)
    scheduler.write_text(scheduler.read_text().replace('"scaled_linear"', '"linear"'))
    partial.write_bytes(before[:1000])
    with pytest.raises(InputError, match=r"c.safetensors.partial: .*not a partial calibration"):
        calibrate(model, output(model), resume=True, **SETTINGS)
    partial.write_bytes(before)
    calibrate(model, output(model), **SETTINGS)  # without --resume it does not matter
    assert partial.read_bytes() == before


@pytest.mark.usefixtures("_small_batches")
def test_a_partial_file_of_other_data(model: Path) -> None:
    images = output(model, "images.npy")
    settings = {**SETTINGS, "data": images, "resume": True}
    np.save(images, np.zeros((1, 8, 8), np.float32))
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, output(model), progress=Interrupting(8), **settings)
    np.save(images, np.ones((1, 8, 8), np.float32))
    with pytest.raises(UsageError, match="expected the partial result of this command, got one wi"):
        calibrate(model, output(model), **settings)


# What cannot be.


def test_outputs_that_cannot_be(model: Path) -> None:
    output(model).write_bytes(b"mine")
    (model.parent / "folder").mkdir()
    with pytest.raises(InputError, match="already exists; --overwrite replaces it"):
        calibrate(model, output(model), **SETTINGS)
    with pytest.raises(UsageError, match="expected a file to write, got a directory"):
        calibrate(model, output(model, "folder"), **SETTINGS)
    with pytest.raises(UsageError, match="expected a file outside"):
        calibrate(model, model / "c.safetensors", **SETTINGS)
    with pytest.raises(InputError, match="expected an existing directory to write into"):
        calibrate(model, output(model, "gone") / "c.safetensors", **SETTINGS)
    assert output(model).read_bytes() == b"mine"
    found = calibrate(model, output(model), overwrite=True, **SETTINGS)
    assert isinstance(found, Calibration)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"samples": 0}, "--samples: expected at least 1, got 0"),
        ({"steps": 0}, "--steps: expected at least 1, got 0"),
        ({"rows": -1}, "--rows: expected at least 0, got -1"),
        ({"bins": 1001}, r"expected --bins between 1 and 1000 \(the model's timesteps\), got 1001"),
        ({"mix": 1.5}, "--mix: expected a share between 0 and 1, got 1.5"),
        ({"mix": 0.5}, "--mix: expected --data, whose share it is, got none"),
        ({"guidance": float("nan")}, "--guidance: expected at least 0, got nan"),
        ({"threads": -1}, "--threads: expected at least 0, got -1"),
        ({"nonsense": 1}, "unknown setting nonsense"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], problem: str, model: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        calibrate(model, output(model), **settings)
    assert names(model) == []
