"""Rebuilds one row of a run from its recipe, and compares it with what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisesmith.pipeline.config import GeneratorConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder, load_generator
from noisesmith.pipeline.images import decode_png, encode_png, to_uint8
from noisesmith.pipeline.models.locate import built_in
from noisesmith.pipeline.models.runtime import device_for, threads_for
from noisesmith.pipeline.noise import NoiseKey, digest, rebuild
from noisesmith.pipeline.prompts.corpus import subject_list
from noisesmith.pipeline.records import Recipe
from noisesmith.pipeline.schema import NOISE_BYTES
from noisesmith.pipeline.search.generate import denoise
from noisesmith.pipeline.search.tasks import GenerateTask
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.xmp import mark_synthetic


@dataclass(frozen=True)
class Replay:
    """A rebuilt row, its ``png`` as the run writes images.

    Differences are in grey levels, 0–255; ``revision_now`` is the model the replay used.
    """

    id: str
    prompt: str
    png: bytes
    noise_identical: bool
    image_identical: bool
    max_difference: int
    mean_difference: float
    recipe: Recipe
    revision_then: str
    revision_now: str


def replay_row(run_dir: Path, config: RunConfig, row_id: str) -> Replay:
    """Rebuild z_T and the image of one committed row, from its recipe or, if no recipe can, from its stored noise.

    Raises:
        UserError: the run has no such row, did not keep the noise it would need, or its model cannot be loaded.
    """
    if not config.replayable:
        raise UserError(
            f"{run_dir}: {config.optimizer.method} has no recipe for its noise, and output.noise was false, so no row "
            "of this run can be rebuilt"
        )
    row = _find(run_dir, row_id, config)
    recipe = Recipe.from_row(row["recipe"])
    placement = _as_then(config.generators, row["generator_revision"])
    torch.set_num_threads(threads_for(placement.num_cpus))
    device = device_for(placement.num_gpus)
    found = find_generator(placement)
    generator = load_generator(found, device)
    resolution = (row["width"], row["height"])
    shape = generator.sized(resolution).spec.shape
    if shape != recipe.shape:
        raise UserError(f"{row_id}: made with latents of shape {recipe.shape}, but the model now has {shape}")
    decoder = load_decoder(found, device)
    manifest = read_manifest(run_dir)
    search_id = manifest.search_id(row_id)
    noise = rebuild(recipe, search_id, row.get(NOISE_BYTES))
    key = NoiseKey(recipe.seed, search_id, 0)
    task = GenerateTask(row["prompt"], _subjects(row, config), key, recipe.steps, resolution=resolution)
    latents = denoise(config.optimizer, generator, [task], noise[None])
    with torch.no_grad():
        image = to_uint8(decoder(latents))[0]
    written = (decode_png(row["image"]) * 255).round().permute(1, 2, 0)
    difference = (image.float() - written).abs()
    png = encode_png(image)
    if manifest.header.marks_images:
        png = mark_synthetic(png, recipe.digest)
    return Replay(
        id=row_id,
        prompt=row["prompt"],
        png=png,
        noise_identical=digest(noise) == recipe.digest,
        image_identical=bool(difference.max() == 0),
        max_difference=int(difference.max()),
        mean_difference=float(difference.mean()),
        recipe=recipe,
        revision_then=row["generator_revision"],
        revision_now=generator.revision,
    )


def _as_then(generators: GeneratorConfig, revision: str) -> GeneratorConfig:
    """The section with that version of a built-in model which has these weights."""
    model = built_in("generators", generators.model, revision)
    return generators if model is None else generators.model_copy(update={"model": model})


def _find(run_dir: Path, row_id: str, config: RunConfig) -> dict[str, Any]:
    if row_id not in (row["id"] for row in read_rows(run_dir, ["id"])):
        raise UserError(f"{run_dir}: no committed row {row_id!r}; ids are in the id column, such as 00000000-1a2b3c4d")
    wanted = ["id", "prompt", "image", "width", "height", "recipe", "generator_revision", *_subject_columns(config)]
    if config.stores_noise:
        wanted.append(NOISE_BYTES)
    return next(row for row in read_rows(run_dir, wanted) if row["id"] == row_id)


def _subjects(row: dict[str, Any], config: RunConfig) -> tuple[str, ...]:
    for column in _subject_columns(config):
        if row[column]:
            return subject_list(row[column])
    return ()


def _subject_columns(config: RunConfig) -> list[str]:
    listed = [section.columns.written(section.subjects) for section in config.corpus if section.subjects]
    return list(dict.fromkeys(listed))
