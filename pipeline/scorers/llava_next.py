"""LLaVA-NeXT (LLaVA-1.6): ``transformers.LlavaNextForConditionalGeneration`` with its anyres tiles.

The image is seen whole and, enlarged to the best of the checkpoint's resolutions, as tiles of the vision tower's size
(Liu et al., 2024, https://llava-vl.github.io/blog/2024-01-30-llava-next/). Removing the padding again and the newline
tokens are the model's own work.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import (
    ChatTemplate,
    ImageCounts,
    ImageProcessor,
    Model,
    Options,
    Processor,
    Settings,
    Tokenizer,
)
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_processor
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.fit import fit_image_counts, fit_tiles
from noisesmith.pipeline.scorers.preprocess import (
    PIL_RESAMPLE,
    grey_levels,
    normalise,
    precise,
    resize,
    resize_and_crop,
)


class LlavaNext(ChatScorer):
    """P("Yes") as the first token of the answer; the tiles equal the family's processor and have a gradient."""

    def _load_processors(self, location: str, where: Options) -> tuple[Tokenizer, ImageProcessor, ChatTemplate]:
        processor = auto_processor(location, where)
        return processor.tokenizer, processor.image_processor, processor

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        processor, model = super().load(source, dtype)
        fit_image_counts(cast(ImageCounts, self.templated), model)
        return processor, model

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        fit_tiles(processor, config)

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        """Those of the whole image and, at the resolution with the most tiles, of each tile and of every line's end."""
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        tiles = []
        for height, width in config.image_grid_pinpoints:
            rows = height // vision.patch_size
            columns = width // vision.patch_size
            tiles.append(rows * (columns + 1))
        return int(side**2 + max(tiles))

    def _measure(self, blank: Image.Image) -> tuple[int, ...]:
        """Tokens of an image, which depend on the padding that the model will remove."""
        tokens = self.templated(text=self.image_token, images=blank, return_tensors="pt").input_ids
        count = int((tokens == self.model.config.image_token_id).sum())
        return (count,)

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        pixels = preprocess_tiles(images, self.image_processor, self.rounding)
        sizes = torch.tensor([list(images.shape[-2:])] * len(images), device=self.model.device)
        arguments = {"pixel_values": pixels.to(self.model.device, self.model.dtype), "image_sizes": sizes}
        (image_tokens,) = self.measure(images)
        return VisionInputs(arguments, self.image_token * image_tokens)


def preprocess_tiles(images: Tensor, processor: ImageProcessor, rounding: bool = True) -> Tensor:
    """Pixel values of LLaVA-NeXT's and LLaVA-OneVision's image processors.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a ``LlavaNextImageProcessor`` or ``LlavaOnevisionImageProcessor``, read for its settings only.
        rounding: as in :func:`preprocess`.

    Returns:
        ``[B, 1 + N, 3, h, w]`` as :func:`precise`: the whole image, then N tiles row by row.
    """
    from transformers.image_processing_utils import select_best_resolution

    levels = grey_levels(images, rounding)
    size = dict(processor.size)
    resample = PIL_RESAMPLE[int(processor.resample)]
    edge = size.get("shortest_edge", 0)
    whole = (size.get("height", edge), size.get("width", edge))
    side = dict(processor.crop_size or {}).get("height", whole[0])
    height, width = select_best_resolution(tuple(images.shape[-2:]), processor.image_grid_pinpoints)
    enlarged = resize(levels, *_inside(images.shape[-2], images.shape[-1], height, width), resample, rounding)
    padded = _centre(enlarged, height, width)
    tiles = padded.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    views = [resize(levels, *whole, resample, rounding), *tiles.unbind(1)]
    cropped = torch.stack([resize_and_crop(view, processor, rounding) for view in views], dim=1)
    return precise(normalise(cropped, processor), images)


def _inside(height: int, width: int, into_height: int, into_width: int) -> tuple[int, int]:
    """The largest size of this aspect ratio that fits; the side that does not touch is rounded up."""
    across = into_width / width
    down = into_height / height
    if across < down:
        return min(math.ceil(height * across), into_height), into_width
    return into_height, min(math.ceil(width * down), into_width)


def _centre(levels: Tensor, height: int, width: int) -> Tensor:
    """Black around ``[B, 3, H, W]`` up to ``height`` × ``width``, an odd row or column after it."""
    down = height - levels.shape[-2]
    across = width - levels.shape[-1]
    return torch.nn.functional.pad(levels, [across // 2, across - across // 2, down // 2, down - down // 2])
