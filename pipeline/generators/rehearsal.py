"""A pipeline without weights: its own code runs, and its models answer with constants of the right shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.generators.adapter import FoundPipeline
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.capture import handed_to
from noisesmith.pipeline.generators.checks import names_part
from noisesmith.pipeline.generators.samplers import build_scheduler
from noisesmith.pipeline.generators.weightless import load_tokenizers
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model, Options, Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Pass:
    """Calls of one model with inputs of the same shapes: what repeats one of them, and how many there were.

    ``model`` is the model's folder.
    """

    model: str
    work: Callable[[], object]
    answer: object
    count: int = 0


class Rehearsal:
    """A family's pipeline with models that have configs and no weights.

    A run goes through the pipeline's own code from the prompt to the VAE. Text encoders answer with zeros and the
    denoiser with the same noise at every step, so that z_0 depends on z_T through the sampler and the pipeline alone.

    Args:
        models: without weights, on the ``meta`` device, by their folders. They are changed: give them to nobody else.

    Raises:
        UserError: a tokenizer cannot be loaded.

    Attributes:
        pipe: the pipeline.
        passes: every different call of a model.
    """

    def __init__(self, found: FoundPipeline, models: Mapping[str, Model]) -> None:
        import diffusers

        config = found.config
        self.passes: dict[str, Pass] = {}
        self._found = found
        for name, model in models.items():
            self._hollow(name, model)
            if name == "vae":
                _standardise(model)
        trained = found.source.read_json("scheduler/scheduler_config.json")
        scheduler = build_scheduler(config.scheduler, trained, config.timestep_spacing)
        parts: Options = {
            **found.family.without(config),
            **models,
            **load_tokenizers(found),
            "scheduler": scheduler,
        }
        pipeline_class = getattr(diffusers, found.family.pipeline_class)
        index = found.source.read_json("model_index.json")
        taken: Options = {}
        for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items():
            stored = index.get(name)
            if name in parts:
                taken[name] = parts[name]
            elif stored is not None and not names_part(stored):
                taken[name] = stored  # a setting, such as whether the model is distilled
            elif name != "self" and parameter.default is inspect.Parameter.empty:
                taken[name] = None
        self.pipe: Pipeline = pipeline_class(**taken)
        self.pipe.set_progress_bar_config(disable=True)

    def run(
        self, prompts: list[str], steps: int, height: int | None, width: int | None, noise: Tensor | None
    ) -> Tensor:
        """What the pipeline hands to its VAE.

        Args:
            height, width: the image's, in pixels; the pipeline's own where ``None``.
            noise: z_T ``[B, …]``; the pipeline draws it where ``None``.
        """
        found = self._found
        given = {"height": height, "width": width, "latents": noise}
        with handed_to(self.pipe.vae) as handed:
            self.pipe(
                prompt=list(prompts),
                num_inference_steps=steps,
                output_type="pt",
                **{name: value for name, value in given.items() if value is not None},
                **found.family.call_options(found.config, len(prompts)),
            )
        return handed[0]

    def follow(self, prompts: list[str], steps: int, spec: LatentSpec, noise: Tensor) -> Tensor:
        """z_0 of z_T ``[B, …]`` for images of a known size."""
        family = self._found.family
        dtype = torch.float32 if family.keeps_float32 else getattr(self.pipe, family.denoiser).dtype
        return self.run(prompts, steps, spec.height, spec.width, noise.to(dtype))

    def _hollow(self, name: str, model: Any) -> None:
        """Let a model's forward pass compute shapes, and answer with constants on the CPU."""
        from torch.utils._pytree import tree_map

        from noisesmith.pipeline.models.shapes import without_numbers

        compute = model.forward
        constant = _noise if name == self._found.family.denoiser else _zeros

        def forward(*args: object, **kwargs: object) -> object:
            key = f"{name}{tree_map(_shape, (args, kwargs))}"
            if key not in self.passes:
                work = partial(compute, *args, **kwargs)
                self.passes[key] = Pass(name, work, tree_map(constant, without_numbers(work)))
            self.passes[key].count += 1
            return self.passes[key].answer

        model.forward = forward
        # The pipeline asks here where a model takes its inputs: on the CPU, where their numbers are.
        model._hf_hook = SimpleNamespace(execution_device="cpu")


def _standardise(vae: Any) -> None:
    """Put ones where a VAE's buffers have no numbers: they are statistics that pipelines scale latents by."""
    for name, buffer in vae.named_buffers():
        if buffer.is_meta:
            owner, _, attribute = name.rpartition(".")
            setattr(vae.get_submodule(owner), attribute, torch.ones(buffer.shape, dtype=buffer.dtype))


def _shape(value: object) -> object:
    """What decides the work on a value: its shape, and the contents of a mask, since a model may cut off padding."""
    if not isinstance(value, torch.Tensor):
        return value
    is_mask = not value.is_floating_point() and value.ndim > 1  # timesteps have one axis or none
    contents = hash(value.cpu().numpy().tobytes()) if is_mask else None
    return tuple(value.shape), value.dtype, contents


def _zeros(value: object) -> object:
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if isinstance(value, torch.Tensor) else value


def _noise(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.dtype)
