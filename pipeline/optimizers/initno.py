"""InitNO: an initial noise whose attention at the first step finds every subject, each at a different position.

Guo et al., *InitNO: Boosting Text-to-Image Diffusion Models via Initial Noise Optimization* (CVPR 2024, arXiv
2404.04650). Differences from the authors' code:

- KL(N(μ, σ²) ‖ N(0, 1)) is bounded exactly, by scaling (μ, log σ²) towards 0; the code takes further Adam
  updates against the divergence.
- The noise returned is the best one that was evaluated. The code returns the one after the last, unseen update, and
  after five failed restarts spends fifty more steps on the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import GeneratorConfig, InitNoConfig
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model, Pipeline, Scheduler
from noisesmith.pipeline.noise import NoiseKey, storable, within_kl
from noisesmith.pipeline.optimizers.attention import (
    MapSize,
    RowTokens,
    attention_losses,
    evaluations,
    find_tokens,
    pipeline_map_size,
)
from noisesmith.pipeline.optimizers.base import Proposal, Request, Sampler
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling

if TYPE_CHECKING:
    from torch import Tensor

ADAM_EPSILON = 1e-3  # as in the authors' code: elements with little gradient hardly move


def initno(
    unet: Model,
    scheduler: Scheduler,
    embeddings: Tensor,
    tokens: Sequence[RowTokens],
    draw: Callable[[int, int], Tensor],
    size: MapSize,
    config: InitNoConfig,
    guidance_scale: float,
) -> tuple[Tensor, list[float]]:
    """Noises ``[B, C, H, W]`` float32 whose attention losses are low, and the U-Net evaluations of every row.

    Per row, ``restarts`` times at most: z_T = μ + σ⊙ε with a fresh ε, Adam on μ and log σ² for ``steps`` updates of
    response + conflict at the first timestep. A row is finished as soon as both losses are at their thresholds;
    failing that, it takes the noise with the smallest sum. A row without subjects takes its first ε.

    Args:
        scheduler: with its timesteps set; its ``init_noise_sigma`` and ``scale_model_input`` are respected.
        embeddings: the prompts' ``[B, L, E]``.
        draw: (row, restart) → ε ``[C, H, W]`` float32.
        guidance_scale: the sampler's, which says what share of an evaluation a forward is.
    """
    timestep = scheduler.timesteps[0]
    noises = torch.stack([draw(row, 0) for row in range(len(tokens))]).to(embeddings.device)
    best = [math.inf] * len(tokens)
    spent = [0.0] * len(tokens)
    unfinished = [row for row, found in enumerate(tokens) if found.subjects]
    for restart in range(config.restarts):
        if not unfinished:
            break
        rows = unfinished

        def losses(noise: Tensor, positions: list[int], rows: list[int] = rows) -> tuple[Tensor, Tensor]:
            asked = [rows[position] for position in positions]
            latents = scheduler.scale_model_input(noise * scheduler.init_noise_sigma, timestep)
            return attention_losses(unet, latents, timestep, embeddings[asked], [tokens[row] for row in asked], size)

        drawn = torch.stack([draw(row, restart) for row in rows]).to(embeddings.device)
        for row, trial in zip(rows, _optimise(losses, drawn, config), strict=True):
            spent[row] += evaluations(guidance_scale, forwards=trial.forwards, backwards=trial.backwards)
            if trial.met or trial.loss < best[row]:
                best[row], noises[row] = trial.loss, trial.noise
            if trial.met:
                unfinished = [other for other in unfinished if other != row]
    return noises, spent


@dataclass
class _Trial:
    """The best noise of one restart of a row, and what it took."""

    noise: Tensor
    loss: float = math.inf
    met: bool = False
    forwards: int = 0
    backwards: int = 0


def _optimise(
    losses: Callable[[Tensor, list[int]], tuple[Tensor, Tensor]], drawn: Tensor, config: InitNoConfig
) -> list[_Trial]:
    """One restart of every row of ``drawn`` ``[B, C, H, W]``. Rows that have met the thresholds leave the batch."""
    trials = [_Trial(noise) for noise in drawn]
    mean, log_variance = (torch.zeros_like(drawn, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([mean, log_variance], lr=config.learning_rate, eps=ADAM_EPSILON)
    active = list(range(len(drawn)))
    for updates_left in range(config.steps, -1, -1):
        with torch.set_grad_enabled(updates_left > 0):
            noise = mean[active] + (0.5 * log_variance[active]).exp() * drawn[active]
            response, conflict = losses(noise, active)
            total = response + conflict
        met = (response <= config.response_threshold) & (conflict <= config.conflict_threshold)
        for position, candidate, loss, done in zip(active, noise.detach(), total.tolist(), met.tolist(), strict=True):
            trial = trials[position]
            trial.forwards += 1
            if done or loss < trial.loss:
                trial.noise, trial.loss, trial.met = candidate, loss, done
        active = [position for position in active if not trials[position].met]
        if not active or not updates_left:
            break
        mean.grad, log_variance.grad = torch.autograd.grad(total[~met].sum(), [mean, log_variance])
        for position in active:
            trials[position].backwards += 1
        adam.step()
        with torch.no_grad():
            bounded = within_kl(mean, log_variance, config.kl_bound)
            mean.copy_(bounded[0])
            log_variance.copy_(bounded[1])
    return trials


@dataclass(frozen=True)
class InitNo(RandomSampling):
    """Each round starts from a fresh noise, optimised by attention before it is sampled; the best image is kept."""

    config: InitNoConfig

    def prepare(self, requests: Sequence[Request], proposals: list[Proposal], sampler: Sampler) -> list[Proposal]:
        """Put an optimised noise in the place of every fresh one. That of an image made at full steps stays."""
        fresh = [position for position, request in enumerate(requests) if not request.rerender]
        if not fresh:
            return proposals
        asked = [requests[position] for position in fresh]
        shape = tuple(proposals[0].state.shape[1:])
        noises, spent = self.optimise(
            sampler.pipe,
            sampler.config,
            [request.prompt for request in asked],
            [request.subjects for request in asked],
            [request.key for request in asked],
            shape,
            requests[0].steps,
        )
        prepared = list(proposals)
        for position, noise, cost in zip(fresh, noises, spent, strict=True):
            prepared[position] = Proposal(noise[None], evaluations=cost)
        return prepared

    def optimise(
        self,
        pipe: Pipeline,
        sampling: GeneratorConfig,
        prompts: list[str],
        subjects: Sequence[Sequence[str]],
        keys: Sequence[NoiseKey],
        shape: tuple[int, ...],
        steps: int,
    ) -> tuple[Tensor, list[float]]:
        """The noises ``[B, C, H, W]`` to start from, and the U-Net evaluations of every row.

        Args:
            pipe: a loaded ``StableDiffusionPipeline``. Its U-Net is frozen, since only noises are differentiated.
            subjects: those of every prompt, written as in the prompt.
            keys: restart r of a row starts from its key's draw r.
            shape: one row's latents, ``(C, H, W)``.
            steps: the sampler's, which decide the first timestep.

        Returns:
            float32 on the CPU, every value one that float16 holds, so that a stored float16 noise is the noise used.

        Raises:
            UserError: the model has no such attention maps, or a subject is not in what is read of its prompt.
        """
        device = pipe._execution_device  # where the U-Net works; an offloaded pipeline lies on the CPU
        size = pipeline_map_size(pipe, self.config, shape)
        tokens = find_tokens(pipe.tokenizer, prompts, subjects)
        pipe.unet.requires_grad_(False)
        with torch.no_grad():
            embeddings, _ = pipe.encode_prompt(prompts, device, 1, False)
        pipe.scheduler.set_timesteps(steps, device=device)

        def draw(row: int, restart: int) -> Tensor:
            return keys[row].draw(restart, shape)

        noise, spent = initno(
            pipe.unet, pipe.scheduler, embeddings, tokens, draw, size, self.config, sampling.guidance_scale
        )
        return storable(noise).cpu(), spent
