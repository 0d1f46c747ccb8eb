"""The end of a search: the images to keep as PNG files, and what the judges say of the first and the kept one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.images import encode_png, to_float, to_uint8
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.scorers.base import Judge
from noisesmith.pipeline.search.tasks import ALONE, ModelUse

if TYPE_CHECKING:
    from torch import Tensor

Verdicts = dict[str, tuple[float | None, float | None]]  # by judge: its scores of the first and the kept image


@dataclass(frozen=True)
class Rendered:
    """PNG bytes of a row's images, the first and the kept one before others, and every judge's scores of these two."""

    pictures: list[bytes]
    judges: Verdicts


def rows_per_render(batch_size: int) -> int:
    """Rows of a render call, where a score call has so many: each brings at least two images."""
    return max(1, batch_size // 2)


def render(
    decoder: Decoder,
    judges: Mapping[str, Judge],
    prompts: Sequence[str],
    latents: Sequence[Sequence[Tensor]],
    use: ModelUse = ALONE,
) -> list[Rendered]:
    """Decode z_0 of images, let the judges look at first and kept images as they are written, and encode all as PNG.

    Args:
        latents: z_0 ``[C, h, w]`` of each row's first image, of its kept one, and of any others to write.
        use: entered while the models are used.
    """
    rows: list[list[Tensor]] = []
    scores: dict[str, list[float | None]] = {}
    with use:
        for first, kept, *others in latents:
            first_pixels = _pixels(decoder, first)
            kept_pixels = first_pixels if torch.equal(first, kept) else _pixels(decoder, kept)
            rows.append([first_pixels, kept_pixels, *(_pixels(decoder, other) for other in others)])
        if judges:
            images = torch.stack([to_float(pixels) for row in rows for pixels in row[:2]])
            asked = [prompt for prompt in prompts for _ in range(2)]
            scores = {name: judge.judge(asked, images) for name, judge in judges.items()}
    rendered = []
    for number, row in enumerate(rows):
        verdicts = {name: (given[2 * number], given[2 * number + 1]) for name, given in scores.items()}
        rendered.append(Rendered(_encode(row), verdicts))
    return rendered


def _pixels(decoder: Decoder, latents: Tensor) -> Tensor:
    """``[H, W, 3]`` uint8 of one z_0, decoded alone: it then depends on no other row, not even in its last bit."""
    with torch.no_grad():
        return to_uint8(decoder(latents[None]))[0]


def _encode(pixels: Sequence[Tensor]) -> list[bytes]:
    """The PNG of every image of a row; where its first image is the kept one, both are encoded once."""
    first, kept, *others = pixels
    first_picture = encode_png(first)
    kept_picture = first_picture if kept is first else encode_png(kept)
    return [first_picture, kept_picture, *map(encode_png, others)]
