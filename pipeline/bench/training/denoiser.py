"""The part of a diffusion model that is trained, and its error at a random time of the diffusion."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.models.libraries import Json, Model, Options

Condition = tuple[Tensor, ...]  # of B prompts: embeddings [B, L, E] and, where the denoiser reads them, pooled ones


class Denoiser(ABC):
    """A loaded generator's denoiser, with the noise schedule that it was trained with.

    ``network`` is the generator's own, so that the generator samples with what was trained.
    """

    def __init__(self, generator: Adapter) -> None:
        self.network: nn.Module = getattr(generator.pipe, generator.denoiser)
        self.size = (generator.spec.height, generator.spec.width)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @abstractmethod
    def errors(self, network: nn.Module, latents: Tensor, noise: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The mean squared error ``[B]`` of what the network predicts of noised latents, as it was trained to.

        Args:
            network: this denoiser's, or a copy.
            latents: of clean images ``[B, C, h, w]``, as the denoiser sees them.
            noise: N(0, I) of the same shape.
            times: ``[B]``, uniform in [0, 1).
        """

    @staticmethod
    def _mean_squares(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted.float() - target.float()).square().flatten(1).mean(1)


class UNet(Denoiser):
    """A U-Net that predicts the noise (ε) or v: Stable Diffusion 1, 2 and XL."""

    def __init__(self, generator: Adapter, schedule: Json) -> None:
        from diffusers import DDPMScheduler

        super().__init__(generator)
        self.schedule: Model = DDPMScheduler.from_config(schedule)

    def errors(self, network: nn.Module, latents: Tensor, noise: Tensor, times: Tensor, condition: Condition) -> Tensor:
        config = self.schedule.config
        timesteps = (times * config.num_train_timesteps).long()
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        embeddings, *pooled = condition
        inputs: Options = {"encoder_hidden_states": embeddings}
        if pooled:
            inputs["added_cond_kwargs"] = {"text_embeds": pooled[0], "time_ids": self._time_ids(latents)}
        predicted = network(noisy.to(embeddings.dtype), timesteps, **inputs).sample
        target = noise
        if config.prediction_type == "v_prediction":
            target = self.schedule.get_velocity(latents, noise, timesteps)
        return self._mean_squares(predicted, target)

    def _time_ids(self, latents: Tensor) -> Tensor:
        """Stable Diffusion XL reads the original size, the crop's corner and the target size of each image."""
        numbers = [*self.size, 0, 0, *self.size]
        return torch.tensor(numbers, dtype=latents.dtype, device=latents.device).expand(len(latents), -1)


class Flow(Denoiser):
    """A transformer trained by flow matching: Stable Diffusion 3. Times are logit-normal, as in its paper."""

    def __init__(self, generator: Adapter, schedule: Json) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        super().__init__(generator)
        self.schedule: Model = FlowMatchEulerDiscreteScheduler.from_config(schedule)

    def errors(self, network: nn.Module, latents: Tensor, noise: Tensor, times: Tensor, condition: Condition) -> Tensor:
        inside = times.clamp(1e-6, 1 - 1e-6)
        logit_normal = torch.special.ndtri(inside).sigmoid()
        count = self.schedule.config.num_train_timesteps
        places = (logit_normal * count).long().clamp(max=count - 1).cpu()
        timesteps = self.schedule.timesteps[places].to(latents.device)
        sigmas = self.schedule.sigmas[places].to(latents)[:, None, None, None]
        noisy = (1 - sigmas) * latents + sigmas * noise
        embeddings, pooled = condition
        predicted = network(
            hidden_states=noisy.to(embeddings.dtype),
            timestep=timesteps,
            encoder_hidden_states=embeddings,
            pooled_projections=pooled,
        ).sample
        return self._mean_squares(predicted, noise - latents)


DENOISERS: dict[str, type[UNet] | type[Flow]] = {
    "StableDiffusionPipeline": UNet,
    "StableDiffusionXLPipeline": UNet,
    "StableDiffusion3Pipeline": Flow,
}


def denoiser_of(generator: Adapter) -> Denoiser:
    """The denoiser of a loaded generator, whose pipeline is one of :data:`DENOISERS`."""
    schedule = generator.source.read_json("scheduler/scheduler_config.json")
    return DENOISERS[generator.pipeline_class](generator, schedule)
