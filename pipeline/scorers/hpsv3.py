"""HPSv3 (Ma et al., arXiv 2508.03789): Qwen2-VL-7B rates an image, and a small network reads the rating.

The library has no class for it, so it is composed here from the library's Qwen2-VL without its output layer. The
published checkpoint (``MizzenAI/HPSv3``) has weights alone; architecture, tokenizer and chat template are those of the
model that was trained further.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLModel, Qwen2VLPreTrainedModel

from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor, Settings
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.weightless import as_loaded, transformers_config
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.instructions import HPSV3
from noisesmith.pipeline.scorers.loaded import Inputs
from noisesmith.pipeline.scorers.published import base_of, filled, read_weights, renamed
from noisesmith.pipeline.scorers.qwen_vl import QwenVL
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit

BASE = "Qwen/Qwen2-VL-7B-Instruct"
REWARD = "<|Reward|>"  # the token whose hidden state is read; it comes after all of the tokenizer's own
IMAGE_TOKENS = 256  # that an image is resized to, or a few more where its sides do not divide well
INSTRUCTION_TOKENS = 512  # of the published text, by the published tokenizer
FLUX_DEV = 10.43  # the mean of FLUX.1-dev's images on the authors' benchmark

# Parts of the published names, which are those of an older version of the library → ours.
_RENAMED = ((r"^model\.", "model.language_model."), (r"^visual\.", "model.visual."))
_UNUSED = "lm_head.weight"  # in the file, and of no use here


class RatingModel(Qwen2VLPreTrainedModel):  # type: ignore[misc]  # untyped here
    """Qwen2-VL, and linear layers on the last hidden state of the reward token.

    The positions of an image's tokens count up as those of words do, since the published code asks for no others.
    """

    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["rm_head"]  # its numbers are the score itself

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config)
        self.model = Qwen2VLModel(config)
        width = config.text_config.hidden_size
        kept = nn.Identity()  # where training drops numbers out, so that the layers have their published places
        self.rm_head = nn.Sequential(
            nn.Linear(width, 1024), nn.ReLU(), kept, nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
        )
        self.reward_token = config.text_config.vocab_size - 1
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **vision: Tensor) -> Tensor:
        """The mean μ and the logarithm of the deviation of the rating, ``[B, 2]``; texts are padded on the left."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        hidden = self.model(input_ids, attention_mask, positions, use_cache=False, **vision).last_hidden_state
        place = (input_ids == self.reward_token).int().argmax(1)
        read = hidden[torch.arange(len(place), device=hidden.device), place]
        return cast(Tensor, self.rm_head(read.to(self.rm_head[0].weight.dtype)))


class HpsV3(QwenVL):
    """s = σ(μ − 10.43) of the score μ that its authors publish, so that μ is the score's log-odds + 10.43.

    The model was trained to tell two images of one prompt apart by σ of the difference of their ratings, and FLUX.1-dev
    has 10.43 on its authors' benchmark. So s is about the chance that people prefer an image to one of FLUX.1-dev.
    """

    answers_questions = False
    quantizes = False
    readouts = ("yes", "yes_no")

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        processor, model = super().load(source, dtype)
        processor.tokenizer.add_tokens([REWARD], special_tokens=True)
        return processor, model

    @classmethod
    def files_of(cls, source: ModelSource) -> ModelSource:
        return base_of(source, BASE)

    def load_model(self, source: ModelSource, dtype: torch.dtype) -> Model:
        stored = read_weights(source)
        weights = {renamed(name, _RENAMED): value for name, value in stored.items() if name != _UNUSED}
        return filled(RatingModel, _read_config(source), weights, source, dtype)

    def ask(self, prompt: str) -> str:
        return self.wrap("").replace("{prompt}", plain(prompt, *self.tokenizers()))

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self.ratings(prompts, images) - FLUX_DEV)

    def ratings(self, prompts: list[str], images: Tensor) -> Tensor:
        """The scores μ ``[B]`` as published, for images ``[B, 3, H, W]`` in [0, 1]; differentiable."""
        vision = self.vision_inputs(images)
        text = self.text_inputs([self.ask(prompt) for prompt in prompts], vision.image_text)
        return cast(Tensor, self.model(**text, **vision.arguments))[:, 0]

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        """Any image is resized to as many pixels as the published code gives it."""
        super().fit_image_processor(processor, config)
        pixels = IMAGE_TOKENS * (processor.patch_size * processor.merge_size) ** 2
        processor.size = {"shortest_edge": pixels, "longest_edge": pixels}

    @classmethod
    def wrap(cls, question: str) -> str:
        return HPSV3

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        with torch.device("meta"):
            model = RatingModel(_read_config(found.source))
        return as_loaded(model, found.dtype)

    @classmethod
    def load_image_processor(cls, found: FoundScorer) -> ImageProcessor:
        return super().load_image_processor(_on_base(found))

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        return super().text_limits(_on_base(found))

    @classmethod
    def image_tokens(cls, config: Settings) -> int:
        return IMAGE_TOKENS

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        return super().blank_text(model.model, vision, batch, INSTRUCTION_TOKENS + length)

    @classmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        return torch.nn.functional.logsigmoid(cast(Tensor, model(**text, **vision))[:, 0] - FLUX_DEV)


def _on_base(found: FoundScorer) -> FoundScorer:
    return replace(found, source=base_of(found.source, BASE))


def _read_config(source: ModelSource) -> Qwen2VLConfig:
    """The base model's architecture, with as many embeddings as its tokenizer has tokens, and one for the reward."""
    base = base_of(source, BASE)
    config = transformers_config(base, Qwen2VLForConditionalGeneration.__name__)
    config.text_config.vocab_size = len(auto_tokenizer(base)) + 1
    return cast(Qwen2VLConfig, config)
