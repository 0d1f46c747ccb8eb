"""The sizes of a run's images, the largest of which decides how much memory a batch takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from noisesmith.pipeline.config import Resolution
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.preflight import FoundModels

LISTED_SIZES = 8


@dataclass(frozen=True)
class ImageSizes:
    """The shapes that a run's images have, each with its number of rows."""

    rows: Mapping[LatentSpec, int]

    @property
    def largest(self) -> LatentSpec:
        return max(self.rows, key=lambda spec: spec.width * spec.height)

    def at_largest(self, models: FoundModels) -> FoundModels:
        """The models with the shapes of the largest images."""
        return replace(models, generator=replace(models.generator, spec=self.largest))

    def __str__(self) -> str:
        frequent = sorted(self.rows.items(), key=lambda item: -item[1])
        parts = [f"{spec.width}×{spec.height} (rows: {rows:,})" for spec, rows in frequent[:LISTED_SIZES]]
        if len(frequent) > LISTED_SIZES:
            parts.append(f"and {len(frequent) - LISTED_SIZES} others")
        largest = f"{self.largest.width}×{self.largest.height}"
        figures = f"latents, memory and operations are stated for {largest}"
        return f"{', '.join(parts)}; all images of a batch have one size; {figures}"


def sizes_of(models: FoundModels, asked: Mapping[Resolution, int], rows: int) -> ImageSizes:
    """The sizes of a run's images.

    Args:
        asked: the sizes that rows ask for, each with their number. The others have the generator's size.
        rows: how many there are in all.
    """
    found = {models.generator.spec_of(resolution): count for resolution, count in asked.items()}
    others = rows - sum(asked.values())
    if others:
        own = models.generator.spec
        found[own] = found.get(own, 0) + others
    return ImageSizes(found)
