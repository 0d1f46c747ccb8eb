"""Settings that a checkpoint's processor must share with its model, set as the model's config says.

A processor counts the tokens of an image by settings of its own. Checkpoints saved by older versions of the library
lack some of them, and the library then fails at the first image, or counts one token too few. The model decides how
many features an image has, so its config counts.
"""

from __future__ import annotations

from noisesmith.pipeline.models.libraries import ImageCounts, ImageProcessor, Model, Settings, Tokenizer

_CLASS_TOKENS = ("class_embedding", "cls_token")  # how vision towers name the embedding of their class token


def fit_image_counts(processor: ImageCounts, model: Model) -> None:
    """Let a LLaVA processor count the tokens of an image as the model counts its features.

    Args:
        processor: a ``LlavaProcessor`` or ``LlavaNextProcessor``.
        model: the model, loaded or without weights.
    """
    config = model.config
    names = [name for name, _ in model.named_parameters()]
    has_class_token = any(name.endswith(_CLASS_TOKENS) for name in names)
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = int(has_class_token)


def fit_tiles(processor: ImageProcessor, config: Settings) -> None:
    """Let a LLaVA-NeXT image processor cut the tiles that the model will put together again."""
    processor.image_grid_pinpoints = config.image_grid_pinpoints


def fit_patches(processor: ImageProcessor, config: Settings) -> None:
    """Let a Qwen-VL image processor cut the patches that the model embeds and merges."""
    vision = config.vision_config
    processor.patch_size = vision.patch_size
    processor.merge_size = vision.spatial_merge_size
    processor.temporal_patch_size = vision.temporal_patch_size


def fit_padding(tokenizer: Tokenizer) -> None:
    """Give a tokenizer without a padding token one, for texts whose padding is masked: which one does not matter."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
