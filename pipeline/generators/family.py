"""How the families of diffusion models differ, as far as it is known before a model is loaded."""

from __future__ import annotations

from typing import Any, ClassVar

from noisesmith.pipeline.config import GeneratorConfig


class Family:
    """The facts about a family that finding, checking and loading need.

    Attributes:
        pipeline_class: class in ``diffusers`` that loads and samples.
        denoiser: the component that predicts, ``unet`` or ``transformer``.
        flow: whether it is trained by flow matching.
        multiple: pixel sizes must be a multiple of this for the pipeline itself.
        own_options: config fields that only this family has.
    """

    pipeline_class: ClassVar[str]
    denoiser: ClassVar[str] = "unet"
    flow: ClassVar[bool] = False
    multiple: ClassVar[int] = 8
    own_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def without(cls, config: GeneratorConfig) -> dict[str, Any]:
        """Components that are left out, as keyword arguments of the pipeline's loader."""
        return {}
