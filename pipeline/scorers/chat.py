"""Chat models whose image takes more tokens the larger it is; the text follows the checkpoint's own chat template."""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import (
    ChatTemplate,
    ImageProcessor,
    Model,
    Options,
    Processor,
    Settings,
    Tokenizer,
)
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_image_processor, chat_template
from noisesmith.pipeline.scorers.answers import force_after
from noisesmith.pipeline.scorers.vlm import LoadedProcessor, VisionLanguageModel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VisionInputs:
    """A batch of images of one size, as a model takes it.

    Attributes:
        arguments: those of the model's forward pass.
        image_text: what the tokenizer reads in place of each image.
    """

    arguments: dict[str, Tensor]
    image_text: str


class ChatScorer(VisionLanguageModel):
    """P("Yes") as the first token of the answer, for families with anyres tiling or native resolution.

    The library's processors count an image's tokens while they process it, which would cost a pass over every image
    that has no gradient. So the text is expanded here: the mark where the template places the image becomes the
    ``image_text``, and only the tokenizer sees the text.

    Raises:
        UserError: as the base class; or the model has no chat template.

    Attributes:
        template_options: further variables of the family's chat template.
    """

    template_options: ClassVar[Options] = {}

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        files = self.files_of(source)
        where = {"revision": files.revision, "local_files_only": files.local}
        self.tokenizer, self.image_processor, self.templated = self._load_processors(files.location, where)
        if not self.templated.chat_template:
            raise UserError(
                f"{files.field}: {files.id!r} has no chat template; save its processor with chat_template.jinja"
            )
        model = self.load_model(source, dtype)
        self.fit_image_processor(self.image_processor, model.config)
        self._sizes: dict[tuple[int, int], tuple[int, ...]] = {}
        self.tokenizer.padding_side = "left"
        self.image_token: str = self.tokenizer.convert_ids_to_tokens(model.config.image_token_id)
        self.mark = self.image_mark(model.config)
        return LoadedProcessor(self.tokenizer, self.image_processor), model

    @classmethod
    def files_of(cls, source: ModelSource) -> ModelSource:
        """The model that has the files of the checkpoint's processor: itself, where it has all."""
        return source

    def _load_processors(self, location: str, where: Options) -> tuple[Tokenizer, ImageProcessor, ChatTemplate]:
        """The tokenizer, the image processor, and the one of the checkpoint's processors that has the chat template.

        Most families' whole processors also want a video processor, which needs torchvision. So their parts are loaded
        one by one, and the tokenizer gets the whole processor's template.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(location, **where)
        tokenizer.chat_template = chat_template(location, where) or tokenizer.chat_template
        return tokenizer, auto_image_processor(location, where), tokenizer

    def image_mark(self, config: Settings) -> str:
        """What the chat template writes where the image is."""
        return self.image_token

    @abstractmethod
    def _measure(self, blank: Image.Image) -> tuple[int, ...]:
        """The numbers that the library's processor derives from the size of an image; ``blank`` is black."""

    def measure(self, images: Tensor) -> tuple[int, ...]:
        """:meth:`_measure` of the size of images ``[B, 3, H, W]``, measured once per size."""
        height, width = images.shape[-2:]
        if (height, width) not in self._sizes:
            self._sizes[height, width] = self._measure(Image.new("RGB", (width, height)))
        return self._sizes[height, width]

    @abstractmethod
    def vision_inputs(self, images: Tensor) -> VisionInputs:
        """What the family's own processor makes of images ``[B, 3, H, W]`` in [0, 1], with a gradient."""

    @classmethod
    def wrap(cls, question: str) -> str:
        return question  # the template around it is in the checkpoint's files, and takes a few tokens

    def text_inputs(self, questions: list[str], image_text: str) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``[B, T]`` of the questions, padded on the left."""
        image_text = sys.intern(image_text)  # may be long, and is part of what the tokens are kept by
        ids, mask = self.pad([self.token_ids(question, image_text)[0] for question in questions], "left")
        return {"input_ids": ids, "attention_mask": mask}

    def read(self, text: str, image_text: str = "") -> tuple[list[int], ...]:
        conversation = self._conversation(text)
        bos = self.tokenizer.bos_token
        tokens = self.tokenizer(
            conversation.replace(self.mark, image_text, 1),
            add_special_tokens=bos is None or not conversation.startswith(bos),
        )
        return (tokens.input_ids,)

    def _conversation(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text: str = self.templated.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, **self.template_options
        )
        return text

    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        vision = self.vision_inputs(images)
        text = self.text_inputs(questions, vision.image_text)
        ids, mask = force_after(text["input_ids"], text["attention_mask"], labels)
        text = {"input_ids": ids, "attention_mask": mask}
        return self.forward(self.model, text, vision.arguments, labels)
