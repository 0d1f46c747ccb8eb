"""The pictures of a page: thumbnails of first and kept images, and the perceptual hash of each kept one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image

from noisesmith.pipeline.duplicates import perceptual_hash
from noisesmith.pipeline.report.page.thumbnails import thumbnail

# Decoding and encoding leave Python's lock, so threads use the cores.
_WORKERS = min(8, os.cpu_count() or 1)
_AT_ONCE = 4 * _WORKERS  # rows whose images are held in memory


@dataclass(frozen=True)
class Pictures:
    """What the page shows of one row.

    ``first`` and ``kept`` are WebP; ``first`` is ``None`` where the run keeps no first images. ``hash`` is the kept
    image's :func:`perceptual_hash`.
    """

    first: bytes | None
    kept: bytes
    hash: int


def make_pictures(rows: Iterable[dict[str, Any]], limit: int) -> Iterator[tuple[str, Pictures]]:
    """Yield the id and the pictures of each row, in order.

    Args:
        rows: with ``id``, ``image`` and, where the run keeps it, ``image_initial`` as encoded bytes.
        limit: of the bytes of a thumbnail.
    """
    rest = iter(rows)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while batch := list(islice(rest, _AT_ONCE)):
            made = pool.map(lambda row: _pictures_of(row, limit), batch)
            for row, pictures in zip(batch, made, strict=True):
                yield row["id"], pictures


def _pictures_of(row: dict[str, Any], limit: int) -> Pictures:
    picture = Image.open(io.BytesIO(row["image"]))
    kept = thumbnail(picture, limit)
    first = None
    encoded = row.get("image_initial")
    if encoded == row["image"]:
        first = kept
    elif encoded is not None:
        first = thumbnail(Image.open(io.BytesIO(encoded)), limit)
    return Pictures(first, kept, perceptual_hash(picture))
