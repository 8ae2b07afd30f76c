"""Noise schedules against diffusers' own, and time groups against the formula."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thermoq.errors import InputError, UsageError
from thermoq.schedule import TimeGroups, schedule_for, uniform_time_groups


def abar(config: dict[str, Any] | None, model: dict[str, Any] | None = None) -> np.ndarray:
    found = schedule_for(config, model)
    assert found.kind == "gaussian"
    assert found.alphas_cumprod is not None
    assert len(found.alphas_cumprod) == found.num_timesteps
    return found.alphas_cumprod


DIFFUSERS_CASES = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
    ("DDPMScheduler", {"beta_schedule": "laplace"}),
    ("DDPMScheduler", {"num_train_timesteps": 1}),
    ("DDPMScheduler", {"num_train_timesteps": 50, "rescale_betas_zero_snr": True}),
    ("DDPMScheduler", {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
    ("CogVideoXDDIMScheduler", {}),
    ("CogVideoXDPMScheduler", {"snr_shift_scale": 1.0}),
    ("HeunDiscreteScheduler", {"beta_schedule": "exp"}),
    ("HeunDiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("TCDScheduler", {}),
    ("UnCLIPScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("PNDMScheduler", {"beta_schedule": "scaled_linear"}),
]


@pytest.mark.filterwarnings("ignore")  # diffusers' own
@pytest.mark.parametrize(("name", "settings"), DIFFUSERS_CASES)
def test_abar_equals_diffusers(name: str, settings: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(**settings)
    theirs = scheduler.alphas_cumprod.double().numpy()
    saved = dict(scheduler.config) | {"_class_name": name}
    np.testing.assert_allclose(abar(saved), theirs, atol=1e-6)
    # A configuration that leaves the defaults out means the same.
    np.testing.assert_allclose(abar({"_class_name": name, **settings}), theirs, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_sigma_grid_equals_diffusers(spacing: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler(sigma_schedule=spacing, num_train_timesteps=100)
    scheduler.set_timesteps(100)
    sigmas = scheduler.sigmas[:100].double().numpy()[::-1]  # noisiest first there
    ours = abar(dict(scheduler.config) | {"_class_name": "EDMEulerScheduler"})
    np.testing.assert_allclose(ours, 0.25 / (0.25 + sigmas**2), atol=1e-6)
    # The share of the signal after the scheduler's own input scaling.
    scaled = scheduler.precondition_inputs(0.5, float(sigmas[40]))
    assert scaled**2 == pytest.approx(ours[40], abs=1e-6)


def test_defaults_of_sigma_schedulers() -> None:
    consistency = schedule_for({"_class_name": "CMStochasticIterativeScheduler"}, None)
    assert consistency.num_timesteps == 40
    assert consistency.description == (
        "Karras sigmas 0.002 to 80, sigma_data 0.5, T = 40 (CMStochasticIterativeScheduler)"
    )
    score = schedule_for({"_class_name": "ScoreSdeVeScheduler"}, None)
    assert score.num_timesteps == 2000
    assert score.variances(1999)[1] == pytest.approx(1.0, abs=1e-6)
    video = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear"}
    video |= {"sigma_min": 0.002, "sigma_max": 700.0, "use_karras_sigmas": True}
    assert abar(video)[-1] == pytest.approx(1 / (1 + 700.0**2))
    assert "betas" in schedule_for(video | {"use_karras_sigmas": False}, None).description


def test_gaussian_variances_interpolate_and_clip() -> None:
    schedule = schedule_for({"_class_name": "DDPMScheduler"}, None)
    assert schedule.description == "linear betas 0.0001 to 0.02, T = 1000 (DDPMScheduler)"
    table = schedule.alphas_cumprod
    assert table is not None
    signal, noise = schedule.variances(10.25)
    assert signal == pytest.approx(0.75 * table[10] + 0.25 * table[11])
    assert signal + noise == 1.0
    assert schedule.variances(-5) == schedule.variances(0)
    assert schedule.variances(5000) == schedule.variances(999)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1.0


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    schedule = schedule_for({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, None)
    assert schedule.variances(999) == (0.0, 1.0)
    assert schedule.description.startswith("linear betas 0.0001 to 0.02, rescaled to zero terminal")


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        {"_class_name": "LTXEulerAncestralRFScheduler"},
        {"_class_name": "PiflowScheduler"},
    ],
)
def test_flow_matching(config: dict[str, Any]) -> None:
    schedule = schedule_for(config, None)
    assert schedule.kind == "flow_matching"
    assert schedule.description == f"flow matching, T = 1000 ({config['_class_name']})"
    assert schedule.variances(999) == (0.0, 1.0)
    assert schedule.variances(0) == (1.0, 0.0)
    assert schedule.variances(0.25 * 999) == pytest.approx((0.75**2, 0.25**2))


def test_use_flow_sigmas_false_is_gaussian() -> None:
    config = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": False}
    assert schedule_for(config, None).kind == "gaussian"


@pytest.mark.parametrize(
    "model",
    [
        {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 151666},
        {"model_type": "llada", "architectures": ["LLaDAModelLM"]},
        {"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"]},
        {"architectures": ["MDLM"]},
        {"architectures": ["NemotronLabsDiffusionModel"], "mask_token_id": 3},
        {"model_type": 7, "architectures": [None, "LLaDAModelLM"]},
    ],
)
def test_masked_diffusion_is_read_from_the_model(model: dict[str, Any]) -> None:
    schedule = schedule_for(None, model)
    assert (schedule.kind, schedule.num_timesteps) == ("masked", 1000)
    assert schedule.variances(999) == (0.0, 1.0)
    assert schedule.variances(249) == pytest.approx((0.75, 0.25))


def test_masked_diffusion_is_read_from_the_scheduler() -> None:
    schedule = schedule_for({"_class_name": "AmusedScheduler", "mask_token_id": 5}, None)
    assert schedule.kind == "masked"
    assert schedule.description == "masked diffusion, T = 1000 (AmusedScheduler)"


@pytest.mark.parametrize(
    "model",
    [
        None,
        {"model_type": "bert", "architectures": ["BertModel"], "mask_token_id": 103},
        {"architectures": ["StableDiffusionThing"]},  # no mask token
        {"architectures": "DreamModel", "model_type": None},  # not a list
        {"_class_name": "DreamLiteTransformer2DModel"},  # an image model
    ],
)
def test_otherwise_cosine(model: dict[str, Any] | None) -> None:
    schedule = schedule_for(None, model)
    assert schedule.kind == "gaussian"
    assert schedule.description == "cosine, T = 1000 (no scheduler config found)"
    # Nichol and Dhariwal 2021, equation 17.
    expected = math.cos((501 / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    expected /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert schedule.variances(500)[0] == pytest.approx(expected, abs=1e-9)


def test_unknown_scheduler_falls_back_and_says_so() -> None:
    schedule = schedule_for({"_class_name": "DDPMWuerstchenScheduler", "scaler": 1.0}, None)
    assert schedule.description == (
        "cosine, T = 1000 (DDPMWuerstchenScheduler names no noise schedule that thermoq knows)"
    )
    assert schedule_for({}, None).description.startswith("cosine, T = 1000 (scheduler config names")


def test_trigflow() -> None:
    schedule = schedule_for({"_class_name": "SCMScheduler", "num_train_timesteps": 3}, None)
    assert schedule.variances(1) == pytest.approx((0.5, 0.5))
    assert schedule.description == "trigonometric, T = 3 (SCMScheduler)"


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDPMScheduler"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "AmusedScheduler"},
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "SCMScheduler"},
        {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True},
    ],
)
def test_one_timestep_works(config: dict[str, Any]) -> None:
    signal, noise = schedule_for(config | {"num_train_timesteps": 1}, None).variances(0)
    assert 0.0 <= signal <= 1.0
    assert 0.0 < noise <= 1.0


BAD_CONFIGS = [
    (
        {"beta_schedule": "quadratic"},
        "beta_schedule one of linear, scaled_linear, squaredcos_cap_v2, sigmoid, laplace, exp, "
        "got 'quadratic'",
    ),
    ({"beta_schedule": ["linear"]}, "beta_schedule one of"),
    ({"beta_schedule": "linear", "beta_start": 1.5}, "beta_start between 0 and 1, got 1.5"),
    ({"beta_schedule": "linear", "beta_end": -0.1}, "beta_end between 0 and 1, got -0.1"),
    ({"beta_schedule": "linear", "beta_end": "big"}, "beta_end to be a number, got 'big'"),
    ({"beta_schedule": "linear", "beta_end": True}, "beta_end to be a number, got True"),
    ({"beta_schedule": "linear", "beta_end": math.nan}, "beta_end between 0 and 1, got nan"),
    ({"beta_schedule": "linear", "beta_end": 10**400}, "beta_end between 0 and 1, got 1000"),
    ({"num_train_timesteps": 0}, "num_train_timesteps to be an integer from 1 to 1000000, got 0"),
    ({"num_train_timesteps": 10.0}, "num_train_timesteps to be an integer"),
    ({"num_train_timesteps": True}, "num_train_timesteps to be an integer"),
    ({"num_train_timesteps": 10**12}, "got 1000000000000"),
    ({"trained_betas": "yes"}, "trained_betas to be a list of numbers, got str"),
    ({"trained_betas": []}, "trained_betas to be a list of numbers"),
    ({"trained_betas": [0.1, 2.0]}, "trained_betas between 0 and 1, got 2"),
    (
        {"_class_name": "EDMEulerScheduler", "sigma_min": 0},
        "sigma_min between 1e-09 and 1e+09, got 0",
    ),
    ({"_class_name": "EDMEulerScheduler", "rho": 1e-9}, "rho between 1 and 100, got 1e-09"),
    (
        {"_class_name": "EDMEulerScheduler", "sigma_max": 0.001},
        "sigma_min at most sigma_max, got 0.002 and 0.001",
    ),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_bad_scheduler_configs(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        schedule_for(config, None)
    assert str(raised.value).startswith("scheduler config: expected ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# Time groups.


@given(st.integers(1, 400), st.data())
def test_uniform_groups_follow_the_formula(num_timesteps: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, num_timesteps))
    groups = uniform_time_groups(num_timesteps, count)
    assert len(groups) == count
    whole = range(num_timesteps)
    fractional = data.draw(st.lists(st.floats(-2, num_timesteps + 1), max_size=50))
    # The starts themselves and their neighbours, where rounding would show.
    near = [f(s) for s in groups.starts for f in (float, after, before)]
    for t in (*whole, *fractional, *near):
        formula = math.floor((num_timesteps - 1 - Fraction(t)) * count / num_timesteps)
        assert groups.group_of(t) == min(max(formula, 0), count - 1), t
    for g, (start, end, middle) in enumerate(
        zip(groups.starts, groups.ends, groups.middles, strict=True)
    ):
        members = [t for t in whole if groups.group_of(t) == g]
        assert (math.floor(start), end) == (max(members), min(members))
        assert middle == (max(members) + min(members)) / 2


def after(t: float) -> float:
    return math.nextafter(t, math.inf)


def before(t: float) -> float:
    return math.nextafter(t, -math.inf)


def test_four_groups_of_a_thousand() -> None:
    groups = uniform_time_groups(1000, 4)
    assert groups.starts == (999, 749, 499, 249)
    assert groups.ends == (750, 500, 250, 0)
    assert groups.middles == (874.5, 624.5, 374.5, 124.5)


def test_three_groups_of_a_thousand_start_between_timesteps() -> None:
    groups = uniform_time_groups(1000, 3)
    assert groups.starts == pytest.approx((999, 665 + 2 / 3, 332 + 1 / 3))
    assert groups.ends == (666, 333, 0)
    assert groups.middles == (832.5, 499.0, 166.0)
    assert [groups.group_of(t) for t in (666, 665.7, 665.5, 665)] == [0, 0, 1, 1]


def test_fractional_timesteps_belong_to_the_noisier_group() -> None:
    groups = TimeGroups(10, (9, 4))
    assert [groups.group_of(t) for t in (12.0, 9, 4.5, 4.0001, 4, 0.5, 0, -3)] == [
        *(0, 0, 0, 0),
        *(1, 1, 1, 1),
    ]


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_group_count_is_checked(count: int) -> None:
    with pytest.raises(UsageError) as raised:
        uniform_time_groups(1000, count)
    assert str(raised.value) == (
        "expected --num-time-groups between 1 and 1000 (the model's timesteps), got " + str(count)
    )


@pytest.mark.parametrize(
    "starts",
    [(), (8, 4), (9, 9), (9, 4, 5), (9, -1), (9, 4.5, 4.2), (9, -0.5), (9, math.nan), (math.inf,)],
)
def test_group_starts_are_checked(starts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected starts to fall from 9"):
        TimeGroups(10, starts)


def test_a_bare_component_of_a_flow_model_needs_no_scheduler() -> None:
    schedule = schedule_for(None, {"_class_name": "FluxTransformer2DModel"})
    assert schedule.kind == "flow_matching"
    assert not schedule.assumed
    assert schedule_for(None, {"_class_name": "DiTTransformer2DModel"}).assumed
    assert schedule_for({"_class_name": "FooScheduler"}, None).assumed
