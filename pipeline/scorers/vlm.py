"""Base class of vision-language families: questions about each image, and how the answers are read.

``yes``
    P(first token of "Yes") as the answer's first token, over the whole vocabulary.
``yes_no``
    The same, over the first tokens of "Yes" and "No" only.
``reference``
    The score of Noise Diffusion's official implementation (arXiv 2411.16503): exp(−mean cross-entropy) over *all*
    label tokens, teacher-forced. The labels are "Yes" and the end token, so the score is √(P(Yes) · P(end | Yes)). It
    sees images as that implementation does: :func:`preprocess_reference`.
``caption``
    How likely the model describes the image by the prompt: exp of the mean log-probability of the prompt's tokens,
    teacher-forced as the answer to :data:`DESCRIBE`.
``contrastive``
    The prompt among edits of it, which its images do not show: the softmax over log P(yes) − log P(no) of all of them.
    Without an edit, the same as ``yes_no``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor, Settings, Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_processor, auto_tokenizer
from noisesmith.pipeline.models.weightless import transformers_config
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers.answers import each_image, exact, log_probabilities, mean_log_probability, pad_labels
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.fit import fit_padding
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer, blank_tokens
from noisesmith.pipeline.scorers.preprocess import preprocess, preprocess_reference
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.edits import edits
from noisesmith.pipeline.text.limits import TextLimit, stated_limit

if TYPE_CHECKING:
    from torch import Tensor

DESCRIBE = "What does this image show?"
MOST_TEXTS = 2048  # whose tokens are kept: 64 MiB where an image stands for 4,000 of them


@dataclass(frozen=True)
class LoadedProcessor:
    """What a processor of the library consists of, for families where the library's own is not used."""

    tokenizer: Tokenizer
    image_processor: ImageProcessor


class VisionLanguageModel(LoadedScorer):
    """A frozen model asked about each image: whether it shows the whole prompt, or about the prompt's parts.

    A family gives its ``template`` around the question, its ``answers``, :meth:`read` and :meth:`logits`; where the
    library has no class or no processor for it, also :meth:`load`.

    Args:
        found: the model that was found; its class name is the family's class in transformers.
        rounding: see :func:`preprocess`.

    Raises:
        UserError: the model cannot be loaded, lacks weights, or its tokenizer gives both answers the same first token.
    """

    processor_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "image_processor")
    template: ClassVar[str]
    reference_template: ClassVar[str | None] = None  # where the official implementation's differs
    answers: ClassVar[tuple[str, str]] = ("Yes", "No")
    answer_prefix: ClassVar[str] = ""  # between the question and an answer, where the model is to say it
    answers_questions: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True
    readouts: ClassVar[tuple[str, ...]] = ("yes", "yes_no", "caption", "contrastive")

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        source = found.source
        self.token_ids = lru_cache(MOST_TEXTS)(self._read_into_tensors)  # the same are asked round after round
        with explained(f"{source.field}: {source.id!r} cannot be loaded"):
            self.processor, model = self.load(source, found.dtype)
        self.id = source.id
        self.revision = found.revision
        self.model = model.to(device).eval().requires_grad_(False)
        self.question = found.question
        self.readout = found.readout
        self.hint = found.hint
        self.at_once = found.at_once
        self.rounding = rounding
        tokenizer = self.processor.tokenizer
        fit_padding(tokenizer)
        yes = self.tokens(self.answers[0])
        no = self.tokens(self.answers[1])
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
        processor: Processor = auto_processor(source.location, where, self.processor_parts)
        return processor, self.load_model(source, dtype)

    @abstractmethod
    def read(self, text: str, image_text: str = "") -> tuple[list[int], ...]:
        """The token ids of one text, one list per piece that the model reads. ``token_ids`` keeps them as tensors.

        Args:
            image_text: what stands for the image, where it is not the family's processor that knows.
        """

    def _read_into_tensors(self, text: str, image_text: str = "") -> tuple[Tensor, ...]:
        return tuple(torch.tensor(ids) for ids in self.read(text, image_text))

    @abstractmethod
    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[B, L, vocabulary]`` of each label token ``[B, L]``, those before it given; differentiable.

        Args:
            questions: as they are asked, free of control tokens.
            labels: of :func:`pad_labels`; logits where there is none mean nothing.
        """

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[B]`` for images ``[B, 3, H, W]`` in [0, 1]; see :class:`ImageScorer`.

        With the ``reference`` readout the images may overshoot [0, 1], as the decoder's raw output does.
        """
        if self.readout == "contrastive":
            return self.log_contrasts(prompts, [edits(prompt) for prompt in prompts], images)
        if self.readout == "caption":
            captions = pad_labels([self.tokens(prompt) for prompt in prompts])
            return mean_log_probability(self.logits([DESCRIBE] * len(prompts), images, captions), captions)
        labels = pad_labels([self.labels] * len(prompts))
        logits = self.logits([self.ask(prompt) for prompt in prompts], images, labels)
        if self.readout == "yes_no":
            return self._yes_and_no(logits)[:, 0]
        return mean_log_probability(logits, labels)

    def log_answers(self, questions: Sequence[Sequence[Question]], images: Tensor) -> list[Tensor]:
        """log P(answer) ``[n]`` of the n questions about each image; see :class:`QuestionScorer`.

        Yes and no are read by the readout. Any other answer has the probability of all its tokens one after the other,
        since the first alone may begin other words too; it is spelled with a capital letter where the family's yes is.
        """
        asked = [question for about_image in questions for question in about_image]

        def ask(batch: range, shown: Tensor) -> Tensor:
            return self._log_answers(asked[batch.start : batch.stop], shown)

        return each_image(ask, [len(about_image) for about_image in questions], images, self.at_once)

    def log_contrasts(self, prompts: list[str], edited: Sequence[Sequence[str]], images: Tensor) -> Tensor:
        """log s ``[B]`` of each prompt among its edits; see ``contrastive`` above."""
        asked = []
        for prompt, others in zip(prompts, edited, strict=True):
            asked += [self.ask(text) for text in (prompt, *others)]

        def ask(batch: range, shown: Tensor) -> Tensor:
            labels = pad_labels([[self.yes]] * len(batch))
            both = self._yes_and_no(self.logits(asked[batch.start : batch.stop], shown, labels))
            return both[:, 0] - both[:, 1]

        chosen = []
        for odds in each_image(ask, [1 + len(others) for others in edited], images, self.at_once):
            if len(odds) == 1:
                chosen.append(torch.nn.functional.logsigmoid(odds[0]))
            else:
                chosen.append(torch.log_softmax(odds, dim=0)[0])
        return torch.stack(chosen)

    def _log_answers(self, questions: Sequence[Question], images: Tensor) -> Tensor:
        texts = [plain(f"{item.question} {self.hint}".rstrip(), *self.tokenizers()) for item in questions]
        words = [item.answer.strip().casefold() for item in questions]
        labels = pad_labels([self._spell(item.answer) for item in questions])
        logits = self.logits(texts, images, labels)
        spoken = log_probabilities(logits, labels).sum(1)
        if self.readout != "yes_no":
            return spoken
        both = self._yes_and_no(logits)
        for place, word in enumerate(("yes", "no")):
            is_word = torch.tensor([given == word for given in words], device=logits.device)
            spoken = torch.where(is_word, both[:, place], spoken)
        return spoken

    def _spell(self, answer: str) -> list[int]:
        """The tokens of an answer as the model gives it."""
        text = answer.strip()
        if text.casefold() in ("yes", "no"):
            return [self.yes if text.casefold() == "yes" else self.no]
        if self.answers[0].istitle():
            text = text[:1].upper() + text[1:]
        ids = self.tokens(text)
        if not ids:
            raise ValueError(f"the tokenizer of {self.id} reads nothing of the answer {answer!r}")
        return ids

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text that the model says, free of control tokens."""
        if not text:
            return []
        said = self.answer_prefix + plain(text, *self.tokenizers())
        ids: list[int] = self.processor.tokenizer(said, add_special_tokens=False).input_ids
        return ids

    def _yes_and_no(self, logits: Tensor) -> Tensor:
        """log P(yes) and log P(no) ``[B, 2]`` where the answer is one of them."""
        return torch.log_softmax(exact(logits[:, 0, [self.yes, self.no]]), dim=-1)

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
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        """Logits ``[B, L, vocabulary]`` of the answer's tokens ``[B, L]``, by the library's model."""
        logits: Tensor = model(**text, **vision, use_cache=False, logits_to_keep=labels.shape[1]).logits
        return logits

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        """As the base class; the text has as many image tokens as the image has features."""
        features = model.get_image_features(**vision).pooler_output
        image_tokens = sum(feature.shape[:-1].numel() for feature in features) // batch
        return cls.blank_question(model, batch, length, image_tokens)

    @classmethod
    def blank_question(cls, model: Model, batch: int, length: int, image_tokens: int) -> Inputs:
        """Token ids and mask of questions of ``length`` tokens with an image of ``image_tokens``."""
        ids, mask = blank_tokens(batch, length + image_tokens)
        ids[:, length:] = model.config.image_token_id
        return {"input_ids": ids, "attention_mask": mask}

    @classmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        batch = len(next(iter(text.values())))
        labels = pad_labels([[0]] * batch)
        return mean_log_probability(cls.forward(model, text, vision, labels), labels)

    def texts(self, questions: list[str]) -> list[str]:
        """The text that the model reads: each question inside the family's template."""
        template = (self.reference_template or self.template) if self.readout == "reference" else self.template
        return [template.replace("{question}", question) for question in questions]

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

    def pad(self, rows: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
        """Token ids ``[B, longest]``, padded on the left or right, and their attention mask."""
        fill = self.processor.tokenizer.pad_token_id or 0  # masked, so any will do where there is none
        ids, mask = (
            torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=value, padding_side=side).to(
                self.model.device
            )
            for values, value in ((rows, fill), ([torch.ones_like(row) for row in rows], 0))
        )
        return ids, mask
