"""How much of the chain's Markov structure quantization costs: the KL of its transitions.

The transition `p(x[t-1] | x[t])` of a Gaussian chain of T steps (Ho et al. 2020, equations 7 and
11) is normal with a variance that no prediction changes, so the divergence of two models' is

    KL(t) = w(t) ||eps_q - eps||^2,    w(t) = beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t)),
    sigma_t^2 = beta_t (1 - abar_{t-1}) / (1 - abar_t),    t > 0

Predictions of v or of the clean sample x0 differ as those of the noise eps do, but for a factor:
`eps = sqrt(abar) v + sqrt(1 - abar) x[t]` and `eps = (x[t] - sqrt(abar) x0) / sqrt(1 - abar)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermoq.schedule import NoiseSchedule

Floats = NDArray[np.float64]

# The power of 1 - abar_t that divides the squared difference of predictions, beside abar_t.
_OVER_NOISE = {"v_prediction": 0, "sample": 1}


def transition_weights(
    schedule: NoiseSchedule, scheduler_config: Mapping[str, Any] | None
) -> Floats | None:
    """Return what turns `||y_q - y||^2` at timestep t into the KL of that transition, [T].

    NaN where a transition has no density: at t = 0, and where nothing of the signal is left. None
    if the model is no chain of T steps (flow matching, sigma grids), or predicts something else.
    """
    predicts = (scheduler_config or {}).get("prediction_type") or "epsilon"
    if not schedule.is_chain or schedule.alphas_cumprod is None:
        return None
    if predicts not in ("epsilon", *_OVER_NOISE):
        return None
    bars = schedule.alphas_cumprod
    before = np.concatenate([[1.0], bars[:-1]])
    noise, noise_before = 1.0 - bars, 1.0 - before
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas = bars / before
        betas = 1.0 - alphas
        variances = betas * noise_before / noise
        # As a factor of the squared difference in v: alpha_t may be 0 in w(t), not in w(t) abar_t.
        weights = np.square(betas) * before / (2.0 * variances * noise)
        if predicts == "epsilon":
            weights = weights / bars
        else:
            weights = weights / noise ** _OVER_NOISE[predicts]
    found: Floats = np.where(np.isfinite(weights), weights, np.nan)
    found[0] = np.nan
    return found
