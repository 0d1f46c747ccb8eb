"""LLaVA-OneVision: ``transformers.LlavaOnevisionForConditionalGeneration``, with the anyres tiles of LLaVA-NeXT.

The model makes the features of many tiles smaller, as its ``vision_aspect_ratio`` says (Li et al., 2024, arXiv
2408.03326).
"""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import ImageProcessor, Settings
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.fit import fit_tiles
from noisesmith.pipeline.scorers.llava_next import preprocess_tiles

SHRUNK_ABOVE = 1.1  # times the side of as many tiles as are kept: the model's own constant


class LlavaOnevision(ChatScorer):
    """P("Yes") as the first token of the answer; the tiles equal the family's processor and have a gradient."""

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        fit_tiles(processor, config)

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        """Those of the whole image, and of as many tiles as the model keeps, each of their lines with an end."""
        side = _cells_per_side(config)
        kept = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        tiles = []
        for height, width in config.image_grid_pinpoints:
            rows = side * (height // config.vision_config.image_size)
            columns = side * (width // config.vision_config.image_size)
            ratio = math.sqrt(rows * columns / (kept * side**2))
            if ratio > SHRUNK_ABOVE:
                rows = int(rows // ratio)
                columns = int(columns // ratio)
            tiles.append(rows * (columns + 1))
        return int(side**2 + max(tiles))

    def _measure(self, blank: Image.Image) -> tuple[int]:
        """Tokens of an image: the model's own code packs features of one channel."""
        from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

        config = self.model.config
        size = (blank.height, blank.width)
        views = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        features = torch.zeros(views, _cells_per_side(config) ** 2, 1)
        _, (count,) = self.model.model.pack_image_features(
            [features], [size], torch.zeros(1), config.vision_aspect_ratio
        )
        return (int(count),)

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        pixels = preprocess_tiles(images, self.image_processor, self.rounding)
        sizes = torch.tensor([list(images.shape[-2:])] * len(images), device=self.model.device)
        arguments = {"pixel_values": pixels.to(self.model.device, self.model.dtype), "image_sizes": sizes}
        (image_tokens,) = self.measure(images)
        return VisionInputs(arguments, self.image_token * image_tokens)


def _cells_per_side(config: Settings) -> int:
    """Features per side of a tile."""
    vision = config.vision_config
    side: int = vision.image_size // vision.patch_size
    return side
