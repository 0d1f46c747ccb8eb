"""The recipe of a kept image: the moves that lead from the row's first noise to its own."""

from __future__ import annotations

from collections.abc import Sequence

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Parent, Recipe
from noisesmith.pipeline.search.tasks import ImageRecord, NextImage


def recipe_of(
    config: RunConfig,
    images: Sequence[NextImage],
    records: Sequence[ImageRecord],
    kept: int,
    parent: Parent | None = None,
) -> Recipe:
    """How to rebuild the noise of image ``kept``.

    Args:
        images, records: those of the row, in the order in which they were made.
        parent: the row from which this one goes on; its moves come first.
    """
    earlier = parent.recipe if parent is not None else None
    record = records[kept]
    probe = images[kept].parent if images[kept].taken else None
    calls = [kept] if probe is None else [probe, kept]  # a finished probe was made in two
    moves = _moves_to(images, kept) if config.optimizer.folds else []
    return Recipe(
        method=config.optimizer.method,
        seed=config.seed,
        shape=record.shape,
        rounds=(*(earlier.rounds if earlier else ()), *(images[image].round for image in moves)),
        gammas=(*(earlier.gammas if earlier else ()), *(records[image].gamma for image in moves)),
        indices=(*(earlier.indices if earlier else ()), *(records[image].index for image in moves)),
        candidates=getattr(config.optimizer, "candidates", 1),
        steps=images[kept].steps,
        batch_size=max(records[image].batch_size for image in calls),
        digest=record.digest,
    )


def _moves_to(images: Sequence[NextImage], image: int) -> list[int]:
    """The images whose moves lead from the first noise to this image's noise, in order."""
    moves: list[int] = []
    current = image
    while (parent := images[current].parent) is not None:
        # A preview or a probe that is made at full steps keeps its noise, so that is no move.
        if not images[current].rerender:
            moves.append(current)
        current = parent
    moves.reverse()
    return moves
