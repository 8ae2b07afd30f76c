"""The KL of a chain's transitions, against the divergence of normal distributions themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from thermoq.evaluation.transition_kl import transition_weights
from thermoq.schedule import schedule_for

DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 100}


def clean_sample(predicts: str, x: Any, y: Any, bar: float) -> Any:
    if predicts == "epsilon":
        return (x - np.sqrt(1 - bar) * y) / np.sqrt(bar)
    if predicts == "v_prediction":
        return np.sqrt(bar) * x - np.sqrt(1 - bar) * y
    return y


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [1, 7, 50, 99])
def test_weights_give_the_divergence_of_two_normal_distributions(predicts: str, t: int) -> None:
    config = {**DDPM, "prediction_type": predicts}
    schedule = schedule_for(config, None)
    weights = transition_weights(schedule, config)
    assert weights is not None
    bars = schedule.alphas_cumprod
    assert bars is not None
    random = np.random.default_rng(t)
    x, y, y_q = random.standard_normal((3, 12))
    beta, bar, before = 1 - bars[t] / bars[t - 1], bars[t], bars[t - 1]
    # Ho et al. 2020, equation 7: the mean of q(x[t-1] | x[t], x0).
    means = [
        np.sqrt(before) * beta / (1 - bar) * clean_sample(predicts, x, one, bar)
        + np.sqrt(1 - beta) * (1 - before) / (1 - bar) * x
        for one in (y, y_q)
    ]
    variance = beta * (1 - before) / (1 - bar)
    divergence = np.square(means[0] - means[1]).sum() / (2 * variance)
    assert weights[t] * np.square(y_q - y).sum() == pytest.approx(divergence, rel=1e-9)


def test_there_is_none_at_the_clean_end_nor_where_no_signal_is_left() -> None:
    config = {**DDPM, "rescale_betas_zero_snr": True}
    weights = transition_weights(schedule_for(config, None), config)
    assert weights is not None
    assert np.isnan(weights[[0, -1]]).all()
    assert (weights[1:-1] > 0).all()
    config["prediction_type"] = "v_prediction"
    weights = transition_weights(schedule_for(config, None), config)
    assert weights is not None
    assert np.isfinite(weights[1:]).all()


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0},
        {"_class_name": "SCMScheduler", "prediction_type": "trigflow"},
        {**DDPM, "prediction_type": "something"},
        None,
    ],
)
def test_what_is_no_chain_has_no_transition(config: dict[str, Any] | None) -> None:
    assert transition_weights(schedule_for(config, {}), config) is None
