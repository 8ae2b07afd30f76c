"""Phase 3 on the inputs that quantized layers give, layer after layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import language_checkpoints  # noqa: E402
import thermoq  # noqa: E402
from calibrations import describe  # noqa: E402
from diffusers_models import ddpm_pipeline, dit  # noqa: E402
from thermoq.calibration.job import Job, Step, Watched  # noqa: E402
from thermoq.checkpoint import MappedFiles  # noqa: E402
from thermoq.checkpoint.manifest import CopiedTensor  # noqa: E402
from thermoq.checkpoint.quantized import open_quantized  # noqa: E402
from thermoq.evaluation import sequential  # noqa: E402
from thermoq.evaluation.layer_inputs import BATCHES_A_BIN, Wanted, record, rerun  # noqa: E402
from thermoq.evaluation.pairs import as_told  # noqa: E402
from thermoq.evaluation.sequential import fit_layers  # noqa: E402
from thermoq.interpolation import piecewise  # noqa: E402
from thermoq.optimization import (  # noqa: E402
    LayerSample,
    OptimizationChoices,
    OptimizedLayer,
    optimize_layer,
)
from thermoq.optimization.inputs import Inputs  # noqa: E402
from thermoq.progress import NoSteps  # noqa: E402
from thermoq.runtime.modules import TimedSettings, make_timed  # noqa: E402
from thermoq.runtime.parameters import LayerParameters, ParameterTable  # noqa: E402
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime  # noqa: E402
from thermoq.schedule import uniform_time_groups  # noqa: E402
from thermoq.time_parameters import TimeParameters  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's

nn = torch.nn
WIDTH, GROUPS, STEPS, TOTAL = 16, 2, 4, 100
SECOND = "second.weight"
COARSE = TimeParameters(np.full(GROUPS, 1 / 16), np.full(GROUPS, 128.0), "calibration")


class Two(nn.Module):
    """Two layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.reached = 0

    def forward(self, values: Any) -> Any:
        found = self.second(self.first(values))
        self.reached += 1
        return found


def quantized_two(full: Two) -> Two:
    """The same, but its first layer gives too little, and something else beside; and nothing makes
    up for it there."""
    found = Two()
    found.load_state_dict(full.state_dict())
    shift = torch.linspace(-0.5, 0.5, WIDTH)
    with torch.no_grad():
        found.first.weight.mul_(0.7)
        found.first.bias.mul_(0.7).add_(shift)
    table = ParameterTable(
        piecewise(uniform_time_groups(TOTAL, GROUPS)), [LayerParameters(COARSE, None)]
    )
    time = CurrentTime(table, lambda args, kwargs: None)
    make_timed(found.second, TimedSettings(SECOND, 0, time, found.second, None))
    object.__setattr__(found, ATTRIBUTE, time)
    found.register_forward_pre_hook(time.before, with_kwargs=True)
    found.register_forward_hook(time.after, always_call=True)
    return found


def job_of(module: nn.Module, batches: int = 2, each: int = 32) -> Job:
    ranges = tuple(range(i * each, (i + 1) * each) for i in range(batches))

    def run(at: Any, told: Any, finished: Any, done: int) -> None:
        for number, batch in enumerate(ranges):
            values = torch.randn(each, WIDTH, generator=torch.Generator().manual_seed(number))
            for step in range(STEPS):
                with at([TOTAL - 1.0 - step * TOTAL / STEPS]):
                    module(values * (1 + step))
                told(Step(step + 1, batch[-1] + 1))
            finished(number + 1)

    layers = {"first.weight": "first", SECOND: "second"}
    watched = (Watched(module, layers),)
    return Job(watched, ranges, STEPS, "toy", None, 0.0, "float32", run)


def optimized(full: Two, rows: Sequence[Inputs]) -> OptimizedLayer:
    weights = full.second.weight.detach().numpy()
    sample = LayerSample(
        weights, weights, [one.given for one in rows], COARSE, 8, None, [one.full for one in rows]
    )
    return optimize_layer(sample, OptimizationChoices(clip_search=False))


def test_an_error_of_the_layers_before_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    full, bins = Two().eval(), uniform_time_groups(TOTAL, STEPS)
    quantized = quantized_two(full).eval()
    own = SimpleNamespace(
        job=job_of(full), bins=bins, at_timesteps=as_told, modules=lambda given: list(given)
    )
    monkeypatch.setattr(sequential, "own_sampling", lambda *arguments: own)
    seen: dict[str, Sequence[Inputs]] = {}

    def fit(name: str, rows: Sequence[Inputs]) -> LayerParameters:
        seen[name] = rows
        found = optimized(full, rows)
        return LayerParameters(found.activation, found.rows)

    description = describe({}, bin_starts=bins.starts, num_timesteps=TOTAL, num_samples=64)
    groups = uniform_time_groups(TOTAL, GROUPS)

    def error() -> float:
        values = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(9))
        with torch.no_grad(), as_told(quantized, [TOTAL - 1.0]):
            wanted = full(values)
            return float((quantized(values) - wanted).square().sum() / wanted.square().sum())

    before = error()
    run = fit_layers("", [quantized], description, groups, [SECOND], fit, threads=1)
    assert run.num_layers == 1
    assert run.num_passes == 2 * STEPS
    assert error() < 0.02 * before
    (rows,) = seen.values()
    ordinary = optimized(full, [Inputs(one.full, one.full) for one in rows])
    assert ordinary.choice == "none"  # nothing is wrong with the layer by itself
    together = optimized(full, rows)
    assert together.rows is not None
    assert together.rows.gain == pytest.approx(np.full_like(together.rows.gain, 1 / 0.7), rel=0.02)


def test_rows_of_both_models_are_at_the_same_places() -> None:
    full, bins = Two().eval(), uniform_time_groups(TOTAL, STEPS)
    wanted = Wanted({"first.weight": ("first", "a"), SECOND: ("second", "b")}, 5)
    with torch.no_grad():
        job = job_of(full, batches=6)
        (passes,) = record(job, [wanted], bins, 0, NoSteps())
        assert len(passes) == STEPS * 3  # two of a stride of two batches
        assert BATCHES_A_BIN >= 3
        for one in passes:
            assert list(one.inputs) == ["a", "b"]
            assert one.inputs["a"][0].shape == (32, WIDTH)
            assert len(one.inputs["a"][0].rows) == 5
            full.reached = 0
            (again,) = rerun(full, full.second, "b", one, 5)
            assert full.reached == 0  # stopped in front of it
            assert np.array_equal(again.rows, one.inputs["b"][0].rows)
    places = {one.inputs["a"][0].rows.tobytes() for one in passes}
    assert len(places) == len(passes)


# Whole runs.


def made(make: Any, folder: Path, **settings: Any) -> tuple[Path, thermoq.Report]:
    """Quantize a model of `make` sequentially, with a calibration of its own."""
    if not folder.exists():
        make(folder / "model")
        thermoq.calibrate(
            folder / "model", folder / "c.safetensors", samples=4, steps=6, bins=4, rows=24,
            threads=1,
        )  # fmt: skip
    output = folder / f"out{len(list(folder.iterdir()))}"
    usual = {"bit_width": 2, "phase": "optimize", "num_time_groups": 2, "threads": 1}
    usual |= {"calibration": str(folder / "c.safetensors"), "output_correction": False}
    return output, thermoq.quantize(folder / "model", output, **{**usual, **settings})


def tensors_of(root: Path) -> dict[str, bytes]:
    with MappedFiles() as files:
        return {
            f"{part.component.name}/{name}": files.bytes(tensor).tobytes()
            for part in open_quantized(root)[1]
            for name, tensor in part.component.tensors.items()
        }


def language(directory: Path) -> None:
    language_checkpoints.write(directory, "dream")


MAKERS: dict[str, Any] = {"dit": dit, "unet": ddpm_pipeline, "dream": language}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dit", {}), ("dit", {"rotation": "hadamard"}), ("unet", {}), ("dream", {})],
)
def test_a_run_stores_other_time_parameters_and_the_same_codes(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    folder = tmp_path / "made"
    plain, before = made(MAKERS[name], folder, **settings)
    output, report = made(MAKERS[name], folder, **settings, sequential=True)
    thermoq.verify(output)
    first, second = tensors_of(plain), tensors_of(output)
    time = ("time_gain", "time_bias", "activation_scale", "activation_zero_point")
    codes = {key for key in first.keys() | second.keys() if not key.endswith(time)}
    assert all(first[key] == second[key] for key in codes)
    assert any(first.get(key) != second.get(key) for key in second.keys() - codes)
    assert report.optimization is not None
    assert before.optimization is not None
    assert before.optimization.sequential is None
    run = report.optimization.sequential
    assert run is not None
    assert run.num_layers == report.optimization.num_layers
    assert run.num_samples == 4
    assert run.num_passes >= 4
    assert report.provenance.times_s["sequential_s"] > 0
    stored = sum(
        entry.time_groups_of_rows is not None
        for part in open_quantized(output)[1]
        for entry in part.manifest.tensors.values()
        if not isinstance(entry, CopiedTensor)
    )
    chosen = {one.row_choice: one.num_layers for one in report.optimization.row_choices}
    assert stored == chosen["pooled"] + chosen["per_time_group"]
    sizes = report.sizes
    assert sizes.model_bytes == sum(path.stat().st_size for path in output.rglob("*.safetensors"))


def test_the_same_seed_gives_the_same_bytes_also_with_a_correction(tmp_path: Path) -> None:
    settings = {"sequential": True, "output_correction": True}
    first, _ = made(dit, tmp_path / "made", **settings)
    second, _ = made(dit, tmp_path / "made", **settings)
    assert tensors_of(first) == tensors_of(second)
    thermoq.verify(first)
    thermoq.load(first)
