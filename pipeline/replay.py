"""Rebuild one row of a run from its recipe alone, and say how it compares with what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.generators import find_generator, load_generator
from pipeline.noise import digest, replay
from pipeline.records import Recipe
from pipeline.scorers.decoder import Decoder, decode_png, encode_png, to_uint8
from pipeline.search import device_for
from pipeline.sinks import read_rows


@dataclass(frozen=True)
class Replay:
    """A rebuilt row. Differences are in grey levels, 0–255; ``revision_now`` is the model the replay used."""

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
    """Rebuild z_T and the image of one committed row.

    Raises:
        UserError: the run has no such row, or its model cannot be loaded.
    """
    row = _find(run_dir, row_id)
    recipe = Recipe.from_row(row["recipe"])
    placement = config.generators
    torch.set_num_threads(int(placement.num_cpus))
    device = device_for(placement.num_gpus)
    generator = load_generator(placement, device)
    if tuple(generator.spec.shape) != recipe.shape:
        raise UserError(
            f"{row_id}: made with latents of shape {recipe.shape}, but the model now has {generator.spec.shape}"
        )
    decoder = Decoder(find_generator(placement), getattr(torch, placement.dtype), device)
    noise = replay(recipe, row_id)
    with torch.no_grad():
        image = to_uint8(decoder(generator.sample([row["prompt"]], noise[None])))[0]
    written = (decode_png(row["image"]) * 255).round().permute(1, 2, 0)
    difference = (image.float() - written).abs()
    return Replay(
        id=row_id,
        prompt=row["prompt"],
        png=encode_png(image),
        noise_identical=digest(noise) == recipe.digest,
        image_identical=bool(difference.max() == 0),
        max_difference=int(difference.max()),
        mean_difference=float(difference.mean()),
        recipe=recipe,
        revision_then=row["generator_revision"],
        revision_now=generator.revision,
    )


def _find(run_dir: Path, row_id: str) -> dict:
    if row_id not in (row["id"] for row in read_rows(run_dir, ["id"])):
        raise UserError(f"{run_dir}: no committed row {row_id!r}; ids are in the id column, such as 00000000-1a2b3c4d")
    wanted = ["id", "prompt", "image", "recipe", "generator_revision"]
    return next(row for row in read_rows(run_dir, wanted) if row["id"] == row_id)
