"""Stable Diffusion 1.x and 2.x through ``diffusers.StableDiffusionPipeline``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.config import GeneratorConfig
from pipeline.errors import UserError, reason
from pipeline.generators import latent_spec
from pipeline.generators.samplers import build_scheduler, sampler_gain
from pipeline.models import ModelSource


class StableDiffusion:
    """The library's own sampling loop, told to start from a given noise and to stop before the VAE."""

    def __init__(self, config: GeneratorConfig, source: ModelSource, device: str) -> None:
        self.id = source.id
        self.spec = latent_spec(config, source)
        self.revision = source.resolved_revision()
        self._config = config
        self.pipe = _load(source, getattr(torch, config.dtype)).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.scheduler = build_scheduler(config.scheduler, self.pipe.scheduler.config)
        self._gains: dict[int, float] = {}

    def gain(self, steps: int) -> float:
        if steps not in self._gains:
            scheduler = build_scheduler(self._config.scheduler, self.pipe.scheduler.config)
            self._gains[steps] = sampler_gain(scheduler, steps)
        return self._gains[steps]

    @torch.no_grad()
    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        config = self._config
        output = self.pipe(
            prompt=prompts,
            negative_prompt=[config.negative_prompt] * len(prompts),
            latents=noise.to(self.pipe.device, self.pipe.unet.dtype),
            height=self.spec.height,
            width=self.spec.width,
            num_inference_steps=steps,
            guidance_scale=config.guidance_scale,
            output_type="latent",
        )
        return output.images.float().cpu()


def _load(source: ModelSource, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline

    try:
        return StableDiffusionPipeline.from_pretrained(
            source.location,
            revision=source.revision,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=source.local,
        )
    except Exception as error:  # many libraries' loaders meet here; each failure means the same to the user
        raise UserError(f"generators.model: {source.id!r} cannot be loaded ({reason(error)})") from error
