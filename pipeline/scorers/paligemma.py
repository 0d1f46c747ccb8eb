"""PaliGemma 2: ``transformers.PaliGemmaForConditionalGeneration``."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from noisesmith.pipeline.models.libraries import Model, Processor, Settings, WholeProcessor
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.scorers.answers import force_after
from noisesmith.pipeline.scorers.loaded import Inputs
from noisesmith.pipeline.scorers.vlm import VisionLanguageModel


class PaliGemma(VisionLanguageModel):
    """Asked as the "mix" checkpoints were trained for questions; they answer in lower case.

    Image and question attend to each other in both directions; the answer comes after them. The text goes through the
    family's own processor, which puts the image first and a line break last.
    """

    processor: WholeProcessor
    template = "answer en {question}"
    answers = ("yes", "no")

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
        ids: list[int] = self.processor(text=f"<image>{text}", images=Image.new("RGB", (8, 8))).input_ids[0]
        return (ids,)

    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        rows = [self.token_ids(text)[0] for text in self.texts(questions)]
        ids, mask = force_after(*self.pad(rows, "left"), labels)
        text = {"input_ids": ids, "attention_mask": mask}
        return self.forward(self.model, text, {"pixel_values": self.pixels(images)}, labels)

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        """As the base class; the answer's tokens, which follow the question, are of type 1."""
        asked = text["input_ids"].shape[1] - (labels.shape[1] - 1)
        types = torch.zeros_like(text["input_ids"])
        types[:, asked:] = 1
        return super().forward(model, text | {"token_type_ids": types}, vision, labels)
