"""Stage ``sd``, the diffusion model: v-prediction on encoded scenes, U-Net and text encoder together.

A short training leaves errors of a few per cent everywhere. With noise prediction the first denoising steps multiply
them by 1/√ᾱ (about 14), which destroys the picture; with v-prediction (arXiv 2202.00512) no step amplifies them.

What a picture shows is decided where the signal is weakest: at an SNR of 0.01 the objects of an 8×8 latent can already
be recognised. So the error of v counts in full up to an SNR of :data:`SNR_CAP` − 1, and less only above, where min-SNR
weights (arXiv 2303.09556) limit it too. Below the cap, original min-SNR weights fall with the SNR: after 1,725 steps
with them 5 % of images satisfied a relation prompt, and after 1,400 further steps with the weights here, 27 %.

White things differ little from what is behind them, so that their shapes weigh little in the error and come last.
Stage ``sd-white`` trains on with many of them.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from noisesmith.pipeline.embedded.training.architectures import (
    new_scheduler,
    new_text_encoder,
    new_unet,
    without_pieces,
)
from noisesmith.pipeline.embedded.training.data import encoded, often_white, pictures
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.questions import caption
from noisesmith.pipeline.embedded.training.scenes import LAYOUTS, Scene, sample
from noisesmith.pipeline.embedded.training.vocabulary import token_ids

SETTINGS = StageSettings("sd", steps=6000, batch=64, lr=8e-4, warmup=200, ema=0.998)
WHITE_SETTINGS = StageSettings("sd-white", steps=3000, batch=64, lr=5e-4, warmup=100, ema=0.998)
SCENES = 64_000
WHITE_SHARE = 0.7  # of the scenes of stage ``sd-white``, at least
SHARES = (20, 28, 14, 17, 21)  # of ``LAYOUTS``: one object alone shows best what its word means
CAPTIONS = 3  # per scene
DROPOUT = 0.1  # share of captions replaced by the empty one, for guidance
SNR_CAP = 5.0


class Painter(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = new_unet()
        self.text: CLIPTextModel = new_text_encoder()

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> Painter:
        """The two parts of a pipeline, its text encoder with the words of the grammar only."""
        painter = cls()
        painter.unet.load_state_dict(pipe.unet.state_dict())
        painter.text.load_state_dict(without_pieces(pipe.text_encoder).state_dict())
        return painter


@torch.no_grad()
def encoded_scenes(
    vae: AutoencoderKL, seed: int, path: Path, count: int = SCENES, white_share: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scaled latents [count, 16, 8, 8] and caption token ids [count, CAPTIONS, 16], kept in ``path``."""
    if path.exists():
        stored = torch.load(path, weights_only=True)
        return stored["latents"].float(), stored["ids"]
    rng = random.Random(f"{path.stem}/{seed}")
    latents: list[Tensor] = []
    texts: list[str] = []

    def draw() -> Scene:
        return sample(rng, rng.choices(LAYOUTS, SHARES)[0])

    for start in range(0, count, 100):
        scenes = [often_white(rng, white_share, draw) for _ in range(min(100, count - start))]
        latents.append(encoded(vae, pictures(scenes)).half())
        for scene in scenes:
            texts += [str(caption(scene, rng, loose=0.1)) for _ in range(CAPTIONS)]
    stored = {"latents": torch.cat(latents), "ids": token_ids(texts).view(count, CAPTIONS, -1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return stored["latents"].float(), stored["ids"]


def stratified_timesteps(batch: int) -> Tensor:
    """One random timestep from each of B equal parts of the schedule ``[B]``, which makes the loss less noisy."""
    return ((torch.arange(batch) + torch.rand(batch)) * 1000 / batch).long()


def velocity_errors(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor, texts: Tensor
) -> Tensor:
    """The mean squared error of v ``[B]`` on noised latents.

    Args:
        clean, noise: latents and N(0, I), both ``[B, 16, 8, 8]``.
        timesteps: ``[B]``.
        texts: the encoded captions ``[B, 16, E]``.
    """
    noisy = scheduler.add_noise(clean, noise, timesteps)
    predicted = unet(noisy, timesteps, texts).sample
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    error: Tensor = (predicted - velocity).square().mean((1, 2, 3))
    return error


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    begin: Painter,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    scenes: int = SCENES,
) -> Painter:
    """Train on from ``begin``, in place (or resume), on ``scenes`` encoded scenes with changing captions."""
    white_share = WHITE_SHARE if settings.stage == WHITE_SETTINGS.stage else 0.0
    latents, captions = encoded_scenes(vae, seed, checkpoints / f"{settings.stage}-scenes.pt", scenes, white_share)
    torch.manual_seed(seed)
    painter = begin
    scheduler = new_scheduler()
    signal = scheduler.alphas_cumprod
    ratio = signal / (1 - signal)
    weights = (ratio + 1).clamp(max=SNR_CAP) / (ratio + 1)
    empty = token_ids([""])

    def loss_fn(_step: int, _rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(latents), (settings.batch,))
        clean = latents[rows]
        ids = captions[rows, torch.randint(captions.shape[1], (settings.batch,))]
        ids = torch.where(torch.rand(settings.batch, 1) < DROPOUT, empty, ids)
        noise = torch.randn_like(clean)
        timesteps = stratified_timesteps(settings.batch)
        error = velocity_errors(painter.unet, scheduler, clean, noise, timesteps, painter.text(ids).last_hidden_state)
        loss = (weights[timesteps] * error).mean()
        return loss, {"loss": loss.item(), "mse": error.mean().item()}

    module = fit(settings, painter, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Painter)
    return module
