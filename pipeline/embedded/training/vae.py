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

SETTINGS = StageSettings("vae", steps=3600, batch=8, lr=1.5e-3, warmup=100, ema=0.995)
KL = 2e-4  # weight of the KL term


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
        loss = loss + 0.5 * (edge_weight * edges).mean()
    return loss


def train(seed: int, checkpoints: Path, settings: StageSettings = SETTINGS, log: Log = print) -> AutoencoderKL:
    """Train from scratch (or resume); the share of crowded scenes falls from 1 to 0.3."""
    torch.manual_seed(seed)
    vae = new_vae()

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        crowded_share = 1.0 - 0.7 * min(1.0, step / (0.8 * settings.steps))
        scenes = mixture(rng, settings.batch, crowded_share)
        images = pictures(scenes)
        mask = foreground(scenes, images)
        posterior = vae.encode(images * 2 - 1).latent_dist
        out = vae.decode(posterior.sample()).sample
        rec = reconstruction_loss(out, images * 2 - 1, mask)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        with torch.no_grad():
            l1 = ((out - images * 2 + 1).abs() * mask).sum() / mask.sum() / 6
        return rec + KL * kl, {"loss": rec.item(), "fg_l1": l1.item(), "kl": kl.item()}

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


@torch.no_grad()
def whiten(vae: AutoencoderKL, seed: int, count: int = 512, floor: float = 0.03) -> AutoencoderKL:
    """Give the latents zero mean, uncorrelated channels and nearly equal variances; decoded pixels do not change.

    The map and its inverse are multiplied into the 1×1 convolutions on both sides of the latents, in place. As
    trained, five of the sixteen channels hold nearly all the variance, and a diffusion model would see the details
    only in its last steps.

    Args:
        count: scenes that the covariance is measured on.
        floor: added to every variance, so that channels with little signal are not amplified without limit.
    """
    rng = random.Random(f"whiten/{seed}")
    images = pictures(mixture(rng, count, 0.0)) * 2 - 1
    posteriors = [vae.encode(part).latent_dist for part in batches(images, 64)]
    flat = torch.cat([posterior.mode() for posterior in posteriors]).permute(0, 2, 3, 1).flatten(0, 2)
    noise = torch.cat([posterior.var for posterior in posteriors]).mean((0, 2, 3))
    mean = flat.mean(0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    values, vectors = torch.linalg.eigh(covariance)
    forward = vectors.T / (values.clamp(min=0) + floor).sqrt()[:, None]
    backward = torch.linalg.inv(forward)
    channels = len(mean)
    before = vae.quant_conv
    after = vae.post_quant_conv
    weight = before.weight[:channels, :, 0, 0]
    bias = before.bias[:channels]
    before.weight[:channels] = (forward @ weight)[..., None, None]
    before.bias[:channels] = forward @ (bias - mean)
    before.weight[channels:] = 0  # the second half predicts log variances: from now on the mean of each channel
    before.bias[channels:] = (forward.square() @ noise).log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight.copy_((after.weight[:, :, 0, 0] @ backward)[..., None, None])
    return vae
