"""A scorer class of a user's own that cannot score two images at once."""

from __future__ import annotations

import torch
from torch import Tensor

MORE_THAN_ANY_MACHINE_HAS = 1 << 50


class Hungry:
    """log s follows the mean brightness; more than one image asks torch for memory that is not there."""

    id = "hungry"
    revision = "1"

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._device = device

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        if len(prompts) > 1:
            torch.empty(MORE_THAN_ANY_MACHINE_HAS, dtype=torch.uint8, device=self._device)
        return images.mean((1, 2, 3)).clamp(0.01, 0.99).log()
