"""What denoisers are handed as timesteps is noted by a calibration, and known to the runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thermoq

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers_models import ddpm_pipeline, dit, sd3  # noqa: E402
from thermoq.calibration import partial  # noqa: E402
from thermoq.calibration.handed import HandedValues  # noqa: E402
from thermoq.calibration.merge import merge  # noqa: E402
from thermoq.calibration.run import calibrate  # noqa: E402
from thermoq.runtime.timing import ATTRIBUTE  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
SETTINGS: dict[str, Any] = {"samples": 2, "steps": 6, "rows": 4, "threads": 1}


class Denoiser(torch.nn.Module):
    def forward(self, x: Any, timestep: Any) -> Any:
        return x


def test_values_are_paired_with_the_timesteps_of_their_pass() -> None:
    model = Denoiser()
    with HandedValues([model]) as handed:
        model(0, torch.tensor(0.9))
        handed.note([900.0])
        model(0, timestep=torch.tensor([0.1, 0.2, 0.1, 0.2]))  # with guidance, the samples twice
        handed.note([100.0, 200.0])
        handed.note([5.0])  # a pass that nothing was handed in
    model(0, 0.3)
    handed.note([300.0])
    expected = [(0.9, 900.0), (0.1, 100.0), (0.2, 200.0)]
    np.testing.assert_allclose(handed.pairs, expected, rtol=1e-6)
    assert handed.table("gaussian", 1000) is not None


@pytest.mark.parametrize("make", [ddpm_pipeline, sd3])
def test_ordinary_values_need_no_table(tmp_path: Path, make: Any) -> None:
    found = calibrate(make(tmp_path / "model"), tmp_path / "c.safetensors", **SETTINGS)
    assert found.description.timestep_table is None


def test_a_table_goes_from_the_calibration_to_the_runtime(tmp_path: Path) -> None:
    scheduler = diffusers.EDMEulerScheduler()  # hands over log(sigma) / 4
    model = dit(tmp_path / "model", scheduler)
    path, out = tmp_path / "c.safetensors", tmp_path / "out"
    found = calibrate(model, path, **SETTINGS)
    table = found.description.timestep_table
    assert table is not None
    assert len(table) == 6
    np.testing.assert_allclose(table[-1], [np.log(80.0) / 4, 999.0], rtol=1e-5)
    merged = merge([path, _other(model, tmp_path)], tmp_path / "merged.safetensors")
    assert merged.description.timestep_table == table

    thermoq.quantize(model, out, calibration=str(path), threads=1, validation=False)
    manifest = json.loads((out / "transformer" / "thermoq.json").read_text())
    assert manifest["timestep_table"] == [list(pair) for pair in table]
    loaded = thermoq.load(out)
    seen: list[float] = []
    current = getattr(loaded, ATTRIBUTE)
    loaded.register_forward_pre_hook(lambda *_: seen.extend(current.timesteps))
    scheduler.set_timesteps(6)
    for value in scheduler.timesteps:
        loaded(torch.zeros(1, 1, 8, 8), timestep=value[None], class_labels=torch.tensor([1]))
    np.testing.assert_allclose(seen, [t for _, t in reversed(table)], rtol=1e-5, atol=1e-3)


def _other(model: Path, folder: Path) -> Path:
    path = folder / "other.safetensors"
    calibrate(model, path, **{**SETTINGS, "seed": 1})
    return path


def test_an_interrupted_run_keeps_its_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dit(tmp_path / "model", diffusers.EDMEulerScheduler())
    whole = calibrate(model, tmp_path / "whole.safetensors", **SETTINGS)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    monkeypatch.setattr(partial.PartialFile, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, path, resume=True, **SETTINGS)
    monkeypatch.undo()
    path.unlink()
    resumed = calibrate(model, path, resume=True, **SETTINGS)
    assert resumed.description.timestep_table == whole.description.timestep_table
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
