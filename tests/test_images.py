"""Grey levels of images."""

from __future__ import annotations

import torch

from noisesmith.pipeline.images import extreme_levels, to_uint8


def test_extreme_levels_are_those_of_the_picture() -> None:
    images = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    images[0] = 0.5
    images[1, 1] = (100.5 - 1e-4) / 255
    images[2, 2, 0, 0] = 2.0
    pixels = to_uint8(images).flatten(1, 2)
    darkest, brightest = extreme_levels(images)
    assert torch.equal(darkest, pixels.amin(1))
    assert torch.equal(brightest, pixels.amax(1))
