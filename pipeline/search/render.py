"""The end of a search: the first and the kept image as PNG files, and what the judges say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.images import decode_png, encode_png, to_uint8
from noisesmith.pipeline.scorers.base import Judge

Verdicts = dict[str, tuple[float | None, float | None]]  # by judge: its scores of the first and the kept image


@dataclass(frozen=True)
class Rendered:
    """PNG bytes of a row's first and kept image, and every judge's scores of both."""

    first: bytes
    kept: bytes
    judges: Verdicts


def render(
    decoder: Decoder, judges: Mapping[str, Judge], prompts: Sequence[str], latents: Sequence[tuple[Tensor, Tensor]]
) -> list[Rendered]:
    """Decode z_0 of first and kept images, encode them, and let the judges look at them as they are written.

    Args:
        latents: z_0 ``[C, h, w]`` of each row's first and kept image.
    """
    pictures: list[bytes] = []
    for first, kept in latents:
        first_picture = _picture(decoder, first)
        kept_picture = first_picture if torch.equal(first, kept) else _picture(decoder, kept)
        pictures += [first_picture, kept_picture]
    asked = [prompt for prompt in prompts for _ in range(2)]
    images = torch.stack([decode_png(picture) for picture in pictures]) if judges else torch.empty(0)
    scores = {name: judge.judge(asked, images) for name, judge in judges.items()}
    rendered = []
    for position in range(0, len(pictures), 2):
        verdicts = {name: (given[position], given[position + 1]) for name, given in scores.items()}
        rendered.append(Rendered(pictures[position], pictures[position + 1], verdicts))
    return rendered


def _picture(decoder: Decoder, latents: Tensor) -> bytes:
    """The PNG of one z_0, decoded alone: its pixels then depend on no other row, not even in their last bit."""
    with torch.no_grad():
        return encode_png(to_uint8(decoder(latents[None]))[0])
