"""The two losses: of fine-tuning, and of Diffusion-DPO."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def tuning_loss(errors: Tensor) -> Tensor:
    """The mean over images of the denoiser's error ``[B]``: plain fine-tuning."""
    return errors.mean()


def dpo_loss(won: Tensor, lost: Tensor, reference_won: Tensor, reference_lost: Tensor, beta: float) -> Tensor:
    """Diffusion-DPO (arXiv 2311.12908, eq. 14): −log σ(−β/2 · ((e_w − e_w,ref) − (e_l − e_l,ref))), mean over pairs.

    β/2 stands for the paper's βTω(λ_t), which is constant there, with errors that are means over the latents' elements
    and not sums, as in diffusers' script. A model that predicts v has its errors in v.

    Args:
        won, lost: the model's errors ``[B]`` on the better and the worse image of each pair, of equal noise and time.
        reference_won, reference_lost: those of the model before training.
    """
    change = (won - reference_won) - (lost - reference_lost)
    return -F.logsigmoid(-0.5 * beta * change).mean()
