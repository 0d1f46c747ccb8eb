"""The processors of ``transformers`` checkpoints, also of those that name classes which the library has dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noisesmith.pipeline.models.libraries import ImageProcessor, Options, Tokenizer
from noisesmith.pipeline.models.loading import BrokenModelError
from noisesmith.pipeline.models.locate import ModelSource

_RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}  # the name of it that files of 2022 and 2023 have


def auto_processor(location: str, where: Options, parts: Sequence[str] = ("tokenizer", "image_processor")) -> Any:
    """A checkpoint's whole processor; each family's class has parts of its own.

    Args:
        where: revision, and whether only local files count.
        parts: what the family reads of it.

    Raises:
        OSError, ValueError: its files are not here, or not understood.
        BrokenModelError: they describe a part of a processor, such as the image processor alone.
    """
    from transformers import AutoProcessor

    _restore_names()
    processor: Any = AutoProcessor.from_pretrained(location, **where)
    for part in parts:
        if not hasattr(processor, part):
            raise BrokenModelError(f"its processor's files describe a {type(processor).__name__}, which has no {part}")
    return processor


def auto_image_processor(location: str, where: Options) -> ImageProcessor:
    """A checkpoint's image processor; see :func:`auto_processor`."""
    from transformers import AutoImageProcessor

    _restore_names()
    processor: ImageProcessor = AutoImageProcessor.from_pretrained(location, **where)
    return processor


def chat_template(location: str, where: Options) -> str | None:
    """The chat template of a checkpoint's whole processor, which is not loaded; ``None`` where there is none.

    Raises:
        OSError: its files are not here, or not understood.
    """
    from transformers import ProcessorMixin

    stored, _ = ProcessorMixin.get_processor_dict(location, **where)
    template: str | dict[str, str] | None = stored.get("chat_template")
    return template.get("default") if isinstance(template, dict) else template


def auto_tokenizer(source: ModelSource, **options: object) -> Tokenizer:
    """A checkpoint's tokenizer.

    Args:
        options: such as ``subfolder``, where it is not at the top.

    Raises:
        OSError, ValueError: its files are not here, or not understood.
    """
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
        source.location, revision=source.revision, local_files_only=source.local, **options
    )
    return tokenizer


def _restore_names() -> None:
    """Let the library find the classes that old files name, each as the one that has replaced it."""
    import transformers

    for old, new in _RENAMED.items():
        if not hasattr(transformers, old):
            setattr(transformers, old, getattr(transformers, new))
