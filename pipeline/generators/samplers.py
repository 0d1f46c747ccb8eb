"""Deterministic samplers by name, and their gain c."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Json, Options, Scheduler, Settings
from noisesmith.pipeline.models.loading import explained

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "scm": "SCMScheduler",
}
_AFFINE: dict[str, Options] = {  # whatever the model's own sampler says: no clipping, no fresh noise
    "ddim": {"clip_sample": False, "thresholding": False},
    "pndm": {"skip_prk_steps": True},  # Runge-Kutta steps would take four evaluations each, and fail for one step
    "dpmsolver++": {"algorithm_type": "dpmsolver++", "thresholding": False},
    "flow_euler": {"stochastic_sampling": False},
    "lcm": {"clip_sample": False, "thresholding": False},
}


def check_sampler(config: GeneratorConfig, trained: Json, flow: bool) -> None:
    """Refuse a sampler that does not fit how the model was trained, is random, or has a gain that is not positive.

    Args:
        trained: the model's own ``scheduler_config.json``.
        flow: whether the family is trained by flow matching.

    Raises:
        UserError: names the field.
    """
    name = config.scheduler
    steps = config.steps
    trained_class = str(trained.get("_class_name"))
    solves_flow = trained.get("prediction_type") == "flow_prediction"  # a solver of noise schedules, set up for a flow
    _check_few_steps(config, trained_class)
    if name == "scm":
        return  # its gain depends on how the pipeline asks the model
    flow = flow or solves_flow or "FlowMatch" in trained_class
    if flow != (name == "flow_euler") and not (solves_flow and name == "dpmsolver++"):
        fitting = "flow_euler" if flow else "ddim, pndm, dpmsolver++ or euler"
        fitting = "dpmsolver++ or flow_euler" if solves_flow else fitting
        kind = "a flow-matching model" if flow else "no flow-matching model"
        raise UserError(f"generators.scheduler: {name} does not fit, since generators.model is {kind}; use {fitting}")
    prediction = trained.get("prediction_type", "epsilon")
    if trained_class.startswith("EDM") or (not flow and prediction not in ("epsilon", "v_prediction")):
        kind = f"samples with {trained_class}" if trained_class.startswith("EDM") else f"predicts {prediction}"
        raise UserError(
            f"generators.model: {config.model!r} {kind}, which no sampler here fits; "
            "give a model that predicts the noise (epsilon), v, or a flow's velocity"
        )
    if name == "ddim" and _surely_positive(trained, steps, config.timestep_spacing):
        return
    remedy = "; change steps, timestep_spacing or scheduler"
    with explained(f"generators.scheduler: {name} cannot take {steps} steps with this model", remedy):
        gain = sampler_gain(build_scheduler(name, trained, config.timestep_spacing), steps)
    if not (math.isfinite(gain) and gain > 0):
        raise UserError(
            f"generators.scheduler: with {steps} steps of {name} the image does not follow z_T (gain {gain:g}); "
            "change steps, timestep_spacing or scheduler"
        )


def _surely_positive(trained: Json, steps: int, spacing: str | None) -> bool:
    """Whether DDIM's gain is positive by the noise schedule alone, so that no sampler need be imported to see it.

    With ᾱ = cos²θ a step multiplies z by cos θ'/cos θ where ε is predicted, and by cos(θ − θ') where v is. Both are
    positive while 0 < ᾱ ≤ 1, and so for all β in (0, 1). Schedules of other kinds, and files with other kinds of
    values, are left to the sampler itself.
    """
    first, last = trained.get("beta_start"), trained.get("beta_end")
    most, offset = trained.get("num_train_timesteps"), trained.get("steps_offset")
    if not (isinstance(first, float) and isinstance(last, float) and isinstance(most, int)):
        return False
    known: dict[str, tuple[object, ...]] = {
        "beta_schedule": ("linear", "scaled_linear"),
        "trained_betas": (None,),
        "rescale_betas_zero_snr": (None, False),
        "timestep_spacing": (None, "leading", "trailing", "linspace"),
    }
    if any(trained.get(name) not in values for name, values in known.items()):
        return False
    asked = spacing or trained.get("timestep_spacing") or "leading"
    fits = steps < most if asked == "leading" else steps <= most
    in_range = 0 < first <= last < 1 and -most * math.log1p(-last) < 80  # or ᾱ could be 0 in float32
    return in_range and fits and offset in (None, 0, 1)


def _check_few_steps(config: GeneratorConfig, trained_class: str) -> None:
    """Refuse the samplers of consistency models where they draw noise, or for other models."""
    name = config.scheduler
    if (name == "scm") != (trained_class == CLASSES["scm"]):
        kind = "samples with scm alone" if name != "scm" else "was not made for it"
        raise UserError(
            f"generators.scheduler: {name} does not fit, since generators.model {kind}; use "
            f"{'scm' if name != 'scm' else 'another'}"
        )
    if name in ("lcm", "scm") and config.steps > 1:
        others = "" if name == "scm" else ", or use scheduler ddim or euler with timestep_spacing: trailing"
        raise UserError(
            f"generators.steps: {name} draws fresh noise after every step but the last, so {config.steps} steps are "
            f"random; set 1{others}"
        )
    if config.timestep_spacing is not None and name in ("flow_euler", "lcm", "scm"):
        raise UserError(f"generators.timestep_spacing: {name} spaces its steps itself; remove it")


def build_scheduler(name: str, trained: Json | Settings, timestep_spacing: str | None = None) -> Scheduler:
    """A ``diffusers`` scheduler of the named class with the noise schedule the model was trained with.

    Args:
        timestep_spacing: ``leading``, ``trailing`` or ``linspace``; the model's own when ``None``.
    """
    import diffusers

    spacing: Options = {} if timestep_spacing is None else {"timestep_spacing": timestep_spacing}
    flow_shift = trained.get("flow_shift")  # the shift of a flow in a config of dpmsolver++
    if name == "flow_euler" and flow_shift is not None:
        spacing["shift"] = flow_shift
    scheduler_class = getattr(diffusers, CLASSES[name])
    scheduler: Scheduler = scheduler_class.from_config(trained, **_AFFINE.get(name, {}), **spacing)
    return scheduler


def sampler_gain(scheduler: Scheduler, steps: int, stop: int | None = None) -> float:
    """c of z_0 = c·z_T + const, by running the real scheduler on z_T = 1 with a prediction of zero.

    With ``stop`` it is that of the x_0 which the sampler predicts in the last of so many steps.

    A deterministic sampler is affine in z_T while predictions are held constant, so with a prediction of zero
    the constant is zero and z_0 of z_T = 1 is c. (13.153 for DDIM and PNDM at 50 steps of Stable Diffusion's schedule.)

    Euler with σ_0 > … > σ_T = 0 starts from ``init_noise_sigma``·z_T. Each step adds (σ' − σ)·ε, so with a constant ε
    c is ``init_noise_sigma``; with a constant v a step multiplies by (1 + σσ')/(1 + σ²). ``scale_model_input``
    changes only what the model sees, so it does not change c.
    """
    shifting = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}  # moves the steps, never c
    scheduler.set_timesteps(steps, **shifting)
    sample = torch.ones(1, 1, 1, 1, dtype=torch.float64) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    zero = torch.zeros_like(sample)
    last = len(scheduler.timesteps) if stop is None else evaluations_of(scheduler, steps, stop)
    for number, timestep in enumerate(scheduler.timesteps[:last], start=1):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        stepped = scheduler.step(zero, timestep, sample, return_dict=False)
        if stop is not None and number == last:
            return float(predicted_original(scheduler, zero, timestep, sample, stepped))
        sample = stepped[0]
    return float(sample)


def evaluations_of(scheduler: Scheduler, steps: int, taken: int) -> int:
    """How many predictions the first ``taken`` of ``steps`` steps ask for: PNDM's first step asks for two."""
    return taken + len(scheduler.timesteps) - steps


def predicted_original(
    scheduler: Scheduler, prediction: Tensor, timestep: Tensor, sample: Tensor, stepped: Sequence[Tensor]
) -> Tensor:
    """x_0 as the model predicts it in a step that a scheduler of :data:`CLASSES` has just taken.

    Args:
        prediction: of the model, of ``sample``, which is z_t.
        stepped: what the step returned.
    """
    if len(stepped) > 1:  # DDIM and Euler return it
        return stepped[1]
    if hasattr(scheduler, "model_outputs"):  # DPM-Solver++ solves for it
        newest: Tensor = scheduler.model_outputs[-1]
        return newest
    if hasattr(scheduler, "sigmas"):  # of a flow, which predicts its velocity
        time: Tensor = scheduler.sigmas[scheduler.step_index - 1]
        return sample - time * prediction
    signal: Tensor = scheduler.alphas_cumprod[timestep]
    alpha, sigma = signal**0.5, (1 - signal) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return alpha * sample - sigma * prediction
    return (sample - sigma * prediction) / alpha
