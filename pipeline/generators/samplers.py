"""Deterministic samplers by name, and their gain c."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.errors import UserError

CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}
FLOW_FAMILIES = ("StableDiffusion3Pipeline",)


def check_scheduler(name: str, trained: dict[str, Any], family: str) -> None:
    """Refuse a sampler that does not fit how the model was trained.

    Raises:
        UserError: ``flow_euler`` on a noise-predicting model, or another sampler on a flow-matching one.
    """
    flow = family in FLOW_FAMILIES or "FlowMatch" in str(trained.get("_class_name"))
    if flow != (name == "flow_euler"):
        fitting = "flow_euler" if flow else "ddim, pndm or dpmsolver++"
        kind = "a flow-matching model" if flow else "no flow-matching model"
        raise UserError(f"generators.scheduler: {name} does not fit, since generators.model is {kind}; use {fitting}")


def build_scheduler(name: str, trained: Any) -> Any:
    """A ``diffusers`` scheduler of the named class with the noise schedule the model was trained with."""
    import diffusers

    options = {"algorithm_type": "dpmsolver++"} if name == "dpmsolver++" else {}
    return getattr(diffusers, CLASSES[name]).from_config(trained, **options)


def sampler_gain(scheduler: Any, steps: int) -> float:
    """c of z_0 = c·z_T + const, by running the real scheduler on z_T = 1 with a prediction of zero.

    A deterministic sampler is affine in z_T while predictions are held constant, so the constant falls away at zero
    and what is left of 1 is c. (13.153 for DDIM and PNDM at 50 steps of Stable Diffusion's schedule.)
    """
    scheduler.set_timesteps(steps)
    sample = torch.ones(1, 1, 1, 1, dtype=torch.float64) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    zero = torch.zeros_like(sample)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(zero, timestep, sample, return_dict=False)[0]
    return float(sample)
