"""What all scorers that are loaded in this process share: a ``transformers`` model, its scores, and its cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from PIL import Image

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageProcessor, Model, Processor, Settings
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.processors import auto_image_processor
from noisesmith.pipeline.models.quantized import loader_options
from noisesmith.pipeline.models.weightless import transformers_config, transformers_model
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily

if TYPE_CHECKING:
    from torch import Tensor

Inputs: TypeAlias = "dict[str, Tensor]"  # what a model's forward takes, by the names of its parameters


class LoadedScorer(ScorerFamily):
    """A frozen model that scores images against their prompts, and judges them.

    The class methods describe its forward pass without weights, for ``noisesmith plan``.
    """

    not_for_model: ClassVar[tuple[str, ...]] = ()  # what the image processor makes and the forward pass does not take
    model: Model
    processor: Processor

    @abstractmethod
    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[B]`` for images ``[B, 3, H, W]`` in [0, 1]; see :class:`ImageScorer`."""

    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        """Scores of finished images; see :class:`Judge`."""
        with torch.no_grad():
            scores = self.log_scores(prompts, images.to(self.model.device)).exp()
        return [float(score) for score in scores]

    def load_model(self, source: ModelSource, dtype: torch.dtype) -> Model:
        """The model without its processor, by the class that its config names.

        Raises:
            UserError: weights are pickled and not allowed, or some are missing.
        """
        import transformers

        from noisesmith.pipeline.models.gradients import let_gradients_pass

        model_class = getattr(transformers, source.class_name)
        model: Model
        model, loaded = model_class.from_pretrained(
            source.location,
            revision=source.revision,
            local_files_only=source.local,
            dtype=dtype,
            use_safetensors=source.has_safetensors(),
            output_loading_info=True,
            **loader_options(source, dtype),
        )
        refuse_layout(source, missing=loaded["missing_keys"])
        let_gradients_pass(model)
        return model

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        return transformers_model(found.source, found.source.class_name, found.dtype)

    @classmethod
    def load_image_processor(cls, found: FoundScorer) -> ImageProcessor:
        """The checkpoint's own image processor, with :meth:`fit_image_processor`.

        Raises:
            OSError: its JSON files are not here.
        """
        source = found.source
        where = {"revision": source.revision, "local_files_only": source.local}
        processor = auto_image_processor(source.location, where)
        cls.fit_image_processor(processor, transformers_config(source, source.class_name))
        return processor

    @classmethod
    def fit_image_processor(cls, processor: ImageProcessor, config: Settings) -> None:
        """Set what the family's image processor must share with its model as the model's config says."""

    @classmethod
    def blank_vision(cls, found: FoundScorer, height: int, width: int, batch: int) -> Inputs:
        """What the image processor makes of a batch of black images of one size.

        Pixel values are on the ``meta`` device; sizes, grids and masks are numbers on the CPU.

        Raises:
            OSError: the processor's JSON files are not here.
        """
        processed = cls.load_image_processor(found)(images=Image.new("RGB", (width, height)), return_tensors="pt")
        vision: Inputs = {}
        for name, value in processed.items():
            if name in cls.not_for_model:
                continue
            repeats = [batch, *[1] * (value.ndim - 1)]
            vision[name] = value.repeat(repeats)
        vision["pixel_values"] = vision["pixel_values"].to("meta")
        return vision

    @classmethod
    @abstractmethod
    def blank_text(cls, model: Model, vision: Inputs, batch: int, length: int) -> Inputs:
        """Token ids and masks of questions of ``length`` tokens, and of the images ``vision`` in them.

        The ids are any; the masks are as for prompts of different lengths.
        """

    @classmethod
    @abstractmethod
    def score_blank(cls, model: Model, text: Inputs, vision: Inputs) -> Tensor:
        """log s ``[B]`` by the forward pass that :meth:`log_scores` makes, read by ``yes`` where that is a choice."""


def blank_tokens(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[batch, length]``; rows differ in length, as prompts do, so the mask is not all ones."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[: batch - 1, 0] = 0
    return torch.ones(batch, length, dtype=torch.long), mask


def refuse_layout(source: ModelSource, *, missing: Sequence[str], unexpected: Sequence[str] = ()) -> None:
    """Refuse a checkpoint whose weights do not fill the model; the message names the first that differ."""
    found = [
        f"{len(names)} {what}, first {', '.join(sorted(names)[:2])}"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if found:
        raise UserError(
            f"{source.field}: the weights of {source.id!r} are not laid out as {source.class_name} has them "
            f"({'; '.join(found)}); give an unmodified checkpoint of that class"
        )
