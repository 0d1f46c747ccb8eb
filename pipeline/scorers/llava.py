"""LLaVA-1.5 form: ``transformers.LlavaForConditionalGeneration`` asked a yes/no question about each image."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError, reason
from pipeline.models import ModelSource
from pipeline.scorers.preprocess import preprocess

TEMPLATE = "USER: <image>\n{question} ASSISTANT:"


class Llava:
    """P("Yes") as the next token after the question, by the model's own classes.

    The text goes through the family's own processor; the image goes through :func:`preprocess`, which equals that
    processor and has a gradient.
    """

    def __init__(
        self,
        source: ModelSource,
        dtype: torch.dtype,
        device: str,
        *,
        question: str,
        readout: str,
        rounding: bool = True,
    ) -> None:
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        where = {"revision": source.revision, "local_files_only": source.local}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(source.location, **where)
            model = LlavaForConditionalGeneration.from_pretrained(
                source.location, dtype=dtype, use_safetensors=True, **where
            )
        except Exception as error:  # as in the generators' loaders
            raise UserError(f"{source.field}: {source.id!r} cannot be loaded ({reason(error)})") from error
        self.id, self.revision = source.id, source.resolved_revision()
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.question, self.readout, self.rounding = question, readout, rounding
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        self.yes, self.no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
        self._blank = Image.new("RGB", (8, 8))

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        logits = self.logits(prompts, images).float() if images.dtype != torch.float64 else self.logits(prompts, images)
        if self.readout == "yes_no":
            return torch.log_softmax(logits[:, [self.yes, self.no]], dim=-1)[:, 0]
        return torch.log_softmax(logits, dim=-1)[:, self.yes]

    def logits(self, prompts: list[str], images: Tensor) -> Tensor:
        """Next-token logits ``[B, vocabulary]`` after the question."""
        questions = [self.question.replace("{prompt}", prompt) for prompt in prompts]
        texts = [TEMPLATE.replace("{question}", question) for question in questions]
        inputs = self.processor(text=texts, images=[self._blank] * len(texts), padding=True, return_tensors="pt")
        pixels = preprocess(images, self.processor.image_processor, self.rounding)
        output = self.model(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            use_cache=False,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    @torch.no_grad()
    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        return [float(value) for value in self.log_scores(prompts, images.to(self.model.device)).exp()]
