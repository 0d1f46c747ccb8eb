"""Gemma 3: ``transformers.Gemma3ForConditionalGeneration``; the image is squashed to the vision tower's square."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Settings
from noisesmith.pipeline.scorers.chat import ChatScorer, VisionInputs
from noisesmith.pipeline.scorers.loaded import Inputs


class Gemma3(ChatScorer):
    """P("Yes") as the first token of the answer. The tokens of an image attend to each other in both directions."""

    not_for_model = ("num_crops",)

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        """See the image once, as the family's whole processor does where it is not asked for crops as well."""
        processor.do_pan_and_scan = False

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        tokens: int = config.mm_tokens_per_image
        return tokens

    def image_mark(self, config: Settings) -> str:
        return self.tokenizer.convert_ids_to_tokens(config.boi_token_id)

    def _measure(self, blank: Image.Image) -> tuple[int]:
        return (self.image_tokens(self.model.config),)

    def vision_inputs(self, images: Tensor) -> VisionInputs:
        (image_tokens,) = self.measure(images)
        end = self.tokenizer.convert_ids_to_tokens(self.model.config.eoi_token_id)
        text = f"\n\n{self.mark}{self.image_token * image_tokens}{end}\n\n"
        return VisionInputs({"pixel_values": self.pixels(images)}, text)

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        is_image = (text["input_ids"] == model.config.image_token_id).int()
        return super().forward(model, text | {"token_type_ids": is_image}, vision, labels)
