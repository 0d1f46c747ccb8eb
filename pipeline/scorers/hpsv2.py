"""Human Preference Score v2 and v2.1 (Wu et al., arXiv 2306.09341): OpenCLIP's ViT-H-14, trained on human choices.

The published checkpoints (``xswu/HPSv2``) are in OpenCLIP's layout. They are read into the library's ``CLIPModel``;
architecture and tokenizer are those of the model that was trained further.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPModel

from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.weightless import transformers_config, transformers_model
from noisesmith.pipeline.scorers.clip import Clip
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.preprocess import preprocess_torchvision
from noisesmith.pipeline.scorers.published import base_of, filled, read_weights, renamed, square_processor
from noisesmith.pipeline.scorers.vlm import LoadedProcessor
from noisesmith.pipeline.text.limits import TextLimit

BASE = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

# Parts of OpenCLIP's names → the library's, in this order.
_RENAMED = (
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
    (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
    (r"^visual\.ln_post", "vision_model.post_layernorm"),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding", "text_model.embeddings.token_embedding"),
    (r"^positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final", "text_model.final_layer_norm"),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # one matrix in OpenCLIP


def from_open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``CLIPModel`` from those of OpenCLIP's ``CLIP``; the same numbers under other names."""
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith("attn_mask"):  # a constant that older versions saved
            continue
        name = renamed(name, _RENAMED)
        layer, joined, kind = name.partition(".in_proj_")
        if joined:
            pieces = value.chunk(len(_PROJECTIONS))
            converted |= {f"{layer}.{part}.{kind}": piece for part, piece in zip(_PROJECTIONS, pieces, strict=True)}
        else:
            converted[name] = value.T if name in _TRANSPOSED else value
    return converted


class HpsV2(Clip):
    """HPS v2 and v2.1: s = (1 + cos) / 2, so that cos = 2·s − 1 is the score that its authors publish.

    Often 100·cos is printed, and lies near 20 to 35. The model was trained to tell two images of one prompt apart by
    σ(100·(cos₁ − cos₂)). Images are resized as its authors' code does: as numbers, antialiased and not rounded.
    """

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        base = base_of(source, BASE)
        config = transformers_config(base, CLIPModel.__name__)
        model = filled(CLIPModel, config, from_open_clip(read_weights(source)), source, dtype)
        processor = square_processor(config.vision_config.image_size)
        return LoadedProcessor(auto_tokenizer(base), processor), model

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        return transformers_model(base_of(found.source, BASE), CLIPModel.__name__, found.dtype)

    @classmethod
    def load_image_processor(cls, found: FoundScorer) -> ImageProcessor:
        config = transformers_config(base_of(found.source, BASE), CLIPModel.__name__)
        return square_processor(config.vision_config.image_size)

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        return cls.limits_of(base_of(found.source, BASE), CLIPModel.__name__)

    def _vision_inputs(self, images: Tensor) -> dict[str, Tensor]:
        pixels = preprocess_torchvision(images, self.processor.image_processor, self.rounding, by_pil=False)
        return {"pixel_values": pixels.to(self.model.device, self.model.dtype)}
