"""The gain c against autograd through the real schedulers, with the model's prediction held constant."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import UserError
from pipeline.generators.samplers import build_scheduler, check_scheduler, sampler_gain

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True,
    "prediction_type": "epsilon",
}  # fmt: skip
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}


def _z0(scheduler: object, steps: int, z_T: torch.Tensor, predictions: list[torch.Tensor]) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    sample = z_T * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=False):
        sample = scheduler.step(prediction, timestep, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("steps", [7, 20, 50])
@pytest.mark.parametrize("name", ["ddim", "pndm", "dpmsolver++", "flow_euler"])
def test_gradient_through_the_sampler_is_the_gain_times_the_gradient_at_z0(name: str, steps: int) -> None:
    trained = FLOW if name == "flow_euler" else STABLE_DIFFUSION
    generator = torch.Generator().manual_seed(steps)
    shape = (1, 4, 6, 6)
    predictions = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2 * steps)]
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    z_T = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    z_0 = _z0(build_scheduler(name, trained), steps, z_T, predictions)
    score = (z_0 * direction).sin().sum()  # any score that is not linear in z_0
    at_noise, at_z0 = torch.autograd.grad(score, [z_T, z_0])
    expected = sampler_gain(build_scheduler(name, trained), steps) * at_z0
    assert float((at_noise - expected).norm() / at_noise.norm()) < 1e-4


def test_known_gains() -> None:
    assert sampler_gain(build_scheduler("ddim", STABLE_DIFFUSION), 50) == pytest.approx(13.153, abs=2e-3)
    assert sampler_gain(build_scheduler("pndm", STABLE_DIFFUSION), 50) == pytest.approx(13.153, abs=2e-3)
    assert sampler_gain(build_scheduler("flow_euler", FLOW), 28) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "trained", "family"),
    [
        ("flow_euler", STABLE_DIFFUSION, "StableDiffusionPipeline"),
        ("ddim", FLOW, "StableDiffusion3Pipeline"),
        ("pndm", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "StableDiffusionPipeline"),
    ],
)
def test_a_sampler_that_does_not_fit_the_model_is_refused(name: str, trained: dict, family: str) -> None:
    with pytest.raises(UserError, match=r"generators\.scheduler"):
        check_scheduler(name, trained, family)
