"""Training the autoencoder: L1 and edges, weighted towards the foreground, with a faint KL term."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from noisesmith.pipeline.embedded.models import new_vae
from noisesmith.pipeline.embedded.training.data import foreground, mixture, pictures
from noisesmith.pipeline.embedded.training.loop import Plan, fit

PLAN = Plan("vae", steps=3600, batch=8, lr=1.5e-3, warmup=100, ema=0.995)
KL = 2e-4


def reconstruction_loss(out: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Absolute and squared error of pixels and absolute error of their differences, the foreground weighing more.

    The absolute error alone settles for the median hue; the squared one makes colours appear early.
    """
    weight = 0.5 + 2.5 * mask
    error = out - target
    loss = (weight * (error.abs() + 2 * error.square())).mean()
    for axis in (2, 3):
        edges = (out.diff(dim=axis) - target.diff(dim=axis)).abs()
        loss = loss + 0.5 * (weight.narrow(axis, 1, weight.shape[axis] - 1) * edges).mean()
    return loss


def train(seed: int, checkpoints: Path, plan: Plan = PLAN, log: Callable[[str], None] = print) -> AutoencoderKL:
    """Train from scratch (or resume); the share of crowded scenes falls from 1 to 0.3."""
    torch.manual_seed(seed)
    vae = new_vae()

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        scenes = mixture(rng, plan.batch, 1.0 - 0.7 * min(1.0, step / (0.8 * plan.steps)))
        images = pictures(scenes)
        mask = foreground(scenes, images)
        posterior = vae.encode(images * 2 - 1).latent_dist
        out = vae.decode(posterior.sample()).sample
        rec = reconstruction_loss(out, images * 2 - 1, mask)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        with torch.no_grad():
            l1 = ((out - images * 2 + 1).abs() * mask).sum() / mask.sum() / 6
        return rec + KL * kl, {"loss": rec.item(), "fg_l1": l1.item(), "kl": kl.item()}

    module: nn.Module = fit(plan, vae, loss_fn, seed, checkpoints, log)
    assert isinstance(module, AutoencoderKL)
    return module


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, seed: int, count: int = 512) -> float:
    """One over the standard deviation of the latents of ordinary scenes."""
    rng = random.Random(f"scale/{seed}")
    images = pictures(mixture(rng, count, 0.0)) * 2 - 1
    return 1.0 / float(torch.cat([vae.encode(x).latent_dist.sample() for x in images.split(64)]).std())


def quality(vae: AutoencoderKL, seed: int, count: int = 128) -> float:
    """Mean absolute foreground error, in 0..1 units, on fresh scenes."""
    rng = random.Random(f"quality/{seed}")
    scenes = mixture(rng, count, 0.0)
    images = pictures(scenes)
    with torch.no_grad():
        out = vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample.clamp(-1, 1) / 2 + 0.5
    mask = foreground(scenes, images)
    return float((F.l1_loss(out, images, reduction="none").mean(1, keepdim=True) * mask).sum() / mask.sum())


@torch.no_grad()
def whiten(vae: AutoencoderKL, seed: int, count: int = 512, floor: float = 0.03) -> AutoencoderKL:
    """Give the latents zero mean, uncorrelated channels and nearly equal variances, without changing a single pixel.

    The 1×1 convolutions on both sides of the latents take up the map and its inverse, in place. As trained, five of the
    sixteen channels hold nearly all the variance, and a diffusion model would see the details only at the very end.
    """
    rng = random.Random(f"whiten/{seed}")
    images = pictures(mixture(rng, count, 0.0)) * 2 - 1
    posteriors = [vae.encode(x).latent_dist for x in images.split(64)]
    flat = torch.cat([p.mode() for p in posteriors]).permute(0, 2, 3, 1).flatten(0, 2)
    noise = torch.cat([p.var for p in posteriors]).mean((0, 2, 3))
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    forward = vectors.T / (values.clamp(min=0) + floor).sqrt()[:, None]
    backward = torch.linalg.inv(forward)
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    weight, bias = before.weight[:channels, :, 0, 0], before.bias[:channels]
    before.weight[:channels] = (forward @ weight)[..., None, None]
    before.bias[:channels] = forward @ (bias - mean)
    before.weight[channels:] = 0
    before.bias[channels:] = (forward.square() @ noise).log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight.copy_((after.weight[:, :, 0, 0] @ backward)[..., None, None])
    return vae
