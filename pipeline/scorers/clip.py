"""Contrastive models: one embedding of the prompt, one of the image, and the similarity of the two.

They are not asked a question: the prompt itself is the text, so ``question`` and ``readout`` are not used. A prompt
longer than the model's text length (77 tokens for CLIP, 64 for SigLIP) is cut there, and what follows does not count.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor, Settings
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_processor, auto_tokenizer
from noisesmith.pipeline.models.weightless import transformers_config
from noisesmith.pipeline.scorers.family import FoundScorer
from noisesmith.pipeline.scorers.fit import fit_padding
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer, blank_tokens
from noisesmith.pipeline.scorers.preprocess import PIL_RESAMPLE, grey_levels, normalise, precise, preprocess, resize
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit

EDGE = 1e-6  # the cosine's distance from −1 below which log s is held, so that it stays finite


class _Contrastive(LoadedScorer):
    """What the families of contrastive models share: loading, tokens, the forward pass."""

    padding: Literal["longest", "max_length"]

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        source = found.source
        with explained(f"{source.field}: {source.id!r} cannot be loaded"):
            self.processor, model = self.load(source, found.dtype)
        self.id = source.id
        self.revision = found.revision
        self.model = model.to(device).eval().requires_grad_(False)
        self.rounding = rounding
        if self.padding == "longest":  # masked; text that is padded to the full length is not
            fit_padding(self.processor.tokenizer)

    def load(self, source: ModelSource, dtype: torch.dtype) -> tuple[Processor, Model]:
        """The processor (with ``tokenizer`` and ``image_processor``) and the model.

        Raises:
            UserError: weights are pickled and not allowed, or some are missing.
        """
        where = {"revision": source.revision, "local_files_only": source.local}
        processor: Processor = auto_processor(source.location, where)
        return processor, self.load_model(source, dtype)

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(
            [plain(prompt, tokenizer) for prompt in prompts],
            padding=self.padding,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        output = self.model(**tokens.to(self.model.device), **self._vision_inputs(images))
        return self.read(output, torch.float64 if images.dtype == torch.float64 else torch.float32)

    @staticmethod
    @abstractmethod
    def read(output: Settings, dtype: torch.dtype) -> Tensor:
        """log s ``[B]`` in ``dtype`` of the forward's output for B texts and B images."""

    @classmethod
    def text_limits(cls, found: FoundScorer) -> list[TextLimit]:
        return cls.limits_of(found.source, found.source.class_name)

    @staticmethod
    def limits_of(source: ModelSource, class_name: str) -> list[TextLimit]:
        """What a model's text half reads, by its config."""
        tokens = transformers_config(source, class_name).text_config.max_position_embeddings
        return [TextLimit("text model", tokens, auto_tokenizer(source))]

    @classmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        ids, mask = blank_tokens(batch, model.config.text_config.max_position_embeddings)
        return {"input_ids": ids, "attention_mask": mask}

    @classmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        return cls.read(model(**text, **vision), torch.float32)

    def _vision_inputs(self, images: Tensor) -> dict[str, Tensor]:
        pixels = preprocess(images, self.processor.image_processor, self.rounding)
        return {"pixel_values": pixels.to(self.model.device, self.model.dtype)}


class Clip(_Contrastive):
    """``transformers.CLIPModel``, PickScore's weights among them: s = (1 + cos) / 2.

    CLIPScore (Hessel et al., arXiv 2104.08718) is 2.5 · max(cos, 0): not bounded by 1, and flat where cos < 0. This s
    orders images in the same way, lies in [0, 1] and has a slope everywhere. It is a similarity and no probability:
    a good match has cos ≈ 0.3, so s ≈ 0.65. Choose ``optimizer.target_score`` with that in mind; a step size of 1 − √s
    never becomes small. PickScore (Kirstain et al., arXiv 2305.01569) multiplies the cosine by the model's
    ``logit_scale``, about 100, to compare images of one prompt: which of them is better does not depend on it.
    """

    padding = "longest"

    @staticmethod
    def read(output: Settings, dtype: torch.dtype) -> Tensor:
        cosine: Tensor = (output.image_embeds.to(dtype) * output.text_embeds.to(dtype)).sum(-1)
        return torch.log1p(cosine.clamp(-1 + EDGE, 1)) - math.log(2)


class Siglip(_Contrastive):
    """``transformers.SiglipModel``: s = σ(e^scale · cos + bias), the probability of a match it was trained on.

    arXiv 2303.15343; the SigLIP 2 checkpoints of one resolution have this class too. Texts are padded to the full
    length, as in training.
    """

    padding = "max_length"

    @staticmethod
    def read(output: Settings, dtype: torch.dtype) -> Tensor:
        return torch.nn.functional.logsigmoid(output.logits_per_image.diagonal().to(dtype))


class Siglip2(Siglip):
    """``transformers.Siglip2Model`` (arXiv 2502.14786, NaFlex): as SigLIP, at the image's own aspect ratio."""

    def __init__(self, found: FoundScorer, device: str, *, rounding: bool = True) -> None:
        super().__init__(found, device, rounding=rounding)
        self._blank = lru_cache(maxsize=4)(self._see_blank)

    def _vision_inputs(self, images: Tensor) -> dict[str, Tensor]:
        processor = self.processor.image_processor
        device = self.model.device
        made = self._blank(images.shape[-1], images.shape[-2])
        rows, columns = made["spatial_shapes"][0].tolist()
        pixels = preprocess_naflex(images, processor, (rows, columns), self.rounding)
        return {
            "pixel_values": pixels.to(device, self.model.dtype),
            "pixel_attention_mask": made["pixel_attention_mask"].expand(len(images), -1).to(device),
            "spatial_shapes": made["spatial_shapes"].expand(len(images), -1).to(device),
        }

    def _see_blank(self, width: int, height: int) -> dict[str, Tensor]:
        """The sizes and masks that the processor makes of an image, which its pixels do not change."""
        from PIL import Image

        made = self.processor.image_processor(images=Image.new("RGB", (width, height)), return_tensors="pt")
        return {name: made[name] for name in ("pixel_attention_mask", "spatial_shapes")}


def preprocess_naflex(
    images: Tensor, processor: ImageProcessor, grid: tuple[int, int], rounding: bool = True
) -> Tensor:
    """Pixel values of SigLIP 2's image processor.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        processor: a ``Siglip2ImageProcessor``, read for its settings only.
        grid: rows and columns of patches the image is resized to.
        rounding: as in :func:`preprocess`.

    Returns:
        ``[B, max_num_patches, p · p · 3]`` as :func:`precise`: patches row by row, zeros after the last.
    """
    patch = processor.patch_size
    rows, columns = grid
    levels = grey_levels(images, rounding)
    if processor.do_resize:
        levels = resize(levels, rows * patch, columns * patch, PIL_RESAMPLE[int(processor.resample)], rounding)
    cut = normalise(levels, processor).reshape(len(images), 3, rows, patch, columns, patch)
    patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(len(images), rows * columns, patch * patch * 3)
    return precise(torch.nn.functional.pad(patches, [0, 0, 0, processor.max_num_patches - rows * columns]), images)
