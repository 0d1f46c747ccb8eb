"""Scenes of the embedded world: layout, rendering, the truth about them, and questions with known answers.

Geometry, decided once and shared with the judge (x to the right, y down, pixels of a 64×64 picture, boxes from the
sprites' proportions):

- *above*: centres at most ``ALIGNED`` apart sideways, the first one's centre higher, the boxes overlapping
  vertically by at most ``SUNK``. *under* and *below* are the same with the phrases exchanged.
- *on*: above, and the vertical gap between the boxes is less than ``TOUCH``. So what is on is also above.
- *with*: a wearable's box touches or overlaps the other's (both gaps less than ``TOUCH``); other things: as *and*.
- *and*: both objects are there, in the named colours.

Scenes keep clear of the borders: stacked ones have a gap of at most 0 (on) or at least 7 pixels (above), and
side-by-side ones are never aligned vertically.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
from noisesmith.pipeline.embedded.sprites import aspect, sprite

SIZE = 64
ALIGNED = 11.0
SUNK = 9.0
TOUCH = 3.5
STEP = 4  # corners of sprites lie on multiples of this: half a patch of the scorer, half a latent cell
NORMAL, WEARER = 24, 28
WORN = {"crown": 20, "glasses": 20, "bow": 16}
LAYOUTS = ("single", "and", "with", "on", "above")
LAYOUT_SHARES = (10, 34, 14, 18, 24)
NEGATIVES = ("noun", "colour", "relation", "order")


class Located(Protocol):
    """An object with a place: an :class:`Item` of a scene or a detection of the judge."""

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
    """Items in drawing order, upper or worn item first in ``items``, on a background of RGB in 0..1."""

    items: tuple[Item, ...]
    layout: str
    background: tuple[float, float, float]


@dataclass(frozen=True)
class Question:
    """A prompt put to a scene, its true answer, and the kind of negative it is (or the layout, when true)."""

    prompt: ScenePrompt
    answer: bool
    kind: str


def half_extent(item: Located) -> tuple[float, float]:
    width, height = aspect(item.noun)
    return item.size * width / 2, item.size * height / 2


def _gaps(a: Located, b: Located) -> tuple[float, float]:
    """Horizontal and vertical gap between two boxes, negative where they overlap."""
    (aw, ah), (bw, bh) = half_extent(a), half_extent(b)
    return abs(a.x - b.x) - aw - bw, abs(a.y - b.y) - ah - bh


def holds(join: str | None, a: Located, b: Located) -> bool:
    """Whether ``a join b`` is true of two placed objects, by the geometry of this module."""
    if join in ("under", "below"):
        return holds("above", b, a)
    gap_x, gap_y = _gaps(a, b)
    if join in ("above", "on"):
        above = abs(a.x - b.x) <= ALIGNED and a.y < b.y and gap_y >= -SUNK
        return above and (join == "above" or gap_y < TOUCH)
    if join == "with" and b.noun in WEARABLES:
        return gap_x < TOUCH and gap_y < TOUCH
    return True


def matches(phrase: Phrase, item: Located) -> bool:
    """Whether ``item`` is what ``phrase`` names."""
    return item.noun == phrase.noun and phrase.colour in (None, item.colour)


def truth(items: Sequence[Located], prompt: ScenePrompt) -> bool:
    """Whether ``prompt`` is true of the placed objects."""
    firsts = [i for i in items if matches(prompt.first, i)]
    if prompt.second is None:
        return bool(firsts)
    seconds = [i for i in items if matches(prompt.second, i)]
    return any(a is not b and holds(prompt.join, a, b) for a in firsts for b in seconds)


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 [64, 64, 3], later items of ``items`` first, so the upper or worn one ends on top."""
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = scene.background
    for item in reversed(scene.items):
        rgba = sprite(item.noun, item.colour, item.size)
        h, w = rgba.shape[:2]
        top, left = round(item.y - h / 2), round(item.x - w / 2)
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + h, SIZE), min(left + w, SIZE)
        part = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
        view = canvas[y0:y1, x0:x1]
        view += part[..., 3:] * (part[..., :3] - view)
    return (canvas * 255 + 0.5).astype(np.uint8)


def _background(rng: random.Random) -> tuple[float, float, float]:
    base = rng.uniform(0.80, 0.90)
    r, g, b = (base + rng.uniform(-0.09, 0.09) for _ in range(3))
    return r, g, b


def _coloured(phrase: Phrase, rng: random.Random) -> str | None:
    return (phrase.colour or rng.choice(COLOURS)) if phrase.noun in THINGS else None


def _extent(noun: str, size: int) -> tuple[int, int]:
    width, height = aspect(noun)
    return round(size * width), round(size * height)


def _put(phrase: Phrase, rng: random.Random, left: int, top: int, size: int = NORMAL) -> Item:
    width, height = _extent(phrase.noun, size)
    return Item(phrase.noun, _coloured(phrase, rng), left + width / 2, top + height / 2, size)


def _snap(rng: random.Random, low: float, high: float) -> int:
    """A multiple of ``STEP`` in [low, high], or the largest below ``low`` where there is none (never below 0)."""
    first, last = -(-int(low) // STEP), int(high) // STEP
    return max(0, STEP * (rng.randint(first, last) if first <= last else last))


def place(prompt: ScenePrompt, rng: random.Random, on: bool = False) -> Scene:
    """A scene of which ``prompt`` is true; ``on`` lets an "above" scene touch. Corners lie on multiples of ``STEP``."""
    background = _background(rng)
    first, second = prompt.first, prompt.second
    if second is None:
        width, height = _extent(first.noun, NORMAL)
        item = _put(first, rng, _snap(rng, 6, SIZE - 6 - width), _snap(rng, 6, SIZE - 6 - height))
        return Scene((item,), "single", background)
    if prompt.join == "with" and second.noun in WEARABLES:
        return _worn(first, second, rng, background)
    if prompt.join in ("under", "below"):
        first, second = second, first
    (aw, ah), (bw, bh) = (_extent(p.noun, NORMAL) for p in (first, second))
    if prompt.join in RELATIONS:
        touching = prompt.join == "on" or on
        middle = rng.randint(23, 41)
        lefts = [STEP * round((middle - w / 2 + rng.uniform(-2, 2)) / STEP) for w in (aw, bw)]
        if touching:
            top = _snap(rng, 3, SIZE - 3 - ah - bh)
            lower = STEP * ((top + ah) // STEP)
        else:
            top = _snap(rng, 0, min(12, SIZE - 10 - ah - bh))
            lower = _snap(rng, top + ah + 7, min(SIZE - bh, top + ah + 14))
        items = (_put(first, rng, lefts[0], top), _put(second, rng, lefts[1], lower))
        return Scene(items, "on" if touching else "above", background)
    left = _snap(rng, 0, min(12, SIZE - 4 - aw - bw))
    right = _snap(rng, max(left + aw + 4, left + 25), min(SIZE - bw, left + aw + 12))
    tops = [16 + STEP * rng.randint(0, 2) + STEP * rng.randint(0, 1) for _ in range(2)]
    return Scene((_put(first, rng, left, tops[0]), _put(second, rng, right, tops[1])), "and", background)


def _worn(first: Phrase, second: Phrase, rng: random.Random, background: tuple[float, float, float]) -> Scene:
    """The wearable on the head (crown), over the eyes (glasses), or at an ear or the neck (bow)."""
    width, height = _extent(first.noun, WEARER)
    left, top = _snap(rng, 8, SIZE - 8 - width), _snap(rng, 14, SIZE - 6 - height)
    size = WORN[second.noun]
    w, h = _extent(second.noun, size)
    x, y = left + (width - w) / 2, top - h + 4.0
    if second.noun == "bow":
        x, y = rng.choice((left - 4, left + width - 12)), rng.choice((top - 4, top + height - 10))
    elif second.noun == "glasses":
        y = top + 0.4 * height - h / 2
    x, y = (STEP // 2 * round(v / (STEP // 2)) for v in (x, y))
    worn = _put(second, rng, int(max(x, 0)), int(max(y, 0)), size)
    return Scene((worn, _put(first, rng, left, top, WEARER)), "with", background)


def sample(rng: random.Random, layout: str | None = None) -> Scene:
    """A random scene of ``layout`` (drawn by ``LAYOUT_SHARES`` when not given)."""
    layout = layout or rng.choices(LAYOUTS, LAYOUT_SHARES)[0]
    if layout == "single":
        return place(ScenePrompt(Phrase(rng.choice(NOUNS))), rng)
    if layout == "with":
        return place(ScenePrompt(Phrase(rng.choice(ANIMALS)), "with", Phrase(rng.choice(WEARABLES))), rng)
    a, b = rng.sample(NOUNS, 2)
    return place(ScenePrompt(Phrase(a), layout, Phrase(b)), rng)


def crowded(rng: random.Random, count: int = 5) -> Scene:
    """Several overlapping objects anywhere: much foreground a picture, for training the autoencoder and the judge."""
    items = []
    for noun in rng.sample(NOUNS, count):
        colour = _coloured(Phrase(noun), rng)
        items.append(Item(noun, colour, rng.uniform(10, 54), rng.uniform(10, 54), rng.randint(18, 28)))
    return Scene(tuple(items), "crowded", _background(rng))


def _phrase(item: Item, rng: random.Random, drop: float) -> Phrase:
    return Phrase(item.noun, None if rng.random() < drop else item.colour)


def caption(scene: Scene, rng: random.Random, drop: float = 0.15, loose: float = 0.0) -> ScenePrompt:
    """A true prompt of the scene; a colour is left out with probability ``drop`` (in *with*, as the benchmark does,
    always for the wearable), and ``loose`` is the share of stacked scenes described by a weaker word."""
    a = _phrase(scene.items[0], rng, drop)
    if scene.layout == "single":
        return ScenePrompt(a)
    b = _phrase(scene.items[1], rng, drop)
    weaker = rng.random() < loose
    if scene.layout == "with":
        worn = Phrase(a.noun)
        return ScenePrompt(b, "and", a) if weaker else ScenePrompt(b, "with", worn)
    if scene.layout == "and" or (weaker and rng.random() < 0.5):
        return ScenePrompt(a, "and", b) if rng.random() < 0.5 else ScenePrompt(b, "and", a)
    words = ["on"] if scene.layout == "on" and not weaker else ["above"]
    if rng.random() < 0.55:  # the benchmark prefers the lower object first: under 42, below 17
        word = rng.choices(("under", "below"), (2, 1))[0]
        if scene.layout == "above" or weaker:
            return ScenePrompt(b, word, a)
    return ScenePrompt(a, rng.choice(words), b)


def question(scene: Scene, rng: random.Random, answer: bool, kind: str | None = None) -> Question:
    """A question with a known answer; a false one differs from a true prompt in one respect (``kind``)."""
    for _ in range(300):
        base = caption(scene, rng, loose=0.3)
        if answer:
            return Question(base, True, "single" if base.second is None else str(base.join))
        chosen = kind or rng.choice(NEGATIVES)
        prompt = _falsify(base, scene, chosen, rng)
        if prompt is not None and not truth(scene.items, prompt):
            return Question(prompt, False, chosen)
        if kind is not None and not possible(scene, kind):
            raise ValueError(f"no {kind} negative exists for a {scene.layout} scene")
    raise RuntimeError("no false question found")


def possible(scene: Scene, kind: str) -> bool:
    """Whether the scene has negatives of this kind."""
    if kind == "colour":
        return any(i.colour for i in scene.items)
    if kind == "order":
        return scene.layout in ("on", "above")
    return kind == "noun" or scene.layout in ("on", "above", "and")


def _falsify(base: ScenePrompt, scene: Scene, kind: str, rng: random.Random) -> ScenePrompt | None:
    a, join, b = base.first, base.join, base.second
    if kind == "order":
        return ScenePrompt(b, join, a) if b is not None and join in RELATIONS else None
    if kind == "relation":
        if b is None or not possible(scene, kind):
            return None
        if join == "and" and b.noun in WEARABLES and a.noun in ANIMALS and rng.random() < 0.5:
            return ScenePrompt(a, "with", Phrase(b.noun))
        return ScenePrompt(a, rng.choice([r for r in RELATIONS if r != join]), b)
    second = b is not None and rng.random() < 0.5
    phrase = b if second and b is not None else a
    others = [i for i in scene.items if i.noun != phrase.noun]
    if kind == "colour":
        if phrase.colour is None:
            return None
        swap = [i.colour for i in others if i.colour and i.colour != phrase.colour]
        colour = swap[0] if swap and rng.random() < 0.4 else rng.choice(COLOURS)
        phrase = Phrase(phrase.noun, colour)
    else:
        pool: tuple[str, ...] = ANIMALS if phrase.noun in ANIMALS else THINGS
        if join == "with" and second:
            pool = WEARABLES
        noun = rng.choice(pool)
        if b is None and rng.random() < 0.5:  # a missing object: a pair asked of a single
            extra = rng.choice([n for n in NOUNS if n != a.noun])
            missing = Phrase(extra, rng.choice(COLOURS) if extra in THINGS else None)
            pair = (a, missing) if rng.random() < 0.5 else (missing, a)
            return ScenePrompt(pair[0], rng.choice(("and", *RELATIONS)), pair[1])
        if any(i.noun == noun for i in scene.items):
            return None
        phrase = Phrase(noun, phrase.colour)
    return ScenePrompt(a, join, phrase) if second else ScenePrompt(phrase, join, b)
