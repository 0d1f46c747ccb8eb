"""SmolVLM2: ``transformers.SmolVLMForConditionalGeneration``.

An image is resized so that its longest edge has a fixed length, then to whole tiles of the vision tower's size; the
model sees each tile, and the whole image after them (Marafioti et al., 2025, arXiv 2504.05299).
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Settings
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.loaded import Inputs
from noisesmith.pipeline.scorers.preprocess import PIL_RESAMPLE, grey_levels, normalise, precise, resize

# Marks around an image: how the tokenizer names them, and what they are where it does not.
_AROUND = ("fake_image_token", "<fake_token_around_image>")
_WHOLE = ("global_image_token", "<global-img>")


class SmolVLM(ChatScorer):
    """P("Yes") as the first token of the answer; the tiles equal the family's processor and have a gradient."""

    not_for_model = ("pixel_attention_mask",)
    answer_prefix = " "  # the template's question ends in "Assistant:", and its answers follow as "Assistant: Yes"

    def _measure(self, blank: Image.Image) -> tuple[int, int]:
        """Rows and columns of tiles; 0 where there is one."""
        processed = self.image_processor(images=blank, return_row_col_info=True, return_tensors="pt")
        ((rows,),), ((columns,),) = processed["rows"], processed["cols"]
        return int(rows), int(columns)

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        rows, columns = self.measure(images)
        pixels = preprocess_split(images, self.image_processor, (rows, columns), self.rounding)
        around, whole = (getattr(self.tokenizer, *mark) for mark in (_AROUND, _WHOLE))
        text: str = get_image_prompt_string(
            rows, columns, tile_tokens(self.model.config), around, self.image_token, whole
        )
        return VisionInputs({"pixel_values": pixels.to(self.model.device, self.model.dtype)}, text)

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        tiles = vision["pixel_values"].shape[1]
        return cls.blank_question(model, batch, length, tiles * tile_tokens(model.config))

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        """As the base class; the model's own pass over images would look for all-zero ones, which are no images."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tiles = vision["pixel_values"].flatten(0, 1)
        seen = model.model.vision_model(pixel_values=tiles).last_hidden_state
        images = BaseModelOutputWithPooling(pooler_output=model.model.connector(seen))
        logits: Tensor = model(
            **text, mm_encoder_outputs={"image": images}, use_cache=False, logits_to_keep=labels.shape[1]
        ).logits
        return logits


def tile_tokens(config: Settings) -> int:
    """Tokens of one tile."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(side**2 // config.scale_factor**2)


def preprocess_split(images: Tensor, processor: ImageProcessor, grid: tuple[int, int], rounding: bool = True) -> Tensor:
    """Pixel values of SmolVLM's image processor.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a ``SmolVLMImageProcessor``, read for its settings only.
        grid: rows and columns of tiles; 0 for an image that is one tile.
        rounding: as in :func:`preprocess`.

    Returns:
        ``[B, N, 3, h, w]`` as :func:`precise`: the tiles row by row, and where there are several the whole image after
        them.
    """
    from transformers.models.smolvlm.image_processing_pil_smolvlm import get_resize_output_image_size

    rows, columns = grid
    side = processor.max_image_size["longest_edge"]
    resample = PIL_RESAMPLE[int(processor.resample)]
    levels = grey_levels(images, rounding)
    if processor.do_resize:
        height, width = get_resize_output_image_size(levels, processor.size["longest_edge"])
        levels = resize(levels, height, width, resample, rounding)
    levels = resize(levels, max(rows, 1) * side, max(columns, 1) * side, resample, rounding)
    tiles = levels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    if rows:
        whole = resize(levels, side, side, resample, rounding)
        tiles = torch.cat([tiles, whole[:, None]], dim=1)
    return precise(normalise(tiles, processor), images)
