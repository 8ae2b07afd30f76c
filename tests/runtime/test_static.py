"""A loaded model run with static parameters: nothing in it knows of time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thermoq
from calibrations import calibrated
from time_parameter_files import add_time_parameters

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers_models import dit  # noqa: E402
from thermoq.runtime.timing import ATTRIBUTE, CurrentTime  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
TIMESTEPS = [999, 760.5, 740, 500, 499, 260, 130, 0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformer in 1 and in 4 time groups, and the latter with all that phases add."""
    root = tmp_path_factory.mktemp("static")
    dit(root / "model")
    calibrated(root / "model", root / "c.safetensors", num_rows=20)
    for groups, name in ((1, "one"), (4, "four")):
        thermoq.quantize(
            root / "model",
            root / name,
            calibration=str(root / "c.safetensors"),
            num_time_groups=groups,
            bit_width=8,
            threads=1,
        )
    shutil.copytree(root / "four", root / "all")
    correction = np.array([0.5, 2.0], np.float16), np.array([[1.0], [-1.0]], np.float16)
    add_time_parameters(
        root / "all" / "transformer",
        smoothing=("cubic", [100.0, 60.5, 7.0]),
        groups_of_rows=lambda name: 0 if "table" in name else 1 if "attn" in name else 4,
        correction=("channel", [999, 499], *correction),
    )
    return root


def time_of(model: Any) -> CurrentTime:
    found = getattr(model, ATTRIBUTE)
    assert isinstance(found, CurrentTime)
    return found


def predicted(model: Any, t: float, rows: int = 2) -> Any:
    x = torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(rows) % 3
    return model(x, timestep=torch.full((rows,), float(t)), class_labels=labels).sample


def test_a_model_of_one_time_group_is_static(made: Path) -> None:
    model = thermoq.load(made / "one")
    for t in TIMESTEPS:
        with time_of(model).static():
            static = predicted(model, t)
        assert torch.equal(static, predicted(model, t))


def test_only_the_ranges_of_the_middle_group_are_left(made: Path) -> None:
    """No gains, no biases, no blends, no correction: Phase 1 held at a timestep of that group."""
    model, plain = thermoq.load(made / "all"), thermoq.load(made / "four")
    for t in TIMESTEPS:
        with time_of(model).static():
            static = predicted(model, t)
        with thermoq.timestep(plain, 300):
            assert torch.equal(static, predicted(plain, t))
        assert not torch.equal(static, predicted(model, t))


def test_no_timestep_is_read_and_none_is_needed(made: Path) -> None:
    model = thermoq.load(made / "all")
    current, seen = time_of(model), []
    model.register_forward_pre_hook(lambda *_: seen.append((current._moment, current.timesteps)))
    with current.static():
        predicted(model, 10_000)  # outside of the trajectory
        predicted(model, 3)
    (first, timesteps), second = seen
    assert second == (first, timesteps)
    assert timesteps == []
    with pytest.raises(thermoq.UsageError, match=r"a timestep in \[0, 1000\), got 10000"):
        predicted(model, 10_000)


def test_afterwards_everything_is_as_it_was(made: Path) -> None:
    model = thermoq.load(made / "all")
    before = [predicted(model, t) for t in TIMESTEPS]
    with time_of(model).static():
        predicted(model, 0)
    time_of(model).forget()
    after = [predicted(model, t) for t in TIMESTEPS]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_other_parameters_are_static_ones_too(made: Path) -> None:
    model = thermoq.load(made / "four")
    current = time_of(model)
    with current.static():
        before = predicted(model, 5)
    layers = dict(enumerate(current._table._layers))
    wider = {
        slot: replace(layer, activation=replace(layer.activation, scale=9 * layer.activation.scale))
        for slot, layer in layers.items()
        if layer.activation is not None
    }
    assert wider
    current.replace(wider)
    with current.static():
        assert not torch.equal(before, predicted(model, 5))
