"""CLIP-FlanT5 (Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation", ECCV 2024).

The library has no class for it, so it is composed here from the library's T5 and CLIP vision tower, with parameters
named as in the published checkpoints (``zhiqiulin/clip-flant5-xl``, ``-xxl``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Config,
    T5ForConditionalGeneration,
)

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.gradients import let_gradients_pass
from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor
from noisesmith.pipeline.models.locate import ModelSource, locate
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.quantized import loader_options, mark_quantized
from noisesmith.pipeline.models.weightless import as_loaded
from noisesmith.pipeline.scorers.answers import decoder_inputs
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.llava import SYSTEM
from noisesmith.pipeline.scorers.loaded import Inputs, blank_tokens, refuse_layout
from noisesmith.pipeline.scorers.preprocess import pad_to_square
from noisesmith.pipeline.scorers.vlm import LoadedProcessor, VisionLanguageModel
from noisesmith.pipeline.text.limits import TextLimit, stated_limit

SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "image_aspect_ratio": ("pad", "square"),
}


class ClipT5(T5ForConditionalGeneration):  # type: ignore[misc]  # untyped here
    """T5 whose encoder reads projected CLIP patch features between two pieces of text."""

    # Flan-T5's output layer is its own: one that is absent must not be taken from the embedding, nor the reverse.
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }
    # A second name of the shared embedding, and what older versions of the library saved next to the weights.
    _keys_to_ignore_on_load_unexpected = (
        r"^embed_tokens\.weight$",
        r"\.position_ids$",
        r"EncDecAttention\.relative_attention_bias\.weight$",
    )

    def __init__(self, config: T5Config, vision_config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_tower = nn.ModuleDict({"vision_tower": CLIPVisionModel(vision_config)})
        self.mm_projector = nn.Sequential(
            nn.Linear(vision_config.hidden_size, config.d_model),
            nn.GELU(),
            nn.Linear(config.d_model, config.d_model),
        )
        self.post_init()

    def image_features(self, pixels: Tensor) -> Tensor:
        """``[B, patches, d_model]`` of pixel values: a hidden layer (the last but one), without the class token."""
        hidden = self.vision_tower["vision_tower"](pixels, output_hidden_states=True).hidden_states
        features: Tensor = self.mm_projector(hidden[getattr(self.config, "mm_vision_select_layer", -2)][:, 1:])
        return features


def read_configs(source: ModelSource) -> tuple[T5Config, CLIPVisionConfig, ModelSource]:
    """The configs of the language model and of the vision tower, and where the tower's JSON files are.

    Raises:
        UserError: a variant of the architecture that is not supported, or a tower that is not named or not here.
    """
    config = T5Config.from_dict(source.read_json("config.json"))
    for key, values in SUPPORTED.items():
        if getattr(config, key, values[0]) not in values:
            raise UserError(
                f"{source.field}: {key} of {source.id!r} is {getattr(config, key)!r}, which is not supported; "
                f"use a checkpoint with {' or '.join(values)}"
            )
    tower_name = getattr(config, "mm_vision_tower", None)
    if not tower_name:
        raise UserError(f"{source.field}: config.json of {source.id!r} names no mm_vision_tower; add it")
    tower = locate(tower_name, None, f"{source.field} (mm_vision_tower)", "config.json")
    tower.read_json("preprocessor_config.json")
    return config, CLIPVisionConfig.from_pretrained(tower.location, local_files_only=tower.local), tower


class ClipFlanT5(VisionLanguageModel):
    """CLIP-FlanT5: patch features replace ``<image>``; the text before and after it is tokenised separately, each piece
    with its own ``</s>``.

    The checkpoint's ``image_aspect_ratio`` decides whether an image that is not square is padded with the mean colour
    (``pad``, as the published models were trained, and the default) or cropped (``square``).

    Raises:
        UserError: as the base class; also a dtype or a variant of the architecture that is not supported, and a vision
            tower whose config or preprocessing cannot be found.
    """

    template = f"{SYSTEM} USER: <image>\n{{question}} ASSISTANT: "

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        if dtype == torch.float16:
            raise UserError("scorers.dtype: T5 overflows in float16; use bfloat16 or float32 with CLIP-FlanT5")
        where = {"revision": source.revision, "local_files_only": source.local}
        config, vision_config, tower = read_configs(source)
        processor = LoadedProcessor(
            AutoTokenizer.from_pretrained(source.location, **where),
            CLIPImageProcessor.from_pretrained(tower.location, local_files_only=tower.local),
        )
        model, loaded = ClipT5.from_pretrained(
            source.location,
            config=config,
            vision_config=vision_config,
            dtype=dtype,
            use_safetensors=source.has_safetensors(),
            weights_only=True,
            output_loading_info=True,
            **where,
            **loader_options(source, dtype),
        )
        refuse_layout(source, missing=loaded["missing_keys"], unexpected=loaded["unexpected_keys"])
        let_gradients_pass(model)
        return processor, model

    def read(self, text: str, image_text: str = "") -> tuple[list[int], ...]:
        """The pieces before and after the image."""
        before, after = self.processor.tokenizer(text.split("<image>", 1)).input_ids
        return before, after

    def logits(self, questions: list[str], images: Tensor, labels: Tensor) -> Tensor:
        before, after = zip(*(self.token_ids(text) for text in self.texts(questions)), strict=True)
        before_ids, before_mask = self.pad(before, "right")
        after_ids, after_mask = self.pad(after, "right")
        pieces = {
            "before_ids": before_ids,
            "before_mask": before_mask,
            "after_ids": after_ids,
            "after_mask": after_mask,
        }
        logits = self.forward(self.model, pieces, {"pixel_values": self.pixels(images)}, labels)
        if self.readout == "reference":  # the official implementation drops the padding of the vocabulary
            return logits[..., : len(self.processor.tokenizer)]
        return logits

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        """T5 has no positions that end; its tokenizer names the length that it was trained with, without the image."""
        tokenizer = auto_tokenizer(found.source)
        template = cls.wrap(found.question)
        return [TextLimit("language model", stated_limit(tokenizer), tokenizer, truncates=False, template=template)]

    @classmethod
    def forward(cls, model: Model, text: Inputs, vision: Inputs, labels: Tensor) -> Tensor:
        embed = model.get_input_embeddings()
        before = text["before_ids"]
        features = model.image_features(vision["pixel_values"])
        seen = text["before_mask"].new_ones(features.shape[:2])
        logits: Tensor = model(
            inputs_embeds=torch.cat([embed(before), features, embed(text["after_ids"])], 1),
            attention_mask=torch.cat([text["before_mask"], seen, text["after_mask"]], 1),
            decoder_input_ids=decoder_inputs(model.config, labels, before.device),
            use_cache=False,
        ).logits
        return logits

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        config, vision, _ = read_configs(found.source)
        with torch.device("meta"):
            model = ClipT5(config, vision)
        mark_quantized(model, found.source)
        return as_loaded(model, found.dtype)

    @classmethod
    def load_image_processor(cls, found: FoundScorer) -> ImageProcessor:
        _, _, tower = read_configs(found.source)
        processor: ImageProcessor = CLIPImageProcessor.from_pretrained(tower.location, local_files_only=tower.local)
        return processor

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        before_ids, before_mask = blank_tokens(batch, length // 2)
        after_ids, after_mask = blank_tokens(batch, length - length // 2)
        return {
            "before_ids": before_ids,
            "before_mask": before_mask,
            "after_ids": after_ids,
            "after_mask": after_mask,
        }

    def pixels(self, images: Tensor) -> Tensor:
        padded = getattr(self.model.config, "image_aspect_ratio", "pad") == "pad"
        if padded and self.readout != "reference":
            images = pad_to_square(images, self.processor.image_processor.image_mean)
        return super().pixels(images)
