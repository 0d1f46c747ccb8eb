"""The gain c against autograd through the real schedulers, with the model's prediction held constant."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.samplers import build_scheduler, check_sampler, sampler_gain

Spacing = Literal["leading", "trailing", "linspace"]
STABLE_DIFFUSION = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True,
    "prediction_type": "epsilon",
}  # fmt: skip
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}


def _z0(scheduler: Any, steps: int, z_T: torch.Tensor, predictions: list[torch.Tensor]) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    sample = z_T * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=False):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(prediction, timestep, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "dpmsolver++", "euler"])
def test_gradient_through_the_sampler_is_the_gain_times_the_gradient_at_z0(
    name: str, prediction_type: str, spacing: str, steps: int
) -> None:
    trained = STABLE_DIFFUSION | {"prediction_type": prediction_type}
    _assert_gain(name, trained, steps, spacing)


@pytest.mark.parametrize(("name", "trained", "steps"), [("flow_euler", FLOW, 1), ("flow_euler", FLOW, 28)])
def test_the_gain_of_flow_matching(name: str, trained: dict[str, Any], steps: int) -> None:
    _assert_gain(name, trained, steps, None)


def test_the_gain_of_one_step_of_a_consistency_model() -> None:
    _assert_gain("lcm", STABLE_DIFFUSION | {"original_inference_steps": 50}, 1, None)


def _assert_gain(name: str, trained: dict[str, Any], steps: int, spacing: str | None) -> None:
    generator = torch.Generator().manual_seed(steps)
    shape = (1, 4, 6, 6)
    predictions = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2 * steps + 1)]
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    z_T = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    z_0 = _z0(build_scheduler(name, trained, spacing), steps, z_T, predictions)
    score = (z_0 * direction).sin().sum()  # any score that is not linear in z_0
    at_noise, at_z0 = torch.autograd.grad(score, [z_T, z_0])
    gain = sampler_gain(build_scheduler(name, trained, spacing), steps)
    assert gain > 0
    assert float((at_noise - gain * at_z0).norm() / at_noise.norm()) < 1e-4


def _x0(scheduler: Any, steps: int, stop: int, z_T: torch.Tensor, predictions: list[torch.Tensor]) -> torch.Tensor:
    """x_0 from z_t and the prediction of the last step, by the textbook: z_t = α·x_0 + σ·ε, v = α·ε − σ·x_0."""
    scheduler.set_timesteps(steps)
    sample = z_T * float(getattr(scheduler, "init_noise_sigma", 1.0))
    calls = stop + len(scheduler.timesteps) - steps
    for place, prediction in zip(range(calls), predictions, strict=False):
        timestep = scheduler.timesteps[place]
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        before, last = sample, prediction
        sample = scheduler.step(prediction, timestep, sample, return_dict=False)[0]
    kind = type(scheduler).__name__
    if kind.startswith("FlowMatch"):
        return before - timestep.double() / 1000 * last
    if kind.startswith("Euler"):  # its z_t is divided by α
        ratio = scheduler.sigmas[calls - 1].double()
        alpha = (1 + ratio**2) ** -0.5
        before, sigma = before * alpha, ratio * alpha
    else:
        alpha = scheduler.alphas_cumprod[int(timestep)].double() ** 0.5
        sigma = (1 - alpha**2) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return alpha * before - sigma * last
    return (before - sigma * last) / alpha


@pytest.mark.parametrize(("steps", "stop"), [(4, 1), (20, 8), (20, 19)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "dpmsolver++", "euler", "flow_euler"])
def test_gradient_through_the_first_steps_is_the_gain_times_the_gradient_at_the_predicted_x0(
    name: str, prediction_type: str, steps: int, stop: int
) -> None:
    trained = FLOW if name == "flow_euler" else STABLE_DIFFUSION | {"prediction_type": prediction_type}
    generator = torch.Generator().manual_seed(steps)
    shape = (1, 4, 6, 6)
    predictions = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps + 1)]
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    z_T = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    x_0 = _x0(build_scheduler(name, trained), steps, stop, z_T, predictions)
    at_noise, at_x0 = torch.autograd.grad((x_0 * direction).sin().sum(), [z_T, x_0])
    gain = sampler_gain(build_scheduler(name, trained), steps, stop)
    assert gain > 0
    assert float((at_noise - gain * at_x0).norm() / at_noise.norm()) < 1e-4


def test_known_gains() -> None:
    assert sampler_gain(build_scheduler("ddim", STABLE_DIFFUSION), 50) == pytest.approx(13.153, abs=2e-3)
    assert sampler_gain(build_scheduler("pndm", STABLE_DIFFUSION), 50) == pytest.approx(13.153, abs=2e-3)
    assert sampler_gain(build_scheduler("flow_euler", FLOW), 28) == pytest.approx(1.0)
    assert sampler_gain(build_scheduler("flow_euler", FLOW | {"use_dynamic_shifting": True}), 28) == pytest.approx(1.0)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_eulers_gain_in_closed_form(spacing: str, steps: int) -> None:
    """ε constant: dx/dσ = ε does not depend on x. v constant: x' = x·(1 + σσ')/(1 + σ²) + const."""
    noise = build_scheduler("euler", STABLE_DIFFUSION, spacing)
    assert sampler_gain(noise, steps) == pytest.approx(float(noise.init_noise_sigma), rel=1e-5)
    velocity = build_scheduler("euler", STABLE_DIFFUSION | {"prediction_type": "v_prediction"}, spacing)
    gain = sampler_gain(velocity, steps)
    sigma = velocity.sigmas.double()
    factors = (1 + sigma[:-1] * sigma[1:]) / (1 + sigma[:-1] ** 2)
    assert gain == pytest.approx(float(velocity.init_noise_sigma * factors.prod()), rel=1e-5)


def test_a_sampler_keeps_the_models_spacing_unless_told() -> None:
    trained = STABLE_DIFFUSION | {"timestep_spacing": "trailing"}
    assert build_scheduler("euler", trained).config.timestep_spacing == "trailing"
    assert build_scheduler("euler", trained, "linspace").config.timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("name", "trained", "undone"),
    [
        ("ddim", {"clip_sample": True, "thresholding": True}, ("clip_sample", "thresholding")),
        ("flow_euler", {"stochastic_sampling": True}, ("stochastic_sampling",)),
    ],
)
def test_what_would_clip_or_draw_noise_is_undone(name: str, trained: dict[str, Any], undone: tuple[str, ...]) -> None:
    config: Any = build_scheduler(name, trained).config
    assert not any(config[key] for key in undone)


@pytest.mark.parametrize(
    ("options", "trained", "flow", "named"),
    [
        ({"scheduler": "flow_euler"}, STABLE_DIFFUSION, False, r"generators\.scheduler: flow_euler does not fit"),
        ({"scheduler": "ddim"}, FLOW, True, r"generators\.scheduler: ddim does not fit"),
        ({"scheduler": "pndm"}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, False, r"use flow_euler"),
        ({"scheduler": "lcm", "steps": 4}, STABLE_DIFFUSION, False, r"generators\.steps: lcm draws fresh noise"),
        (
            {"scheduler": "flow_euler", "timestep_spacing": "trailing"}, FLOW, True,
            r"generators\.timestep_spacing: flow_euler",
        ),
        ({}, STABLE_DIFFUSION | {"prediction_type": "sample"}, False, r"generators\.model: 'embedded' predicts sample"),
        ({}, {"_class_name": "EDMEulerScheduler"}, False, r"samples with EDMEulerScheduler"),
        (
            {"timestep_spacing": "trailing", "steps": 4}, STABLE_DIFFUSION | {"rescale_betas_zero_snr": True}, False,
            r"generators\.scheduler: with 4 steps of ddim the image does not follow z_T",
        ),
        ({"steps": 700}, {**STABLE_DIFFUSION, "num_train_timesteps": 500}, False, r"ddim cannot take 700 steps"),
    ],
)  # fmt: skip
def test_a_sampler_that_does_not_fit_the_model_is_refused(
    options: dict[str, Any], trained: dict[str, Any], flow: bool, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        check_sampler(GeneratorConfig(**options), trained, flow)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize(("first", "last", "most"), [(0.00085, 0.012, 1000), (1e-4, 0.02, 1000), (0.01, 0.079, 1000)])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_what_is_accepted_by_its_noise_schedule_has_a_positive_gain(
    prediction_type: str, schedule: str, first: float, last: float, most: int, spacing: Spacing
) -> None:
    trained = {"beta_start": first, "beta_end": last, "num_train_timesteps": most, "beta_schedule": schedule}
    trained |= {"prediction_type": prediction_type, "steps_offset": 1, "_class_name": "PNDMScheduler"}
    for steps in (1, 2, 3, 7, 50, 999):
        config = GeneratorConfig(scheduler="ddim", steps=steps, timestep_spacing=spacing)
        check_sampler(config, trained, flow=False)
        assert 0 < sampler_gain(build_scheduler("ddim", trained, spacing), steps) < math.inf


@pytest.mark.parametrize(
    "change", [{"beta_end": 0.9}, {"rescale_betas_zero_snr": True}, {"trained_betas": [0.9] * 1000}]
)
def test_a_noise_schedule_that_ends_in_pure_noise_is_refused(change: dict[str, Any]) -> None:
    trained = STABLE_DIFFUSION | change
    with pytest.raises(UserError, match="does not follow z_T"):
        check_sampler(GeneratorConfig(scheduler="ddim", steps=50, timestep_spacing="trailing"), trained, flow=False)
