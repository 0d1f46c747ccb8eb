"""The judge: a small convolutional detector of the embedded world's objects, their colours and positions.

It never takes part in a search. It has nothing in common with the vision-language model but the world, so it can
distinguish a faithful picture from one that only fooled the scorer. It predicts one heat map per noun on a 16×16 grid,
and for each cell colour, offset and size (Objects as Points, arXiv 1904.07850).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import ConvNextBackbone, ConvNextConfig, PretrainedConfig, PreTrainedModel

from noisesmith.pipeline.embedded.geometry import SIZE, truth
from noisesmith.pipeline.embedded.grammar import ANIMALS, COLOURS, NOUNS, WEARABLES, ScenePrompt, parse

STRIDE = 4  # pixels per cell of the grid
SIZE_UNIT = 24.0  # pixels per unit of the predicted size


@dataclass(frozen=True)
class Detection:
    """An object that was found: centre and longest side in pixels, confidence in 0..1; animals have no colour."""

    noun: str
    colour: str | None
    x: float
    y: float
    size: float
    confidence: float


class JudgeConfig(PretrainedConfig):  # type: ignore[misc]  # untyped here
    """The detector's width in channels, its trunk, and the confidence from which an object counts as found.

    ``trunk`` is ``residual``, or ``convnext`` (arXiv 2201.03545): two detectors of different kinds err on different
    pictures.
    """

    model_type = "noisesmith_judge"

    def __init__(self, width: int = 24, threshold: float = 0.4, trunk: str = "residual", **kwargs: object) -> None:
        self.width = width
        self.threshold = threshold
        self.trunk = trunk
        super().__init__(**kwargs)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        changed: Tensor = self.conv2(F.silu(self.norm2(hidden)))
        return x + changed


class Judge(PreTrainedModel):  # type: ignore[misc]  # untyped here
    """Detector of the embedded world's objects; with the world's geometry it decides whether a prompt is true."""

    config_class = JudgeConfig
    main_input_name = "pixel_values"

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config)
        w = config.width
        if config.trunk == "convnext":
            self.backbone = ConvNextBackbone(
                ConvNextConfig(
                    patch_size=STRIDE,
                    hidden_sizes=[2 * w, 4 * w, 6 * w],
                    depths=[2, 3, 2],
                    num_stages=3,
                    out_features=["stage1", "stage2", "stage3"],
                    drop_path_rate=0.0,
                )
            )
            self.levels = nn.ModuleList([nn.Conv2d(channels * w, 2 * w, 1) for channels in (2, 4, 6)])
            self.last = nn.Sequential(nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.GELU())
        else:
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
        """Predict the maps of a batch of pictures.

        Args:
            pixel_values: float [B, 3, 64, 64] in 0..1.

        Returns:
            noun logits [B, 24, 16, 16], colour logits [B, 11, 16, 16], and (x offset in cells, y offset in cells,
            size / 24) [B, 3, 16, 16].
        """
        features = self._features(pixel_values * 2 - 1)
        return self.heat(features), self.colour(features), self.place(features)

    def _features(self, pixels: Tensor) -> Tensor:
        """What the heads read: [B, 2 * width, 16, 16] of pixels [B, 3, 64, 64] in −1..1."""
        if self.config.trunk == "convnext":
            side = SIZE // STRIDE
            merged = pixels.new_zeros(len(pixels), 2 * self.config.width, side, side)
            for level, maps in zip(self.levels, self.backbone(pixels).feature_maps, strict=True):
                merged = merged + F.interpolate(level(maps), (side, side), mode="nearest")
            last: Tensor = self.last(merged)
            return last
        fine = self.fine(self.stem(pixels))
        coarse = self.merge(self.coarse(fine))
        features: Tensor = self.trunk(fine + F.interpolate(coarse, scale_factor=2, mode="nearest"))
        return features

    @torch.no_grad()
    def detect(self, images: Tensor | Sequence[Image.Image], threshold: float | None = None) -> list[list[Detection]]:
        """The objects in each picture, the most confident first.

        Args:
            images: float [B, 3, 64, 64] in 0..1, or PIL images of any size (resized to 64×64).
            threshold: least confidence of an object; that of the config when absent.
        """
        least = self.config.threshold if threshold is None else threshold
        pixels = images if isinstance(images, Tensor) else _to_pixels(images)
        logits, colour, place = self(pixels.to(self.device, self.dtype).clamp(0, 1))
        heat = logits.float().sigmoid()
        local_maxima = heat == F.max_pool2d(heat, 3, 1, 1)
        peaks = local_maxima & (heat >= least)
        found: list[list[Detection]] = [[] for _ in range(len(pixels))]
        for image, index, row, column in peaks.nonzero().tolist():
            noun = NOUNS[index]
            dx, dy, size = place[image, :, row, column].float().tolist()
            hue = None if noun in ANIMALS else COLOURS[int(colour[image, :, row, column].argmax())]
            one = Detection(
                noun=noun,
                colour=hue,
                x=(column + 0.5 + dx) * STRIDE,
                y=(row + 0.5 + dy) * STRIDE,
                size=size * SIZE_UNIT,
                confidence=float(heat[image, index, row, column]),
            )
            found[image].append(one)
        return [_distinct(detections) for detections in found]

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


def _to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """PIL images of any size as float [B, 3, 64, 64] in 0..1."""
    arrays: list[NDArray[np.uint8]] = []
    for image in images:
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(small))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def _distinct(found: list[Detection]) -> list[Detection]:
    """The detections, the most confident first, without those that lie on a more confident one."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda detection: -detection.confidence):
        if not any(_hides(surer, one) for surer in kept):
            kept.append(one)
    return kept


def _hides(surer: Detection, one: Detection) -> bool:
    """Whether two detections are so near to each other that they must be one object."""
    nouns = (surer.noun, one.noun)
    if surer.noun == one.noun:
        reach = 12
    elif any(noun in WEARABLES for noun in nouns) and any(noun in ANIMALS for noun in nouns):
        reach = 0  # glasses lie in the middle of a face
    else:
        reach = 6
    return bool(np.hypot(one.x - surer.x, one.y - surer.y) < reach)
