"""The words of the embedded world and the prompts made of them.

The vocabulary and the prompt forms are those of the Noise Diffusion benchmark (arXiv 2411.16503): pairs joined by
"and" or "with" (simple) and by a spatial relation (complex). Animals carry no colour; things do, except the
wearables after "with" (``a lion with a crown``), and the benchmark writes ``a glasses``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

ANIMALS = ("cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit", "mouse")
THINGS = (
    "backpack", "glasses", "crown", "suitcase", "chair", "balloon", "bow", "car", "bowl", "bench", "clock", "apple",
)  # fmt: skip
WEARABLES = ("bow", "crown", "glasses")
COLOURS = ("red", "purple", "yellow", "gray", "white", "green", "blue", "orange", "black", "brown", "pink")
RELATIONS = ("on", "above", "under", "below")
JOINS = ("and", "with", *RELATIONS)
NOUNS = ANIMALS + THINGS
GRAMMARS = ("simple", "complex")

_PHRASE = rf"an? (?:({'|'.join(COLOURS)}) )?({'|'.join(NOUNS)})"
_PROMPT = re.compile(rf"^{_PHRASE}(?: ({'|'.join(JOINS)}) {_PHRASE})?$")


@dataclass(frozen=True)
class Phrase:
    """One object as a prompt names it: a noun and, where the prompt says it, its colour."""

    noun: str
    colour: str | None = None

    def __str__(self) -> str:
        words = f"{self.colour} {self.noun}" if self.colour else self.noun
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt of the embedded world: one object, or two joined by a word of :data:`JOINS`."""

    first: Phrase
    join: str | None = None
    second: Phrase | None = None

    def __str__(self) -> str:
        if self.second is None:
            return str(self.first)
        return f"{self.first} {self.join} {self.second}"

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    def parts(self) -> list[str]:
        """The statements that the prompt makes: one per object, and the whole unless "and" is all that joins them."""
        statements = [str(phrase) for phrase in self.phrases]
        if self.join not in (None, "and"):
            statements.append(str(self))
        return statements


def parse(prompt: str) -> ScenePrompt | None:
    """Read a prompt of the embedded world; ``None`` when it is not one."""
    plain = " ".join(prompt.lower().split()).rstrip(".")
    match = _PROMPT.match(plain)
    if match is None:
        return None
    colour, noun, join, colour2, noun2 = match.groups()
    second = Phrase(noun2, colour2) if noun2 else None
    return ScenePrompt(Phrase(noun, colour), join, second)


def parse_own(prompt: str) -> ScenePrompt:
    """Read a prompt that a grammar has made."""
    found = parse(prompt)
    assert found is not None, "the prompt is a grammar's"
    return found


def _phrase(noun: str, rng: random.Random) -> Phrase:
    return Phrase(noun, rng.choice(COLOURS) if noun in THINGS else None)


def _simple(rng: random.Random) -> ScenePrompt:
    """A pair of animals, an animal and a thing, or a pair of things, in the benchmark's shares (66 : 144 : 66)."""
    kind = rng.choices(("animals", "mixed", "things"), weights=(66, 144, 66))[0]
    if kind == "animals":
        first, second = rng.sample(ANIMALS, 2)
    elif kind == "things":
        first, second = rng.sample(THINGS, 2)
    else:
        first = rng.choice(ANIMALS)
        second = rng.choice(THINGS)
        if second in WEARABLES:
            return ScenePrompt(Phrase(first), "with", Phrase(second))
    return ScenePrompt(_phrase(first, rng), "and", _phrase(second, rng))


def _complex(rng: random.Random) -> ScenePrompt:
    """Two different nouns under a relation, in the benchmark's shares (under 42, on 27, below 17, above 14)."""
    relation = rng.choices(("under", "on", "below", "above"), weights=(42, 27, 17, 14))[0]
    first, second = rng.sample(NOUNS, 2)
    return ScenePrompt(_phrase(first, rng), relation, _phrase(second, rng))


def prompts(grammar: str, seed: int) -> Iterator[ScenePrompt]:
    """Endless prompts of the grammar ``simple`` or ``complex``; a prompt may come twice.

    The same seed gives the same prompts.

    Raises:
        ValueError: ``grammar`` is not one of :data:`GRAMMARS`.
    """
    if grammar not in GRAMMARS:
        raise ValueError(f"no grammar {grammar!r}: choose one of {', '.join(GRAMMARS)}")
    rng = random.Random(f"{grammar}/{seed}")
    make = _simple if grammar == "simple" else _complex
    while True:
        yield make(rng)
