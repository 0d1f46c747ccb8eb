"""Check one written row."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import PIL.Image

from noisesmith.pipeline.errors import reason
from noisesmith.pipeline.records import Recipe, index_of, row_id
from noisesmith.pipeline.schema import IMAGES, LISTED, NOISE_BYTES, image_hashes
from noisesmith.pipeline.sinks.manifest import Manifest


def check_row(row: Mapping[str, Any]) -> Iterator[str]:
    """Check that a row agrees with itself: its prompt, its scores, and those of its images that were read."""
    index = index_in(row["id"])
    if index is None or row["id"] != row_id(index, row["prompt"] or ""):
        yield "the prompt is not the one of that id"
    scores = row["scores"]
    if not scores or row["score"] not in scores or row["score_initial"] != scores[0]:
        yield "its score is none of its scores, or its first score not the first of them"
    images = {name: row[name] for name in IMAGES if name in row}
    listed = {f"{LISTED}[{number}]": image for number, image in enumerate(row.get(LISTED) or ()) if image is not None}
    for name, content in (images | listed).items():
        problem = _check_image(content, (row["width"], row["height"]))
        if problem is not None:
            yield f"{name} {problem}"
    for column, digest in image_hashes(images).items():
        if column in row and row[column] != digest:
            yield f"{column} is not that of the image"


def replays(row: Mapping[str, Any], manifest: Manifest) -> bool:
    """Return whether a row's noise, rebuilt from its recipe or read from its column, has the digest it had."""
    from noisesmith.pipeline.noise import digest, rebuild  # imports torch, which nothing else here needs

    try:
        recipe = Recipe.from_row(row["recipe"])
        noise = rebuild(recipe, manifest.search_id(row["id"]), row.get(NOISE_BYTES))
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError):  # values that only damage can have caused
        return False
    return digest(noise) == recipe.digest


def index_in(name: str | None) -> int | None:
    """Return the index in an id, or ``None`` where a damaged file gives something else."""
    try:
        return index_of(name or "")
    except ValueError:
        return None


def _check_image(content: bytes, size: tuple[int, int]) -> str | None:
    try:
        PIL.Image.open(io.BytesIO(content)).verify()
        image = PIL.Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # noqa: BLE001 (on damaged bytes Pillow raises many classes, SyntaxError among them)
        return f"does not decode ({reason(error)})"
    if image.size != size:
        return f"is {image.size} where the row says {size}"
    return None
