"""Preference models that were published as weights alone, in layouts that the library does not read by itself.

Such a checkpoint is known by its Hub id, or in a folder by the name of its weights. A folder may also have a
``config.json`` that names the class in ``architectures``, and in ``base_model`` the model (a folder or Hub id) whose
JSON files it needs: its architecture, its tokenizer, or both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import ImageProcessor, Json, Model, Settings
from noisesmith.pipeline.models.loading import BrokenModelError
from noisesmith.pipeline.models.locate import CARD, ModelSource, locate
from noisesmith.pipeline.models.weights import WeightsAlone
from noisesmith.pipeline.scorers.loaded import refuse_layout

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = (
    WeightsAlone("HPSv2", ("xswu/HPSv2",), ("HPS_v2.1_compressed", "HPS_v2_compressed")),
    WeightsAlone("HPSv3", ("MizzenAI/HPSv3",), ("HPSv3",)),
    WeightsAlone("ImageReward", ("THUDM/ImageReward", "zai-org/ImageReward"), ("ImageReward",)),
)


def settings_of(source: ModelSource) -> Json:
    """The checkpoint's ``config.json``; empty where it was published without one.

    Raises:
        UserError: it cannot be read.
    """
    return {} if source.index == CARD else source.read_json("config.json")


def base_of(source: ModelSource, default: str) -> ModelSource:
    """The model that has the JSON files which the checkpoint lacks.

    Raises:
        UserError: it is not here, or ``base_model`` is no name.
    """
    base = settings_of(source).get("base_model", default)
    if not isinstance(base, str):
        raise UserError(f"{source.field}: base_model in config.json of {source.id!r} is no name of a model; mend it")
    return locate(base, None, f"{source.field} (base_model)", "config.json")


def read_weights(source: ModelSource) -> dict[str, Tensor]:
    """The checkpoint's weights under its own names; those of a training state are under ``state_dict`` there.

    Raises:
        UserError: they are not here, or pickled and not allowed.
        BrokenModelError: the file holds something else.
    """
    path = source.weights_file()
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    weights = stored.get("state_dict", stored) if isinstance(stored, dict) else stored
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BrokenModelError(f"{path.name} holds no weights")
    return weights


def renamed(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """A weight's name after each of the replacements, in their order."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def square_processor(edge: int) -> ImageProcessor:
    """What an image processor of these models would say: bicubic to the short edge, the square in the middle."""
    from transformers import CLIPImageProcessor

    processor: ImageProcessor = CLIPImageProcessor(
        size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
    )
    return processor


def filled(
    model_class: Any, config: Settings, weights: dict[str, Tensor], source: ModelSource, dtype: torch.dtype
) -> Model:
    """A ``transformers`` model with the weights given.

    Raises:
        UserError: they do not fill it, or are more than it has.
    """
    model: Model
    model, loaded = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
    )
    refuse_layout(source, missing=loaded["missing_keys"], unexpected=loaded["unexpected_keys"])
    return model
