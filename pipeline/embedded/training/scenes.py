"""Scenes of the embedded world: what is where, and the picture of it.

Scenes are built so that the geometry (``geometry.py``) never has a doubtful case: they keep clear of the borders,
stacked objects have a vertical gap of at most 0 (on) or at least 7 pixels (above), and objects side by side are never
aligned vertically. Every object stands out from the background, white and grey ones too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noisesmith.pipeline.embedded.geometry import SIZE
from noisesmith.pipeline.embedded.grammar import (
    ANIMALS,
    COLOURS,
    NOUNS,
    RELATIONS,
    THINGS,
    WEARABLES,
    Phrase,
    ScenePrompt,
)
from noisesmith.pipeline.embedded.sprites import Pixels, aspect, mean_colour, sprite

STEP = 4  # corners of sprites lie on multiples of this: half a patch of the scorer, half a latent cell
NORMAL = 24  # longest side of an object, pixels
LAYOUTS = ("single", "and", "with", "on", "above")
LAYOUT_SHARES = (10, 34, 14, 18, 24)
CONTRAST = 0.27  # least difference in one of RGB (0..1) between a background and each object's mean colour
BACKGROUNDS_TRIED = 12  # until one has this contrast; where none has, the one with the most is taken

Background = tuple[float, float, float]


@dataclass(frozen=True)
class Item:
    """One sprite: its noun, its colour (``None`` for animals), centre and longest side in pixels."""

    noun: str
    colour: str | None
    x: float
    y: float
    size: int


@dataclass(frozen=True)
class Scene:
    """Items on a background of RGB in 0..1; the upper or worn item is the first of ``items``."""

    items: tuple[Item, ...]
    layout: str
    background: Background


def render(scene: Scene) -> Pixels:
    """Draw a scene: uint8 [64, 64, 3]. The last of ``items`` is drawn first, so the upper or worn one ends on top."""
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = scene.background
    for item in reversed(scene.items):
        rgba = sprite(item.noun, item.colour, item.size)
        height, width = rgba.shape[:2]
        top = round(item.y - height / 2)
        left = round(item.x - width / 2)
        rows = slice(max(top, 0), min(top + height, SIZE))
        columns = slice(max(left, 0), min(left + width, SIZE))
        part = rgba[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        view = canvas[rows, columns]
        view += part[..., 3:] * (part[..., :3] - view)
    return (canvas * 255 + 0.5).astype(np.uint8)


def sample(rng: random.Random, layout: str | None = None) -> Scene:
    """A random scene of ``layout`` (drawn by ``LAYOUT_SHARES`` when not given)."""
    layout = layout or rng.choices(LAYOUTS, LAYOUT_SHARES)[0]
    if layout == "single":
        return place(ScenePrompt(Phrase(rng.choice(NOUNS))), rng)
    if layout == "with":
        return place(ScenePrompt(Phrase(rng.choice(ANIMALS)), "with", Phrase(rng.choice(WEARABLES))), rng)
    first, second = rng.sample(NOUNS, 2)
    return place(ScenePrompt(Phrase(first), layout, Phrase(second)), rng)


def crowded(rng: random.Random, count: int = 5) -> Scene:
    """Several overlapping objects anywhere: much foreground per picture, to train the autoencoder and the judge."""
    items: list[Item] = []
    for noun in rng.sample(NOUNS, count):
        colour = _coloured(Phrase(noun), rng)
        items.append(Item(noun, colour, rng.uniform(10, 54), rng.uniform(10, 54), rng.randint(18, 28)))
    return Scene(tuple(items), "crowded", background(items, rng))


def background(items: Sequence[Item], rng: random.Random) -> Background:
    """A tinted light grey, as most icons and product photographs have.

    Each item's mean colour differs from it by at least :data:`CONTRAST` in one of RGB, as far as that is possible.
    """
    best: Background = (0.0, 0.0, 0.0)
    most = -1.0
    for _ in range(BACKGROUNDS_TRIED):
        base = rng.uniform(0.62, 0.9)
        red, green, blue = (min(1.0, max(0.0, base + rng.uniform(-0.1, 0.1))) for _ in range(3))
        contrast = min(_difference((red, green, blue), mean_colour(item.noun, item.colour)) for item in items)
        if contrast > most:
            best = (red, green, blue)
            most = contrast
        if most >= CONTRAST:
            break
    return best


def _difference(one: Background, other: Background) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def place(prompt: ScenePrompt, rng: random.Random, on: bool = False) -> Scene:
    """A scene of which ``prompt`` is true; ``on`` lets an "above" scene touch. Corners lie on multiples of ``STEP``."""
    items, layout = _arrange(prompt, rng, on)
    return Scene(items, layout, background(items, rng))


def _arrange(prompt: ScenePrompt, rng: random.Random, on: bool) -> tuple[tuple[Item, ...], str]:
    first = prompt.first
    second = prompt.second
    if second is None:
        return _alone(first, rng), "single"
    if prompt.join == "with" and second.noun in WEARABLES:  # worn things rest on the head: on the face they blur
        return _stacked(second, first, rng, touching=True), "with"
    if prompt.join not in RELATIONS:
        return _side_by_side(first, second, rng), "and"
    touching = prompt.join == "on" or on
    upper, lower = (second, first) if prompt.join in ("under", "below") else (first, second)
    return _stacked(upper, lower, rng, touching=touching), "on" if touching else "above"


def _alone(phrase: Phrase, rng: random.Random) -> tuple[Item, ...]:
    width, height = _extent(phrase.noun)
    left = _snap(rng, 6, SIZE - 6 - width)
    top = _snap(rng, 6, SIZE - 6 - height)
    return (_put(phrase, rng, left, top),)


def _stacked(upper: Phrase, lower: Phrase, rng: random.Random, *, touching: bool) -> tuple[Item, ...]:
    upper_width, upper_height = _extent(upper.noun)
    lower_width, lower_height = _extent(lower.noun)
    middle = rng.randint(23, 41)
    lefts = [STEP * round((middle - width / 2 + rng.uniform(-2, 2)) / STEP) for width in (upper_width, lower_width)]
    if touching:
        upper_top = _snap(rng, 3, SIZE - 3 - upper_height - lower_height)
        lower_top = STEP * ((upper_top + upper_height) // STEP)
    else:
        upper_top = _snap(rng, 0, min(12, SIZE - 10 - upper_height - lower_height))
        bottom = upper_top + upper_height
        lower_top = _snap(rng, bottom + 7, min(SIZE - lower_height, bottom + 14))
    return _put(upper, rng, lefts[0], upper_top), _put(lower, rng, lefts[1], lower_top)


def _side_by_side(first: Phrase, second: Phrase, rng: random.Random) -> tuple[Item, ...]:
    first_width, _ = _extent(first.noun)
    second_width, _ = _extent(second.noun)
    left = _snap(rng, 0, min(12, SIZE - 4 - first_width - second_width))
    edge = left + first_width
    right = _snap(rng, max(edge + 4, left + 25), min(SIZE - second_width, edge + 12))
    tops = [16 + STEP * rng.randint(0, 2) + STEP * rng.randint(0, 1) for _ in range(2)]
    return _put(first, rng, left, tops[0]), _put(second, rng, right, tops[1])


def _put(phrase: Phrase, rng: random.Random, left: int, top: int) -> Item:
    width, height = _extent(phrase.noun)
    return Item(phrase.noun, _coloured(phrase, rng), left + width / 2, top + height / 2, NORMAL)


def _extent(noun: str) -> tuple[int, int]:
    width, height = aspect(noun)
    return round(NORMAL * width), round(NORMAL * height)


def _coloured(phrase: Phrase, rng: random.Random) -> str | None:
    """The colour of an item: none for animals, a random one for a thing whose phrase names none."""
    if phrase.noun not in THINGS:
        return None
    return phrase.colour or rng.choice(COLOURS)


def _snap(rng: random.Random, low: float, high: float) -> int:
    """A multiple of ``STEP`` in [low, high], or the largest below ``low`` where there is none (never below 0)."""
    first = -(-int(low) // STEP)
    last = int(high) // STEP
    chosen = rng.randint(first, last) if first <= last else last
    return max(0, STEP * chosen)
