"""Stage ``decoder``: the autoencoder's decoder learns to draw sharply what the diffusion model leaves blurred.

The encoder and the latents stay as they are. Scenes of training prompts are encoded, noised up to some step of the
sampler, and denoised again by the diffusion model (SDEdit, arXiv 2108.01073). Objects keep their places to the pixel,
and the latents become like those of generated pictures: hands of clocks, legs and outlines of white things are lost.
From these latents the decoder learns the scene as it was rendered.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.grammar import ScenePrompt
from noisesmith.pipeline.embedded.training.architectures import new_scheduler
from noisesmith.pipeline.embedded.training.data import encoded, foreground, pictures
from noisesmith.pipeline.embedded.training.guided import sometimes_alone
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.scenes import place
from noisesmith.pipeline.embedded.training.sd import Painter
from noisesmith.pipeline.embedded.training.spin import often_hard
from noisesmith.pipeline.embedded.training.vae import foreground_error, reconstruction_loss
from noisesmith.pipeline.embedded.training.vocabulary import token_ids

SETTINGS = StageSettings("decoder", steps=2500, batch=24, lr=7e-4, warmup=50, ema=0.995)
PROMPTS = 8_000
WHITE_SHARE = 0.35  # of prompts with a white thing, of which little but the outline stands out, at least
SAMPLER_STEPS = 10
DENOISED = 8  # of the sampler's steps at most; with all ten, objects would move
SEEDS = 300  # the prompts are others than those of the other stages


@torch.no_grad()
def denoised(painter: Painter, clean: Tensor, ids: Tensor, steps: int) -> Tensor:
    """Latents noised and denoised again in the last ``steps`` of :data:`SAMPLER_STEPS` steps, without guidance.

    Args:
        clean: scaled latents [B, 16, 8, 8].
        ids: their captions' token ids [B, 16].
        steps: 0 leaves the latents as they are.
    """
    if not steps:
        return clean
    scheduler = new_scheduler()
    scheduler.set_timesteps(SAMPLER_STEPS)
    timesteps = scheduler.timesteps[-steps:]
    texts = painter.text(ids).last_hidden_state
    latents: Tensor = scheduler.add_noise(clean, torch.randn_like(clean), timesteps[:1].expand(len(clean)))
    for timestep in timesteps:
        velocity = painter.unet(latents, timestep, texts).sample
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    painter: Painter,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    prompts: int = PROMPTS,
) -> AutoencoderKL:
    """A copy of ``vae`` with its decoder trained on (or resumed), for what ``painter`` makes."""
    trained = copy.deepcopy(vae).requires_grad_(False)
    trained.decoder.requires_grad_(True)
    trained.post_quant_conv.requires_grad_(True)
    trained.to(memory_format=torch.channels_last)  # faster on a CPU
    asked = often_hard(SEEDS + seed, prompts)
    white = [prompt for prompt in asked if "white" in prompt.split()]

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        chosen: list[ScenePrompt] = []
        for _ in range(settings.batch):
            chosen.append(sometimes_alone(rng.choice(white if rng.random() < WHITE_SHARE else asked), rng))
        scenes = [place(prompt, rng) for prompt in chosen]
        images = pictures(scenes)
        with torch.no_grad():
            clean = encoded(trained, images)
        ids = token_ids([str(prompt) for prompt in chosen])
        latents = denoised(painter, clean, ids, rng.randint(0, DENOISED))
        out = trained.decode(latents / trained.config.scaling_factor).sample
        target = images * 2 - 1
        mask = foreground(scenes, images)
        loss = reconstruction_loss(out, target, mask)
        return loss, {"loss": loss.item(), "fg_l1": foreground_error(out, target, mask)}

    module = fit(settings, trained, loss_fn, seed, checkpoints, log)
    assert isinstance(module, AutoencoderKL)
    return module.requires_grad_(False)
