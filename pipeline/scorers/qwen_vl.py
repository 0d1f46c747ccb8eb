"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: images at their own resolution, as flat patches.

One class serves ``Qwen2VLForConditionalGeneration``, ``Qwen2_5_VLForConditionalGeneration`` and
``Qwen3VLForConditionalGeneration``: they share the image processor and differ in its settings. Multimodal rotary
positions are computed by the model from ``image_grid_thw`` and ``mm_token_type_ids``. A "Thinking" checkpoint opens its
answer with its thoughts, not with yes or no, so its first token is no score. Qwen3.5 is asked not to think.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Options, Settings
from noisesmith.pipeline.scorers.answers import pad_labels
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.fit import fit_patches
from noisesmith.pipeline.scorers.loaded import Inputs
from noisesmith.pipeline.scorers.preprocess import PIL_RESAMPLE, grey_levels, normalise, precise, resize
from noisesmith.pipeline.scorers.rating import log_expected, spell_ratings

if TYPE_CHECKING:
    from torch import Tensor


class QwenVL(ChatScorer):
    """P("Yes") as the first token of the answer; the patches equal the family's processor and have a gradient.

    The readout ``rating`` is for UnifiedReward 2.0, whose checkpoints are of this family: the expected rating of the
    image's alignment with the prompt, E, as s = (E − 1) / 4. Its authors let the model write three ratings with
    decimals, of which this is the first digit of the first.

    Raises:
        UserError: as the base class; or a rating is more than one token.
    """

    readouts: ClassVar[tuple[str, ...]] = (*ChatScorer.readouts, "rating")

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        super().__init__(found, device, rounding=rounding)
        self._rated = spell_ratings(self.tokens)
        if self._rated is None and self.readout == "rating":
            raise UserError(
                f"{found.source.field}: the tokenizer of {self.id!r} writes a rating as several tokens, so that it "
                "cannot be read; use another readout"
            )

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        if self.readout != "rating" or self._rated is None:
            return super().log_scores(prompts, images)
        before, tokens = self._rated
        labels = pad_labels([[*before, tokens[0]]] * len(prompts))
        logits = self.logits([self.ask(prompt) for prompt in prompts], images, labels)
        return log_expected(logits[:, -1, tokens])

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        fit_patches(processor, config)

    def _measure(self, blank: Image.Image) -> tuple[int, int]:
        """Rows and columns of patches, after the family's resizing to whole blocks within its bounds."""
        _, rows, columns = self.image_processor(images=blank, return_tensors="pt")["image_grid_thw"][0].tolist()
        return rows, columns

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        rows, columns = self.measure(images)
        pixels = preprocess_patches(images, self.image_processor, (rows, columns), self.rounding)
        grids = torch.tensor([[1, rows, columns]] * len(images), device=self.model.device)
        arguments = {"pixel_values": pixels.to(self.model.device, self.model.dtype), "image_grid_thw": grids}
        image_tokens = rows * columns // self.image_processor.merge_size**2
        return VisionInputs(arguments, self.image_token * image_tokens)

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        is_image = (text["input_ids"] == model.config.image_token_id).int()
        return super().forward(model, text | {"mm_token_type_ids": is_image}, vision, labels)


class Qwen35(QwenVL):
    """``Qwen3_5ForConditionalGeneration``: most layers attend linearly. Its template is asked for no thoughts."""

    template_options: ClassVar[Options] = {"enable_thinking": False}


def preprocess_patches(
    images: Tensor, processor: ImageProcessor, grid: tuple[int, int], rounding: bool = True
) -> Tensor:
    """Pixel values of Qwen-VL's image processor.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a ``Qwen2VLImageProcessor``, read for its settings only.
        grid: rows and columns of patches the image is resized to.
        rounding: as in :func:`preprocess`.

    Returns:
        ``[B · rows · columns, 3 · t · p · p]`` as :func:`precise`. Patches that the model merges are neighbours; the t
        frames of a patch are the same still image.
    """
    patch = processor.patch_size
    merge = processor.merge_size
    frames = processor.temporal_patch_size
    rows, columns = grid
    levels = grey_levels(images, rounding)
    if processor.do_resize:
        levels = resize(levels, rows * patch, columns * patch, PIL_RESAMPLE[int(processor.resample)], rounding)
    pixels = normalise(levels, processor)
    cut = pixels.reshape(len(images), 3, rows // merge, merge, patch, columns // merge, merge, patch)
    patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # batch, block row, block column, row, column, channel, y, x
    repeated = patches.unsqueeze(6).expand(*patches.shape[:6], frames, patch, patch)
    return precise(repeated.reshape(len(images) * rows * columns, 3 * frames * patch * patch), images)
