"""The judge: a small convolutional detector that says which objects, in which colours, are where.

It never steers a search. It shares nothing with the vision-language model but the world, so it can tell a faithful
picture from one that merely fooled the scorer. A heat map a noun on a 16×16 grid, with colour, offset and size
beside it (Objects as Points, arXiv 1904.07850).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from noisesmith.pipeline.embedded.grammar import ANIMALS, COLOURS, NOUNS, WEARABLES, ScenePrompt, parse
from noisesmith.pipeline.embedded.scenes import SIZE, truth

STRIDE = 4
SIZE_UNIT = 24.0


@dataclass(frozen=True)
class Detection:
    """A found object: centre and longest side in pixels, confidence in 0..1; animals have no colour."""

    noun: str
    colour: str | None
    x: float
    y: float
    size: float
    confidence: float


class JudgeConfig(PretrainedConfig):
    """Width of the detector and the confidence from which an object counts as found."""

    model_type = "noisesmith_judge"

    def __init__(self, width: int = 24, threshold: float = 0.4, **kwargs: object) -> None:
        self.width = width
        self.threshold = threshold
        super().__init__(**kwargs)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Judge(PreTrainedModel):
    """Detector of the embedded world's objects and, through the scenes' geometry, of faithfulness."""

    config_class = JudgeConfig
    main_input_name = "pixel_values"

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config)
        w = config.width
        self.stem = nn.Sequential(nn.Conv2d(3, w, 4, 2, 1), _Residual(w))
        self.fine = nn.Sequential(nn.Conv2d(w, 2 * w, 4, 2, 1), _Residual(2 * w), _Residual(2 * w))
        self.coarse = nn.Sequential(nn.Conv2d(2 * w, 4 * w, 4, 2, 1), _Residual(4 * w), _Residual(4 * w))
        self.merge = nn.Conv2d(4 * w, 2 * w, 1)
        self.trunk = nn.Sequential(_Residual(2 * w), nn.GroupNorm(8, 2 * w), nn.SiLU())
        self.heat = nn.Conv2d(2 * w, len(NOUNS), 3, padding=1)
        self.colour = nn.Conv2d(2 * w, len(COLOURS), 3, padding=1)
        self.place = nn.Conv2d(2 * w, 3, 3, padding=1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is getattr(self, "heat", None):
            nn.init.constant_(module.bias, -4.0)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of a batch of pictures.

        Args:
            pixel_values: float [B, 3, 64, 64] in 0..1.

        Returns:
            noun logits [B, 24, 16, 16], colour logits [B, 11, 16, 16], and (x, y offset in cells, size / 24)
            [B, 3, 16, 16].
        """
        fine = self.fine(self.stem(pixel_values * 2 - 1))
        coarse = self.merge(self.coarse(fine))
        trunk = self.trunk(fine + F.interpolate(coarse, scale_factor=2, mode="nearest"))
        return self.heat(trunk), self.colour(trunk), self.place(trunk)

    @torch.no_grad()
    def detect(self, images: Tensor | Sequence[Image.Image]) -> list[list[Detection]]:
        """Objects in each picture, the surest first.

        Args:
            images: float [B, 3, 64, 64] in 0..1, or PIL images of any size (resized to 64×64).
        """
        if not isinstance(images, Tensor):
            arrays = [np.asarray(i.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for i in images]
            images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        heat, colour, place = self(images.to(self.device, self.dtype).clamp(0, 1))
        heat = heat.float().sigmoid()
        peaks = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat >= self.config.threshold)
        found: list[list[Detection]] = [[] for _ in range(len(images))]
        for b, index, row, column in peaks.nonzero().tolist():
            noun = NOUNS[index]
            dx, dy, size = place[b, :, row, column].float().tolist()
            hue = None if noun in ANIMALS else COLOURS[int(colour[b, :, row, column].argmax())]
            x, y = (column + 0.5 + dx) * STRIDE, (row + 0.5 + dy) * STRIDE
            found[b].append(Detection(noun, hue, x, y, size * SIZE_UNIT, float(heat[b, index, row, column])))
        return [_distinct(sorted(d, key=lambda o: -o.confidence)) for d in found]

    def faithful(self, image: Tensor | Image.Image, prompt: str | ScenePrompt) -> float | None:
        """1.0 if the picture shows what the prompt says, else 0.0; ``None`` for a prompt outside the grammar.

        Args:
            image: float [3, 64, 64] in 0..1, or a PIL image.
        """
        scene = parse(prompt) if isinstance(prompt, str) else prompt
        if scene is None:
            return None
        found = self.detect(image[None] if isinstance(image, Tensor) else [image])[0]
        return float(truth(found, scene))


def _distinct(found: list[Detection]) -> list[Detection]:
    """Drop a detection that sits on a surer one: of the same noun within 12 px, of another within 6 px, unless the one
    may be worn by the other (glasses lie on the very middle of a face)."""

    def hides(kept: Detection, one: Detection) -> bool:
        worn = {kept.noun in WEARABLES, one.noun in WEARABLES} == {True, False}
        reach = 12 if kept.noun == one.noun else 0 if worn and (kept.noun in ANIMALS or one.noun in ANIMALS) else 6
        return bool(np.hypot(one.x - kept.x, one.y - kept.y) < reach)

    kept: list[Detection] = []
    for one in found:
        if not any(hides(k, one) for k in kept):
            kept.append(one)
    return kept
