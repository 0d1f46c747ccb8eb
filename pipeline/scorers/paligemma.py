"""PaliGemma 2: ``transformers.PaliGemmaForConditionalGeneration``."""

from __future__ import annotations

import torch
from torch import Tensor

from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.scorers.llava import ReadByProcessor
from noisesmith.pipeline.scorers.loaded import Inputs


class PaliGemma(ReadByProcessor):
    """Asked as the "mix" checkpoints were trained for questions; they answer in lower case.

    Image and question attend to each other in both directions; the answer comes after them. The processor puts a line
    break last.
    """

    template = "<image>answer en {question}"
    answers = ("yes", "no")

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        """As the base class; the answer's tokens, which follow the question, are of type 1."""
        asked = text["input_ids"].shape[1] - (labels.shape[1] - 1)
        types = torch.zeros_like(text["input_ids"])
        types[:, asked:] = 1
        return super().forward(model, text | {"token_type_ids": types}, vision, labels)
