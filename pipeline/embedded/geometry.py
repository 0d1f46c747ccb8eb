"""The geometry of the embedded world: when a prompt is true of objects at known positions.

Scenes are built by it and the judge decides by it. x points to the right, y down, in pixels of a 64×64 picture; an
object's box follows from its size and its sprite's proportions.

- *above*: centres at most ``ALIGNED`` apart sideways, the first one's centre higher, the boxes overlapping vertically
  by at most ``SUNK``. *under* and *below* are the same with the phrases exchanged.
- *on*: above, and the vertical gap between the boxes is less than ``TOUCH``. So what is on something is also above it.
- *with*: a wearable's box touches or overlaps the other's (both gaps less than ``TOUCH``); other things: as *and*.
- *and*: both objects are there, in the named colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from noisesmith.pipeline.embedded.grammar import WEARABLES, Phrase, ScenePrompt
from noisesmith.pipeline.embedded.sprites import aspect

SIZE = 64
ALIGNED = 11.0
SUNK = 9.0
TOUCH = 3.5


class Located(Protocol):
    """An object with a position: an item of a rendered scene, or a detection of the judge."""

    @property
    def noun(self) -> str: ...
    @property
    def colour(self) -> str | None: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def size(self) -> float: ...


def half_extent(item: Located) -> tuple[float, float]:
    """Half the width and half the height of an object's box, in pixels."""
    width, height = aspect(item.noun)
    return item.size * width / 2, item.size * height / 2


def holds(join: str | None, a: Located, b: Located) -> bool:
    """Whether ``a join b`` is true of two objects."""
    if join in ("under", "below"):
        return holds("above", b, a)
    gap_x, gap_y = _gaps(a, b)
    if join in ("above", "on"):
        aligned = abs(a.x - b.x) <= ALIGNED
        above = aligned and a.y < b.y and gap_y >= -SUNK
        return above and (join == "above" or gap_y < TOUCH)
    if join == "with" and b.noun in WEARABLES:
        return gap_x < TOUCH and gap_y < TOUCH
    return True


def matches(phrase: Phrase, item: Located) -> bool:
    """Whether ``item`` is what ``phrase`` names."""
    return item.noun == phrase.noun and phrase.colour in (None, item.colour)


def truth(items: Sequence[Located], prompt: ScenePrompt) -> bool:
    """Whether ``prompt`` is true of these objects."""
    firsts = [item for item in items if matches(prompt.first, item)]
    if prompt.second is None:
        return bool(firsts)
    seconds = [item for item in items if matches(prompt.second, item)]
    for first in firsts:
        for second in seconds:
            if first is not second and holds(prompt.join, first, second):
                return True
    return False


def _gaps(a: Located, b: Located) -> tuple[float, float]:
    """Horizontal and vertical gap between two boxes, negative where they overlap."""
    a_width, a_height = half_extent(a)
    b_width, b_height = half_extent(b)
    return abs(a.x - b.x) - a_width - b_width, abs(a.y - b.y) - a_height - b_height
