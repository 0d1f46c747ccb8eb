"""Base class of the families: runs the library's own sampling loop from a given noise up to the VAE."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import GeneratorConfig, Resolution
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.conditioning import RememberedText
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.generators.loading import load_pipeline, lora_revision
from noisesmith.pipeline.generators.pausing import resumed, stopped
from noisesmith.pipeline.generators.samplers import build_scheduler, sampler_gain
from noisesmith.pipeline.generators.spec import read_spec
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Options, Pipeline, Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import tokens_cut

if TYPE_CHECKING:
    from torch import Tensor


class Adapter(Family):
    """A ``diffusers`` pipeline that starts from a given noise and stops before the VAE.

    Attributes:
        pipe: the loaded pipeline.
    """

    def __init__(self, found: FoundGenerator, device: str) -> None:
        config = found.config
        self.source = found.source
        self.id = found.source.id
        self.spec = found.spec
        self._found = found
        self._sized: dict[Resolution, Adapter] = {}  # shared by all that are made of one
        self.revision = found.revision
        self.config = config
        self._device = torch.device(device)
        self.pipe: Pipeline = load_pipeline(config, found.source, found.family, device)
        self._trained = self.pipe.scheduler.config
        self.pipe.scheduler = build_scheduler(config.scheduler, self._trained, config.timestep_spacing)
        self._gains: dict[tuple[int, int | None], float] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        for name, part in self.pipe.components.items():
            if name.startswith("tokenizer") and part is not None:
                self._tokenizers[name] = getattr(part, "tokenizer", part)  # a processor holds one
        self._try_text()
        self._limits = self.text_limits(self._tokenizers, config)
        join = type(self).join_text
        if join is not None:
            self.pipe.encode_prompt = RememberedText(self.pipe.encode_prompt, join)

    @classmethod
    def spec_for(cls, found: FoundPipeline, resolution: Resolution | None) -> LatentSpec:
        """The shapes for images of a size; of the config's or the model's own where ``None``.

        Raises:
            UserError: the model makes none of that size.
        """
        return read_spec(found.config, found.source, cls, resolution)

    def sized(self, resolution: Resolution | None) -> Adapter:
        if resolution is None:
            return self
        if resolution not in self._sized:
            other = copy(self)
            other.spec = self._found.spec_of(resolution)
            self._sized[resolution] = other
        return self._sized[resolution]

    def gain(self, steps: int, stop: int | None = None) -> float:
        if (steps, stop) not in self._gains:
            scheduler = build_scheduler(self.config.scheduler, self._trained, self.config.timestep_spacing)
            self._gains[steps, stop] = sampler_gain(scheduler, steps, stop)
        return self._gains[steps, stop]

    def pull_back(self, slope: Tensor, steps: int, stop: int | None = None) -> Tensor:
        return slope

    def plain(self, text: str) -> str:
        return plain(text, *self._tokenizers.values())

    def tokens_cut(self, prompts: Sequence[str]) -> list[int]:
        return tokens_cut(self._limits, prompts)

    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        with torch.no_grad():
            return self._denoise(self.sampling_options(prompts, noise, steps)).float().cpu()

    def sampling_options(self, prompts: Sequence[str], noise: Tensor, steps: int) -> Options:
        """What the pipeline's call takes to denoise ``noise`` ``[B, …]`` in ``steps``."""
        dtype = torch.float32 if self.keeps_float32 else getattr(self.pipe, self.denoiser).dtype
        return {
            "prompt": list(prompts),  # some pipelines write into it
            "latents": noise.to(dtype),
            "height": self.spec.height,
            "width": self.spec.width,
            "num_inference_steps": steps,
            **self.call_options(self.config, len(prompts)),
        }

    def probe(self, prompts: list[str], noise: Tensor, steps: int, stop: int) -> tuple[Tensor, Tensor]:
        with stopped(self.pipe, steps, stop) as paused:
            original = self.sample(prompts, noise, steps)
        return original, paused[0]

    def finish(self, prompts: list[str], paused: Tensor, steps: int, taken: int) -> Tensor:
        unused = torch.zeros(len(paused), *self.spec.shape)
        with resumed(self.pipe, steps, taken, paused):
            return self.sample(prompts, unused, steps)

    def _denoise(self, options: Options) -> Tensor:
        """z_0 of a call of the pipeline."""
        latents: Tensor = self.pipe(**options, output_type="latent").images
        return latents

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Encode B prompts for the denoiser.

        Returns:
            embeddings ``[B, L, E]``, and pooled ones ``[B, P]`` in the families whose denoiser reads them.
        """
        options: Options = {
            "prompt": list(prompts),
            "prompt_2": None,
            "prompt_3": None,
            "device": self._device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            **self.call_options(self.config, len(prompts)),
        }
        taken = inspect.signature(self.pipe.encode_prompt).parameters
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(**{name: value for name, value in options.items() if name in taken})
        return tuple(part for part in encoded if part is not None)  # the others are those of negative prompts

    def _try_text(self) -> None:
        """Encode one prompt, so that a tokenizer that does not fit its text encoder fails before the first row.

        Raises:
            UserError: it fails.
        """
        problem = f"{self.source.field}: {self.id!r} cannot encode a prompt"
        remedy = "; its tokenizers' files and its text encoders' config.json must fit each other"
        for limit in self.text_limits(self._tokenizers, self.config):
            reader = limit.reader
            encoder = getattr(self.pipe, reader)
            if encoder is None or reader in self.own_limits(self.config):
                continue
            # The pipeline pads to this length. A huge one would end the process, and no error could be caught.
            padded = limit.tokens or limit.tokenizer.model_max_length
            positions = getattr(encoder.config, "max_position_embeddings", None)
            if positions is not None and padded > positions:
                name = reader.replace("text_encoder", "tokenizer")
                raise UserError(f"{problem} ({name} pads to {padded} tokens, {reader} reads {positions}){remedy}")
        with explained(problem, remedy):
            self.encode(["a cat"])


@dataclass(frozen=True)
class FoundPipeline:
    """A generator that was found, and whose shapes are not known yet.

    Attributes:
        config: the config that it was found for.
        source: where its files are.
        family: the adapter that loads and samples it.
    """

    config: GeneratorConfig
    source: ModelSource
    family: type[Adapter]


@dataclass(frozen=True)
class FoundGenerator(FoundPipeline):
    """A generator that was found and checked, and not loaded yet.

    Attributes:
        spec: shape of its latents, and size of its images in pixels.
    """

    spec: LatentSpec

    def spec_of(self, resolution: Resolution | None) -> LatentSpec:
        """The shapes for images of a size; ``spec`` where that is ``None``.

        Raises:
            UserError: the model makes none of that size.
        """
        if resolution in (None, (self.spec.width, self.spec.height)):
            return self.spec
        return self.family.spec_for(self, resolution)

    @property
    def revision(self) -> str:
        """The commit or fingerprint of its weights, with those of its LoRAs."""
        return self.source.resolved_revision() + lora_revision(self.config)
