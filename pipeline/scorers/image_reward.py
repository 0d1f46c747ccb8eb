"""ImageReward (Xu et al., arXiv 2304.05977): BLIP reads the prompt next to the image, and a small network rates both.

The library has no class for it, so it is composed here from the library's BLIP vision tower and BLIP text encoder. The
published checkpoint (``THUDM/ImageReward``) has the weights and ``med_config.json``, the text encoder's settings.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import BlipConfig, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.modeling_utils import PreTrainedModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.libraries import ImageProcessor, Model
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.weightless import as_loaded
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer, blank_tokens
from noisesmith.pipeline.scorers.preprocess import preprocess_torchvision
from noisesmith.pipeline.scorers.published import (
    base_of,
    filled,
    read_weights,
    renamed,
    settings_of,
    square_processor,
)
from noisesmith.pipeline.scorers.vlm import LoadedProcessor
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit

TOKENIZER = "google-bert/bert-base-uncased"
TEXT_LENGTH = 35  # tokens that the published scorer reads of a prompt
MEAN = 0.16717362830052426  # of the head's output over the authors' images, and its standard deviation
DEVIATION = 1.0333394966054072
VISION = {  # ViT-L/16 at 224 pixels, as BLIP has it
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
_TEXT = (  # what of BERT's settings shapes the text encoder
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps",
)  # fmt: skip

# Parts of the published names → ours, in this order. BLIP's other halves are in the file and not used.
_RENAMED = (
    (r"^mlp\.layers\.", "reward."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj", "vision.embeddings.patch_embedding"),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm", r"vision.encoder.layers.\1.layer_norm"),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv", r"vision.encoder.layers.\1.self_attn.qkv"),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj", r"vision.encoder.layers.\1.self_attn.projection"),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
)
_UNUSED = re.compile(r"^blip\.(vision_proj|text_proj)\.|\.position_ids$")


class RewardModel(PreTrainedModel):  # type: ignore[misc]  # untyped here
    """BLIP's text encoder, whose cross-attention reads the image, and linear layers on its class token."""

    config_class = BlipConfig
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["reward"]  # its numbers are the score itself

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision = BlipVisionModel(config.vision_config)
        self.text = BlipTextModel(config.text_config, add_pooling_layer=False)
        widths = (config.text_config.hidden_size, 1024, 128, 64, 16, 1)
        first, second, third, fourth, last = (nn.Linear(*pair) for pair in pairwise(widths))
        kept = nn.Identity  # where training drops numbers out, so that the layers have their published places
        self.reward = nn.Sequential(first, kept(), second, kept(), third, kept(), fourth, last)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """The standardised reward ``[B]``."""
        seen = self.vision(pixel_values).last_hidden_state
        read = self.text(input_ids, attention_mask=attention_mask, encoder_hidden_states=seen).last_hidden_state
        rated: Tensor = self.reward(read[:, 0].to(self.reward[0].weight.dtype))
        return (rated.squeeze(-1) - MEAN) / DEVIATION


def read_config(source: ModelSource) -> BlipConfig:
    """The architecture, of ``med_config.json`` and of ``vision_config`` in a ``config.json``.

    Raises:
        UserError: a JSON file is not here, or lacks a setting.
    """
    stated = source.read_json("med_config.json")
    missing = [name for name in _TEXT if name not in stated]
    if missing:
        raise UserError(f"{source.field}: med_config.json of {source.id!r} has no {missing[0]}; fetch the model again")
    text = BlipTextConfig(**{name: stated[name] for name in _TEXT})
    vision = BlipVisionConfig(**VISION | dict(settings_of(source).get("vision_config", ())))
    return BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())


def _weights(source: ModelSource) -> dict[str, Tensor]:
    """The checkpoint's weights under the names of :class:`RewardModel`.

    Raises:
        UserError, BrokenModelError: as :func:`read_weights`.
    """
    stored = read_weights(source)
    return {renamed(name, _RENAMED): value for name, value in stored.items() if not _UNUSED.search(name)}


class ImageReward(LoadedScorer):
    """s = σ(r) of the reward r that its authors publish, so that r is the score's log-odds, log s − log(1 − s).

    r has mean 0 and standard deviation 1 over its authors' images. The model was trained to tell two images of one
    prompt apart by σ of the difference of their rewards, so s is about the chance that people prefer an image to an
    average one. A calibration with a temperature divides r by it.
    """

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        source = found.source
        with explained(f"{source.field}: {source.id!r} cannot be loaded"):
            tokenizer = auto_tokenizer(base_of(source, TOKENIZER))
            self.processor = LoadedProcessor(tokenizer, self.load_image_processor(found))
            model = filled(RewardModel, read_config(source), _weights(source), source, found.dtype)
        self.id = source.id
        self.revision = found.revision
        self.model = model.to(device).eval().requires_grad_(False)
        self.rounding = rounding

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self.rewards(prompts, images))

    def rewards(self, prompts: list[str], images: Tensor) -> Tensor:
        """The rewards r ``[B]`` as published, for images ``[B, 3, H, W]`` in [0, 1]; differentiable."""
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(
            [plain(prompt, tokenizer) for prompt in prompts],
            padding="longest",
            truncation=True,
            max_length=TEXT_LENGTH,
            return_tensors="pt",
        )
        pixels = preprocess_torchvision(images, self.processor.image_processor, self.rounding, by_pil=True)
        device = self.model.device
        text = {"input_ids": tokens["input_ids"].to(device), "attention_mask": tokens["attention_mask"].to(device)}
        return cast(Tensor, self.model(**text, pixel_values=pixels.to(device, self.model.dtype)))

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        with torch.device("meta"):
            model = RewardModel(read_config(found.source))
        return as_loaded(model, found.dtype)

    @classmethod
    def load_image_processor(cls, found: FoundScorer) -> ImageProcessor:
        return square_processor(read_config(found.source).vision_config.image_size)

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        return [TextLimit("text encoder", TEXT_LENGTH, auto_tokenizer(base_of(found.source, TOKENIZER)))]

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        ids, mask = blank_tokens(batch, TEXT_LENGTH)
        return {"input_ids": ids, "attention_mask": mask}

    @classmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        return torch.nn.functional.logsigmoid(cast(Tensor, model(**text, **vision)))
