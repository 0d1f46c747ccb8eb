"""What the families share: the library's own sampling loop between a given noise and the VAE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.loading import load_pipeline, lora_revision
from noisesmith.pipeline.generators.samplers import build_scheduler, sampler_gain
from noisesmith.pipeline.generators.spec import read_spec
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.text.control_tokens import plain


class Adapter:
    """A ``diffusers`` pipeline told to start from a given noise and to stop before the VAE.

    A family says how it differs in class attributes; they are read before the model is loaded.

    Attributes:
        pipeline_class: class in ``diffusers`` that loads and samples.
        denoiser: the component that predicts, ``unet`` or ``transformer``.
        flow: whether it is trained by flow matching.
        multiple: what the pipeline itself asks pixel sizes to divide by.
        own_options: config fields that this family alone has.
        pipe: the loaded pipeline.
    """

    pipeline_class: ClassVar[str]
    denoiser: ClassVar[str] = "unet"
    flow: ClassVar[bool] = False
    multiple: ClassVar[int] = 8
    own_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: GeneratorConfig, source: ModelSource, device: str) -> None:
        self.id = source.id
        self.spec = read_spec(config, source, type(self))
        self.revision = source.resolved_revision() + lora_revision(config)
        self.config = config
        self.pipe: Any = load_pipeline(config, source, type(self), device)
        self._trained = self.pipe.scheduler.config
        self.pipe.scheduler = build_scheduler(config.scheduler, self._trained, config.timestep_spacing)
        self._gains: dict[int, float] = {}

    @classmethod
    def without(cls, config: GeneratorConfig) -> dict[str, Any]:
        """Components left out, as keyword arguments of the pipeline's loader."""
        return {}

    def gain(self, steps: int) -> float:
        if steps not in self._gains:
            scheduler = build_scheduler(self.config.scheduler, self._trained, self.config.timestep_spacing)
            self._gains[steps] = sampler_gain(scheduler, steps)
        return self._gains[steps]

    def plain(self, text: str) -> str:
        parts = self.pipe.components.items()
        return plain(text, *(part for name, part in parts if name.startswith("tokenizer") and part is not None))

    @torch.no_grad()
    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        config = self.config
        output = self.pipe(
            prompt=prompts,
            negative_prompt=[config.negative_prompt] * len(prompts) if config.negative_prompt else None,
            latents=noise.to(getattr(self.pipe, self.denoiser).dtype),
            height=self.spec.height,
            width=self.spec.width,
            num_inference_steps=steps,
            guidance_scale=config.guidance_scale,
            output_type="latent",
            **self._call_options(),
        )
        return output.images.float().cpu()

    def _call_options(self) -> dict[str, Any]:
        """What this family's pipeline is told on top."""
        return {}
