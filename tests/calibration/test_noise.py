"""When two noise schedules are one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thermoq.calibration.file import read_calibration
from thermoq.calibration.noise import most_different, noise_levels, timesteps_of_levels
from thermoq.demonstration import CALIBRATION_FILE, MODEL_FOLDER
from thermoq.schedule import schedule_for

PACKAGE = Path(__file__).parents[2] / "python" / "thermoq"
EDM = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}


def levels(**config: Any) -> tuple[float, ...]:
    return noise_levels(schedule_for(config, None))


def test_levels_lie_evenly_from_noise_to_data() -> None:
    schedule = schedule_for({"_class_name": "FlowMatchEulerDiscreteScheduler"}, None)
    assert noise_levels(schedule) == pytest.approx([(i / 20) ** 2 for i in range(20, -1, -1)])
    assert timesteps_of_levels(1000)[::10] == (999.0, 499.5, 0.0)
    assert timesteps_of_levels(1) == (0.0,) * 21


def test_a_schedule_is_itself() -> None:
    own = levels(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert most_different(own, own) is None
    elsewhere = np.array(own) * (1 + 1e-12)  # another machine's last digits
    assert most_different(own, elsewhere.clip(0, 1).tolist()) is None
    given = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert most_different(own, levels(trained_betas=given.tolist())) is None


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (EDM, {**EDM, "sigma_max": 500.0}, 0),
        (EDM, {**EDM, "sigma_min": 0.004}, 20),
        # All that differs is the noise of the first timestep, or that of the last.
        ({"trained_betas": [1e-4] * 99}, {"trained_betas": [2e-4, 0.0, *[1e-4] * 97]}, 20),
        ({"trained_betas": [0.1] * 100}, {"trained_betas": [0.1] * 99 + [1.0]}, 0),
    ],
)
def test_both_ends_of_a_schedule_matter(
    one: dict[str, Any], other: dict[str, Any], where: int
) -> None:
    mine, theirs = levels(**one), levels(**other)
    if one is not EDM:
        assert where == most_different(mine, theirs)
    assert most_different((mine[where],), (theirs[where],)) == 0
    assert abs(mine[where] - theirs[where]) < 2e-4


def test_the_shipped_calibration_has_the_schedule_of_the_shipped_model() -> None:
    (path,) = (PACKAGE / MODEL_FOLDER).rglob("scheduler_config.json")
    schedule = schedule_for(json.loads(path.read_text()), None)
    found = read_calibration(PACKAGE / CALIBRATION_FILE).description
    assert found.noise_levels is not None
    assert most_different(found.noise_levels, noise_levels(schedule)) is None
    assert found.schedule == schedule.description
