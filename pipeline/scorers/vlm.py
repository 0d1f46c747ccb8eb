"""Base class of vision-language families: a yes/no question about each image, and three ways to read the answer.

``yes``
    P(first token of "Yes") as the answer's first token, over the whole vocabulary.
``yes_no``
    The same, over the first tokens of "Yes" and "No" only.
``reference``
    The score of Noise Diffusion's official implementation (arXiv 2411.16503): exp(−mean cross-entropy) over *all*
    label tokens, teacher-forced. The labels are "Yes" and the end token, so the score is √(P(Yes) · P(end | Yes)). It
    sees images as that implementation does: :func:`preprocess_reference`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor, Settings, Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_processor, auto_tokenizer
from noisesmith.pipeline.models.weightless import transformers_config
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.fit import fit_padding
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer, blank_tokens
from noisesmith.pipeline.scorers.preprocess import preprocess, preprocess_reference
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit, stated_limit


@dataclass(frozen=True)
class LoadedProcessor:
    """What a processor of the library consists of, for families where the library's own is not used."""

    tokenizer: Tokenizer
    image_processor: ImageProcessor


class VisionLanguageModel(LoadedScorer):
    """A frozen model asked a yes/no question about each image.

    A family gives its ``template`` around the question, its ``answers``, and :meth:`logits`; where the library has no
    class or no processor for it, also :meth:`load`.

    Args:
        found: the model that was found; its class name is the family's class in transformers.
        rounding: see :func:`preprocess`.

    Raises:
        UserError: the model cannot be loaded, lacks weights, or its tokenizer gives both answers the same first token.
    """

    template: ClassVar[str]
    reference_template: ClassVar[str | None] = None  # where the official implementation's differs
    answers: ClassVar[tuple[str, str]] = ("Yes", "No")

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        source = found.source
        with explained(f"{source.field}: {source.id!r} cannot be loaded"):
            self.processor, model = self.load(source, found.dtype)
        self.id = source.id
        self.revision = found.revision
        self.model = model.to(device).eval().requires_grad_(False)
        self.question = found.question
        self.readout = found.readout
        self.rounding = rounding
        tokenizer = self.processor.tokenizer
        fit_padding(tokenizer)
        yes = tokenizer(self.answers[0], add_special_tokens=False).input_ids
        no = tokenizer(self.answers[1], add_special_tokens=False).input_ids
        self.yes: int = yes[0]
        self.no: int = no[0]
        if self.yes == self.no:
            raise UserError(f"{source.field}: the tokenizer of {source.id!r} cannot tell {' from '.join(self.answers)}")
        self.labels = [*yes, tokenizer.eos_token_id] if self.readout == "reference" else [self.yes]

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        """The processor (with ``tokenizer`` and ``image_processor``) and the model, by the library's own classes.

        Raises:
            UserError: weights are pickled and not allowed, or some are missing.
        """
        where = {"revision": source.revision, "local_files_only": source.local}
        processor: Processor = auto_processor(source.location, where)
        return processor, self.load_model(source, dtype)

    @abstractmethod
    def logits(self, prompts: list[str], images: Tensor, labels: Sequence[int]) -> Tensor:
        """Logits ``[B, len(labels), vocabulary]`` of each label token, those before it given; differentiable."""

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[B]`` for images ``[B, 3, H, W]`` in [0, 1]; see :class:`ImageScorer`.

        With the ``reference`` readout the images may overshoot [0, 1], as the decoder's raw output does.
        """
        logits = self.logits(prompts, images, self.labels)
        if self.readout == "yes_no":
            both = _exact(logits[:, 0, [self.yes, self.no]])
            return torch.log_softmax(both, dim=-1)[:, 0]
        return mean_log_probability(logits, self.labels)

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        """The language model's: its context, less what the image takes of it. A longer question is not cut."""
        config = transformers_config(found.source, found.source.class_name)
        tokenizer = auto_tokenizer(found.source)
        context = getattr(config.get_text_config(), "max_position_embeddings", None) or stated_limit(tokenizer)
        tokens = context - cls.image_tokens(config) if context else None
        return [TextLimit("language model", tokens, tokenizer, truncates=False, template=cls.wrap(found.question))]

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        """The most tokens that an image takes of the language model's context; 0 where that is not known."""
        return 0

    @classmethod
    def wrap(cls, question: str) -> str:
        """A question, with ``{prompt}`` in it, inside the family's template."""
        return cls.template.replace("{question}", question)

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Sequence[int]) -> Tensor:
        """Logits ``[B, len(labels), vocabulary]`` of the answer's tokens, by the library's model."""
        logits: Tensor = model(**text, **vision, use_cache=False, logits_to_keep=len(labels)).logits
        return logits

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        """As the base class; the text has as many image tokens as the image has features."""
        features = model.get_image_features(**vision).pooler_output
        image_tokens = sum(feature.shape[:-1].numel() for feature in features) // batch
        ids, mask = blank_tokens(batch, length + image_tokens)
        ids[:, length:] = model.config.image_token_id
        return {"input_ids": ids, "attention_mask": mask}

    @classmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        labels = (0,)
        return mean_log_probability(cls.forward(model, text, vision, labels), labels)

    def texts(self, prompts: list[str]) -> list[str]:
        """The text that the model reads: the question about each prompt, inside the family's template."""
        template = (self.reference_template or self.template) if self.readout == "reference" else self.template
        return [template.replace("{question}", self.ask(prompt)) for prompt in prompts]

    def ask(self, prompt: str) -> str:
        """The question about a prompt, free of control tokens."""
        return plain(self.question.replace("{prompt}", prompt), *self.tokenizers())

    def tokenizers(self) -> list[Tokenizer]:
        """All tokenizers that read the question."""
        return [self.processor.tokenizer]

    def pixels(self, images: Tensor) -> Tensor:
        """Pixel values ``[B, 3, h, w]`` on the model's device, in its dtype."""
        if self.readout == "reference":
            pixels = preprocess_reference(images, self.processor.image_processor)
        else:
            pixels = preprocess(images, self.processor.image_processor, self.rounding)
        return pixels.to(self.model.device, self.model.dtype)

    def pad(self, rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids ``[B, longest]``, padded on the left or right, and their attention mask."""
        fill = self.processor.tokenizer.pad_token_id or 0  # masked, so any will do where there is none
        ids, mask = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in values], batch_first=True, padding_value=value, padding_side=side
            ).to(self.model.device)
            for values, value in ((rows, fill), ([[1] * len(row) for row in rows], 0))
        )
        return ids, mask


def mean_log_probability(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """The mean log-probability ``[B]`` of the label tokens by logits ``[B, len(labels), vocabulary]``."""
    logits = _exact(logits)
    wanted = torch.tensor(labels, device=logits.device).expand(len(logits), -1)
    return torch.log_softmax(logits, dim=-1).gather(2, wanted[:, :, None])[:, :, 0].mean(1)


def _exact(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are: half precision is too coarse for a log-probability."""
    return logits if logits.dtype == torch.float64 else logits.float()


def force_after(ids: Tensor, mask: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, L]`` and mask with all labels but the last appended, for a decoder-only model."""
    forced = ids.new_tensor(labels[:-1]).expand(len(ids), -1)
    return torch.cat([ids, forced], 1), torch.cat([mask, torch.ones_like(forced)], 1)


def decoder_inputs(config: Settings, labels: Sequence[int], batch: int, device: torch.device) -> Tensor:
    """``[batch, len(labels)]`` inputs that make a T5 decoder predict each label, those before it given."""
    start = getattr(config, "decoder_start_token_id", None)
    start = config.pad_token_id if start is None else start
    return torch.tensor([start, *labels[:-1]], device=device).expand(batch, -1)
