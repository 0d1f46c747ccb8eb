"""The end of a search: the images to keep as PNG files, and what the judges say of the first and the kept one."""

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
    """PNG bytes of a row's images, the first and the kept one before others, and every judge's scores of these two."""

    pictures: list[bytes]
    judges: Verdicts


def render(
    decoder: Decoder, judges: Mapping[str, Judge], prompts: Sequence[str], latents: Sequence[Sequence[Tensor]]
) -> list[Rendered]:
    """Decode z_0 of images, encode them, and let the judges look at first and kept images as they are written.

    Args:
        latents: z_0 ``[C, h, w]`` of each row's first image, of its kept one, and of any others to write.
    """
    pictures: list[list[bytes]] = []
    for first, kept, *others in latents:
        first_picture = _picture(decoder, first)
        kept_picture = first_picture if torch.equal(first, kept) else _picture(decoder, kept)
        pictures.append([first_picture, kept_picture, *(_picture(decoder, other) for other in others)])
    asked = [prompt for prompt in prompts for _ in range(2)]
    judged = [picture for row in pictures for picture in row[:2]] if judges else []
    images = torch.stack([decode_png(picture) for picture in judged]) if judges else torch.empty(0)
    scores = {name: judge.judge(asked, images) for name, judge in judges.items()}
    rendered = []
    for number, row in enumerate(pictures):
        verdicts = {name: (given[2 * number], given[2 * number + 1]) for name, given in scores.items()}
        rendered.append(Rendered(row, verdicts))
    return rendered


def _picture(decoder: Decoder, latents: Tensor) -> bytes:
    """The PNG of one z_0, decoded alone: its pixels then depend on no other row, not even in their last bit."""
    with torch.no_grad():
        return encode_png(to_uint8(decoder(latents[None]))[0])
