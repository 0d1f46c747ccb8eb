"""InstructBLIP: ``transformers.InstructBlipForConditionalGeneration``, over Flan-T5 or over Vicuna."""

from __future__ import annotations

import torch
from torch import Tensor

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.libraries import Model, Processor, Settings, Tokenizer, WholeProcessor
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.weightless import transformers_config
from noisesmith.pipeline.scorers.answers import decoder_inputs, force_after
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.loaded import Inputs, blank_tokens
from noisesmith.pipeline.scorers.vlm import VisionLanguageModel
from noisesmith.pipeline.text.limits import TextLimit


class InstructBlip(VisionLanguageModel):
    """The Q-Former and the language model both read the question; the query tokens come before it.

    Flan-T5 answers in its decoder. Vicuna answers after the question, so its rows are padded on the left, before the
    query tokens: no gap lies between them and the text, and a row's positions do not depend on its batch.
    """

    processor: WholeProcessor
    processor_parts = ("tokenizer", "image_processor", "qformer_tokenizer")
    template = "Question: {question}"
    answers = ("yes", "no")

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        processor, model = super().load(source, dtype)
        if model.config.image_token_id is None:
            raise UserError(
                f"{source.field}: config.json of {source.id!r} has no image_token_index; give a newer revision of it"
            )
        return processor, model

    def tokenizers(self) -> list[Tokenizer]:
        return [self.processor.tokenizer, self.processor.qformer_tokenizer]

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        config = transformers_config(found.source, found.source.class_name)
        questions = auto_tokenizer(found.source, subfolder="qformer_tokenizer")
        tokens = config.qformer_config.max_position_embeddings
        return [
            TextLimit("Q-Former", tokens, questions, template=cls.wrap(found.question)),
            *super().text_limits(found),
        ]

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        tokens: int = config.num_query_tokens
        return tokens

    def read(self, text: str, image_text: str = "") -> tuple[list[int], ...]:
        """What the Q-Former reads, and what the language model reads."""
        config = self.model.config
        limit = config.qformer_config.max_position_embeddings
        queried: list[int] = self.processor.qformer_tokenizer(text, truncation=True, max_length=limit).input_ids
        queries = [config.image_token_id] * config.num_query_tokens
        return queried, [*queries, *self.processor.tokenizer(text).input_ids]

    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        config = self.model.config
        queried, rows = zip(*(self.token_ids(text) for text in self.texts(questions)), strict=True)
        question_ids, question_mask = self.pad(queried, "right")
        if config.use_decoder_only_language_model:
            ids, mask = force_after(*self.pad(rows, "left"), labels)
        else:
            ids, mask = self.pad(rows, "right")
        text = {
            "input_ids": ids,
            "attention_mask": mask,
            "qformer_input_ids": question_ids,
            "qformer_attention_mask": question_mask,
        }
        return self.forward(self.model, text, {"pixel_values": self.pixels(images)}, labels)

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        if model.config.use_decoder_only_language_model:
            return super().forward(model, text, vision, labels)
        answer = decoder_inputs(model.language_model.config, labels, text["input_ids"].device)
        logits: Tensor = model(**text, **vision, use_cache=False, decoder_input_ids=answer).logits
        return logits

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        ids, mask = blank_tokens(batch, length + model.config.num_query_tokens)
        ids[:, length:] = model.config.image_token_id
        question, question_mask = blank_tokens(batch, length)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "qformer_input_ids": question,
            "qformer_attention_mask": question_mask,
        }
