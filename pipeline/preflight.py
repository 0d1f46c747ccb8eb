"""Checks that need no model and no Ray: models found, and the actors' GPUs and cores there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig, OptimizerConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import LatentSpec, find_generator, latent_spec
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.runtime import quiet_libraries
from noisesmith.pipeline.optimizers.attention import choose_map_size
from noisesmith.pipeline.scorers import find_judge, find_scorer
from noisesmith.pipeline.scorers.openai_server import SERVER


@dataclass(frozen=True)
class Models:
    """The models of a run, found but not loaded."""

    generator: ModelSource
    spec: LatentSpec
    scorer: ModelSource
    judges: tuple[ModelSource, ...]


def find_models(config: RunConfig) -> Models:
    """Find every model a config names.

    Raises:
        UserError: one is missing, of an unsupported class or without the gradient that the method needs; the message
            names the field.
    """
    quiet_libraries()
    generator = find_generator(config.generators)
    spec = latent_spec(config.generators, generator)
    _check_attention(config.optimizer, generator, spec)
    scorer = find_scorer(config.scorers)
    _check_gradient(config, scorer)
    return Models(
        generator=generator,
        spec=spec,
        scorer=scorer,
        judges=tuple(find_judge(judge, config.scorers) for judge in config.judges),
    )


def _check_attention(optimizer: OptimizerConfig, source: ModelSource, spec: LatentSpec) -> None:
    """Refuse an attention method on a model whose attention it cannot read, from its JSON files alone.

    Raises:
        UserError: it is no Stable Diffusion 1.x or 2.x, or has no attention maps of the size asked for.
    """
    if isinstance(optimizer, InitNoConfig | AttendAndExciteConfig):
        is_supported = source.class_name == "StableDiffusionPipeline"
        unet = source.read_json("unet/config.json") if is_supported else {}
        choose_map_size(optimizer.method, optimizer.attention_size, unet, *spec.shape[-2:])


def _check_gradient(config: RunConfig, scorer: ModelSource) -> None:
    method = config.optimizer
    if scorer.class_name == SERVER and method.rounds and method.needs_gradient:
        raise UserError(
            f"optimizer.method: {method.method} needs the score's gradient, which a server cannot give; "
            "use random_sampling or random_diffusion, or a scorers.model that is loaded here"
        )


def check_resources(config: RunConfig, have: Mapping[str, float], where: str) -> None:
    """Refuse actors that would never be placed.

    Args:
        have: GPUs and cores as Ray counts them: ``{"GPU": 0, "CPU": 2}``.
        where: who has them, for the message: "this machine", "the cluster".

    Raises:
        UserError: the actors ask for more than there is.
    """
    sides = {"generators": config.generators, "scorers": config.scorers}
    for resource, field, unit in (("GPU", "num_gpus", "GPUs"), ("CPU", "num_cpus", "CPU cores")):
        wanted = sum(side.count * getattr(side, field) for side in sides.values())
        if wanted > have.get(resource, 0):
            shares = " + ".join(f"{side.count} × {getattr(side, field):g} for {name}" for name, side in sides.items())
            raise UserError(
                f"generators.{field}, scorers.{field}: {shares} make {wanted:g} {unit} but {where} has "
                f"{have.get(resource, 0):g}; lower count or {field}"
            )


def machine_resources() -> dict[str, float]:
    """This machine's usable GPUs and cores."""
    import torch

    return {"GPU": float(torch.cuda.device_count()), "CPU": float(len(os.sched_getaffinity(0)))}
