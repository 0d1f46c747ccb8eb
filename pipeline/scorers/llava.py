"""LLaVA-1.5 form: ``transformers.LlavaForConditionalGeneration``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from PIL import Image

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageCounts, Model, Processor, Settings, WholeProcessor
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.scorers.answers import force_after
from noisesmith.pipeline.scorers.fit import fit_image_counts
from noisesmith.pipeline.scorers.vlm import VisionLanguageModel

if TYPE_CHECKING:
    from torch import Tensor

# The system message LLaVA-1.5 and CLIP-FlanT5 were trained with (FastChat's vicuna_v1).
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class ReadByProcessor(VisionLanguageModel):
    """The text goes through the family's own processor, which expands ``<image>`` to as many tokens as patches."""

    processor: WholeProcessor

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        processor, model = super().load(source, dtype)
        processor.tokenizer.padding_side = "left"
        return processor, model

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        vision = config.vision_config
        side: int = vision.image_size // vision.patch_size
        return side**2

    def read(self, text: str, image_text: str = "") -> tuple[list[int], ...]:
        ids: list[int] = self.processor(text=text, images=Image.new("RGB", (8, 8))).input_ids[0]
        return (ids,)

    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        rows = [self.token_ids(text)[0] for text in self.texts(questions)]
        ids, mask = force_after(*self.pad(rows, "left"), labels)
        text = {"input_ids": ids, "attention_mask": mask}
        return self.forward(self.model, text, {"pixel_values": self.pixels(images)}, labels)


class Llava(ReadByProcessor):
    """The ``reference`` readout has the system message before the question, as the official implementation does."""

    template = "USER: <image>\n{question} ASSISTANT:"
    reference_template = f"{SYSTEM} {template}"

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        processor, model = super().load(source, dtype)
        fit_image_counts(cast(ImageCounts, processor), model)
        return processor, model
