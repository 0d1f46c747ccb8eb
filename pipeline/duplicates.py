"""Perceptual hashes of images, and which images are nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE = 8
BITS = 3 * SIDE * SIDE
NEAR = 6  # bits of 192; an image of the built-in world saved as JPEG of quality 95 differs in 0 to 5
_FLAT = 3  # grey levels; a smaller difference between neighbours is noise of a flat area


def perceptual_hash(image: Image.Image) -> int:
    """Return a 192-bit difference hash of an image.

    The image is reduced to 9 × 8 pixels; a bit is set where a pixel is brighter than the one to its right, in red,
    green and blue apart: images that differ only in colour are no duplicates.
    """
    small = image.convert("RGB").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.int16)
    bits = pixels[:, :-1] - pixels[:, 1:] > _FLAT
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Iterable[int]) -> list[list[int]]:
    """Return the groups of positions whose hashes are near that of their first one, largest group first.

    Images without a near-duplicate are in no group.
    """
    index = HashIndex()
    groups: list[list[int]] = []
    for position, value in enumerate(hashes):
        group = index.add(value)
        if group is None:
            groups.append([position])
        else:
            groups[group].append(position)
    found = [group for group in groups if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group[0]))


class HashIndex:
    """Finds a hash that differs from a given one in at most ``distance`` bits, without comparing all of them.

    Two such hashes agree in at least one of ``distance`` + 1 blocks of their bits, so only hashes that share a block
    are compared.
    """

    def __init__(self, distance: int = NEAR) -> None:
        self._distance = distance
        self._width = -(-BITS // (distance + 1))
        self._blocks: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._hashes: list[int] = []

    def add(self, value: int) -> int | None:
        """Return the number of an earlier hash that is near, or add this one and return ``None``.

        Hashes are numbered from 0 in the order in which they were added.
        """
        blocks = self._split(value)
        for block in blocks:
            for number in self._blocks.get(block, ()):
                if (self._hashes[number] ^ value).bit_count() <= self._distance:
                    return number
        for block in blocks:
            self._blocks[block].append(len(self._hashes))
        self._hashes.append(value)
        return None

    def _split(self, value: int) -> list[tuple[int, int]]:
        mask = (1 << self._width) - 1
        return [(place, value >> place & mask) for place in range(0, BITS, self._width)]
