"""Attend-and-Excite: latents moved during sampling so that every subject is attended to.

Chefer et al., *Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models* (SIGGRAPH 2023,
arXiv 2301.13826). Differences from the authors' code:

- The U-Net reads latents as the scheduler scales them.
- Refinement ends at the first latents that reach the threshold; the code moves them once more.
- A threshold beyond the share of the steps that update is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import AttendAndExciteConfig, GeneratorConfig
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model, Pipeline, Scheduler
from noisesmith.pipeline.optimizers.attention import (
    MapSize,
    RowTokens,
    attention_losses,
    evaluations,
    find_tokens,
    pipeline_map_size,
)
from noisesmith.pipeline.optimizers.base import Request, Sampler
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling

if TYPE_CHECKING:
    from torch import Tensor


def step_sizes(config: AttendAndExciteConfig, count: int) -> list[float]:
    """α_t = step·√r for each of ``count`` sampler steps, r falling linearly from 1 to ½."""
    return [config.step * math.sqrt(float(share)) for share in torch.linspace(1.0, 0.5, count, dtype=torch.float64)]


def required_attention(config: AttendAndExciteConfig, count: int) -> dict[int, float]:
    """Sampler step → the attention every subject must reach there; the larger where two shares fall on one step."""
    required: dict[int, float] = {}
    for share, attention in config.thresholds.items():
        step = round(share * count)
        required[step] = max(attention, required.get(step, 0.0))
    return required


class Excitation:
    """The latent updates of one batch: z_t ← z_t − α_t·∇loss, repeated while a threshold is not reached.

    ``steps`` is the number of sampler steps that update; ``passes`` counts every row's forward and backward passes for
    attention. Rows without subjects are not updated.
    """

    def __init__(
        self,
        unet: Model,
        scheduler: Scheduler,
        embeddings: Tensor,
        tokens: Sequence[RowTokens],
        size: MapSize,
        config: AttendAndExciteConfig,
    ) -> None:
        self._unet = unet
        self._scheduler = scheduler
        self._embeddings = embeddings
        self._tokens = tokens
        self._size = size
        self._refinements = config.refinements
        self._timesteps = scheduler.timesteps
        self._step_sizes = step_sizes(config, len(self._timesteps))
        self._required = required_attention(config, len(self._timesteps))
        self.steps = round(config.until * len(self._timesteps))
        self.passes = [0] * len(tokens)

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """The latents ``[B, C, H, W]`` to denoise at ``step``; those given where no update is due."""
        rows = [row for row, found in enumerate(self._tokens) if found.subjects]
        if step >= self.steps or not rows:
            return latents
        alpha = self._step_sizes[step]
        moved = latents.detach().clone()
        loss = torch.zeros(len(latents), device=latents.device)
        gradient = torch.zeros_like(latents)
        loss[rows], gradient[rows] = self._respond(moved, step, rows)
        for _ in range(self._refinements):
            short = (loss > 1 - self._required.get(step, 0.0)).tolist()
            rows = [row for row in rows if short[row]]
            if not rows:
                break
            moved[rows] -= alpha * gradient[rows]
            loss[rows], gradient[rows] = self._respond(moved, step, rows)
        return moved - alpha * gradient

    def _respond(self, latents: Tensor, step: int, rows: list[int]) -> tuple[Tensor, Tensor]:
        for row in rows:
            self.passes[row] += 1
        timestep = self._timesteps[step]
        tokens = [self._tokens[row] for row in rows]
        with torch.enable_grad():
            asked = latents[rows].requires_grad_()
            scaled = self._scheduler.scale_model_input(asked, timestep)
            losses, _ = attention_losses(self._unet, scaled, timestep, self._embeddings[rows], tokens, self._size)
            (gradient,) = torch.autograd.grad(losses.sum(), asked)
        return losses.detach().float(), gradient


def attend_and_excite(
    pipe: Pipeline,
    prompts: list[str],
    tokens: Sequence[RowTokens],
    noise: Tensor,
    size: MapSize,
    config: AttendAndExciteConfig,
    options: GeneratorConfig,
    steps: int,
) -> tuple[Tensor, list[float]]:
    """Denoise ``noise`` ``[B, C, H, W]`` into z_0, same shape, and count the U-Net evaluations of every row.

    The sampling loop is the library's own: the first latents are updated before it starts, the others in its callback
    after every step. So without updates the result equals the library's.
    """
    device = pipe._execution_device  # where the U-Net works; an offloaded pipeline lies on the CPU
    with torch.no_grad():
        embeddings, negative = pipe.encode_prompt(
            prompts, device, 1, options.guidance_scale > 1, [options.negative_prompt] * len(prompts)
        )
    pipe.scheduler.set_timesteps(steps, device=device)
    sigma = pipe.scheduler.init_noise_sigma
    excite = Excitation(pipe.unet, pipe.scheduler, embeddings, tokens, size, config)

    def move(_: Pipeline, step: int, __: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": excite(tensors["latents"], step + 1)}

    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    z_0 = pipe(
        prompt_embeds=embeddings,
        negative_prompt_embeds=negative,
        latents=excite(noise.to(device, embeddings.dtype) * sigma, 0) / sigma,
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=options.guidance_scale,
        output_type="latent",
        callback_on_step_end=move,
    ).images
    attention = [evaluations(options.guidance_scale, forwards=passes, backwards=passes) for passes in excite.passes]
    return z_0, [steps + spent for spent in attention]


@dataclass(frozen=True)
class AttendAndExcite(RandomSampling):
    """Each round samples from a fresh noise, with latent updates on the way; the best image is kept."""

    config: AttendAndExciteConfig

    def denoise(self, requests: Sequence[Request], noise: Tensor, sampler: Sampler) -> tuple[Tensor, list[float]]:
        prompts = [request.prompt for request in requests]
        subjects = [request.subjects for request in requests]
        return self.sample(sampler.pipe, sampler.config, prompts, subjects, noise, requests[0].steps)

    def sample(
        self,
        pipe: Pipeline,
        sampling: GeneratorConfig,
        prompts: list[str],
        subjects: Sequence[Sequence[str]],
        noise: Tensor,
        steps: int,
    ) -> tuple[Tensor, list[float]]:
        """Denoise ``noise`` ``[B, C, H, W]`` ~ N(0, I) in ``steps`` into z_0, float32 on the CPU.

        Args:
            pipe: a loaded ``StableDiffusionPipeline``. Its U-Net is frozen, since only latents are differentiated.
            subjects: those of every prompt, written as in the prompt.

        Returns:
            z_0 and the U-Net evaluations of every row.

        Raises:
            UserError: the model has no such attention maps, or a subject is not in what is read of its prompt.
        """
        size = pipeline_map_size(pipe, self.config, noise.shape)
        tokens = find_tokens(pipe.tokenizer, prompts, subjects)
        pipe.unet.requires_grad_(False)
        z_0, spent = attend_and_excite(pipe, prompts, tokens, noise, size, self.config, sampling, steps)
        return z_0.float().cpu(), spent
