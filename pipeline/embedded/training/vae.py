"""Stage ``vae``, the autoencoder: errors of pixels and edges, weighted towards the foreground, and a small KL term."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from noisesmith.pipeline.embedded.training.architectures import new_vae
from noisesmith.pipeline.embedded.training.data import batches, foreground, mixture, pictures
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit

SETTINGS = StageSettings("vae", steps=6000, batch=8, lr=1e-3, warmup=100, ema=0.995)
KL = 2e-4  # weight of the KL term
CROWDED = 0.4  # share of scenes with many overlapping objects
WHITE_SHARE = 0.4  # of scenes with a white thing, of which little but the outline stands out, at least


def reconstruction_loss(out: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Absolute and squared error of pixels, and absolute error of their differences (edges).

    With the absolute error only, the model is content with the median hue; the squared one makes colours appear early.

    Args:
        out: float [B, 3, 64, 64] in −1..1, as ``target``.
        mask: [B, 1, 64, 64], 1 in the foreground, which weighs six times as much.
    """
    weight = 0.5 + 2.5 * mask
    error = out - target
    loss = (weight * (error.abs() + 2 * error.square())).mean()
    for axis in (2, 3):
        edges = (out.diff(dim=axis) - target.diff(dim=axis)).abs()
        edge_weight = weight.narrow(axis, 1, weight.shape[axis] - 1)
        loss = loss + (edge_weight * edges).mean()
    return loss


@torch.no_grad()
def foreground_error(out: Tensor, target: Tensor, mask: Tensor) -> float:
    """The mean absolute error per number of the foreground, as a share of the range; arguments as above."""
    return float(((out - target).abs() * mask).sum() / mask.sum() / 6)


def train(
    seed: int, checkpoints: Path, begin: AutoencoderKL, settings: StageSettings = SETTINGS, log: Log = print
) -> AutoencoderKL:
    """Train on from the weights of ``begin`` (or resume).

    The latents stay near those of ``begin``, so a diffusion model that knows these can be trained on as well.
    """
    torch.manual_seed(seed)
    vae = new_vae()
    vae.load_state_dict(begin.state_dict())
    vae.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        scenes = mixture(rng, settings.batch, CROWDED, WHITE_SHARE)
        images = pictures(scenes).contiguous(memory_format=torch.channels_last)
        mask = foreground(scenes, images)
        target = images * 2 - 1
        posterior = vae.encode(target).latent_dist
        out = vae.decode(posterior.sample()).sample
        rec = reconstruction_loss(out, target, mask)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        error = foreground_error(out, target, mask)
        return rec + KL * kl, {"loss": rec.item(), "fg_l1": error, "kl": kl.item()}

    module: nn.Module = fit(settings, vae, loss_fn, seed, checkpoints, log)
    assert isinstance(module, AutoencoderKL)
    return module


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, seed: int, count: int = 512) -> float:
    """One over the standard deviation of the latents of ordinary scenes."""
    rng = random.Random(f"scale/{seed}")
    images = pictures(mixture(rng, count, 0.0)) * 2 - 1
    latents = torch.cat([vae.encode(part).latent_dist.sample() for part in batches(images, 64)])
    return 1.0 / float(latents.std())
