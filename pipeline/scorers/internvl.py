"""InternVL3: ``transformers.InternVLForConditionalGeneration``.

An image is enlarged to whole tiles of the vision tower's size, in the grid that fits its aspect ratio best, and seen
once more as a whole where there are several (Chen et al., 2024, arXiv 2404.16821).
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import ImageProcessor, Settings
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.preprocess import PIL_RESAMPLE, grey_levels, normalise, precise, resize


class InternVL(ChatScorer):
    """P("Yes") as the first token of the answer; the tiles equal the family's processor and have a gradient."""

    not_for_model = ("num_patches",)

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        """Cut images into tiles, as the family's whole processor does whatever the image processor's file says."""
        processor.crop_to_patches = True

    def _measure(self, blank: Image.Image) -> tuple[int, int]:
        return count_tiles(self.image_processor, blank.height, blank.width)

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        rows, columns = self.measure(images)
        pixels = preprocess_grid(images, self.image_processor, (rows, columns), self.rounding)
        views = pixels.shape[1]
        arguments = {"pixel_values": pixels.flatten(0, 1).to(self.model.device, self.model.dtype)}
        tokenizer: Any = self.tokenizer  # this family's has names for its marks
        inside = self.image_token * (views * tile_tokens(self.model.config))
        return VisionInputs(arguments, f"{tokenizer.start_image_token}{inside}{tokenizer.end_image_token}")


def tile_tokens(config: Settings) -> int:
    """Tokens of one tile."""
    vision = config.vision_config
    side = vision.image_size[0] // vision.patch_size[0]
    return int(side**2 * config.downsample_ratio**2)


def count_tiles(processor: ImageProcessor, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tiles that the library's processor cuts an image into."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    if processor.max_patches <= 1:
        return 1, 1
    tile = (processor.size["height"], processor.size["width"])
    columns, rows = get_optimal_tiled_canvas((height, width), tile, processor.min_patches, processor.max_patches)
    return rows, columns


def preprocess_grid(images: Tensor, processor: ImageProcessor, grid: tuple[int, int], rounding: bool = True) -> Tensor:
    """Pixel values of InternVL's image processor.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a ``GotOcr2ImageProcessor``, read for its settings only.
        grid: rows and columns of tiles.
        rounding: as in :func:`preprocess`.

    Returns:
        ``[B, N, 3, h, w]`` as :func:`precise`: the tiles row by row, and where there are several the whole image after
        them.
    """
    rows, columns = grid
    height = processor.size["height"]
    width = processor.size["width"]
    resample = PIL_RESAMPLE[int(processor.resample)]
    levels = grey_levels(images, rounding)
    enlarged = resize(levels, rows * height, columns * width, resample, rounding)
    tiles = enlarged.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    if rows * columns > 1:
        whole = resize(levels, height, width, resample, rounding)
        tiles = torch.cat([tiles, whole[:, None]], dim=1)
    return precise(normalise(tiles, processor), images)
