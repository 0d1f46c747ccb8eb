"""Reads simple English prompts: things with counts and attributes, joined by "and", commas and relations.

A rule-based reader of captions, without a tagger. It refuses what it does not understand, so that nothing wrong is
asked about a prompt: sentences, "of", attributes joined by "and", several relations in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from noisesmith.pipeline.embedded.grammar import COLOURS
from noisesmith.pipeline.text.subjects import BREAKS, is_verb

_TOKEN = re.compile(r"\s*([^\W\d_]+(?:[-'’][^\W\d_]+)*|[0-9]{1,2}|,)(?![\w])")
_VIEW = re.compile(r"(an? |the )?(photo|photograph|picture|image) of ", re.IGNORECASE)  # says nothing about the things

_PREPOSITIONS = """on above under below underneath beneath over in inside behind with near beside by at against
    in_front_of on_top_of next_to left_of right_of to_the_left_of to_the_right_of on_the_left_of on_the_right_of
    on_the_left_side_of on_the_right_side_of"""
_RELATIONS = sorted((tuple(words.split("_")) for words in _PREPOSITIONS.split()), key=len, reverse=True)
_COUNTS = "two three four five six seven eight nine ten eleven twelve"
_DETERMINERS = "a an the one some any several many"
_OTHER_COLOURS = "grey gold golden silver beige turquoise teal violet magenta cyan maroon"
_OTHER_ATTRIBUTES = """wooden metal metallic plastic glass stone leather rubber striped spotted checkered sparkling
    shiny fluffy furry big small large tiny huge tall short round square"""
_NOT_VERBS = "bed shed sled seed weed reed steed bobsled flowerbed"
ATTRIBUTES = frozenset((*COLOURS, *_OTHER_COLOURS.split(), *_OTHER_ATTRIBUTES.split()))
_ALSO_NOUNS = frozenset(("orange", "glass", "stone"))
_MOST_WORDS = 3  # of a noun, as in "stop sign" or "teddy bear"


@dataclass(frozen=True)
class Thing:
    """One thing that a prompt names.

    Attributes:
        words: all its words as the prompt writes them, determiner included.
        determiner: the first word in lower case, or "" where there is none.
        count: the number word or digits, where there are several things.
        attributes: colours and the like, in order.
        noun: what remains, as in "stop sign".
        plural: whether verbs are plural.
    """

    words: tuple[str, ...]
    determiner: str
    count: str | None
    attributes: tuple[str, ...]
    noun: str
    plural: bool

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def name(self) -> str:
        """The thing without its determiner or count: "red stop sign"."""
        return " ".join((*self.attributes, self.noun))


@dataclass(frozen=True)
class Clause:
    """A thing, or two things under a relation such as "above" or "sitting on"; ``joint`` has the verb before it too."""

    first: Thing
    relation: str | None = None
    second: Thing | None = None
    joint: str = ""

    @property
    def text(self) -> str:
        return self.first.text if self.second is None else f"{self.first.text} {self.joint} {self.second.text}"

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)


def read_scene(prompt: str) -> tuple[Clause, ...]:
    """The clauses of a prompt, which "and" and commas join; empty where the prompt is not understood as a whole."""
    words = _words(prompt)
    clauses = []
    for part in _parts(words):
        clause = _clause(part)
        if clause is None:
            return ()
        clauses.append(clause)
    if any(_may_be_one(first.things[-1], second.things[0]) for first, second in pairwise(clauses)):
        return ()
    return tuple(clauses)


def _may_be_one(first: Thing, second: Thing) -> bool:
    """Whether the first of two things may be an attribute of the second: "an old and rusty car".

    Its noun is then a single word, and the second thing has further words, but no determiner of its own.
    """
    noun = first.noun.lower()
    if first.attributes or " " in noun or _ends_as_plural(noun) or second.determiner or len(second.words) == 1:
        return False
    if noun in _ALSO_NOUNS:
        return True  # "orange and white fur"
    return not second.plural if first.determiner in ("a", "an", "one") else first.determiner != ""


def article(word: str) -> str:
    """ "a" or "an", by the first letter of the next word."""
    return "an" if word[:1].lower() in "aeiou" else "a"


def _words(prompt: str) -> list[str]:
    """The words and commas of a prompt; empty where it holds anything else."""
    text = " ".join(prompt.split()).rstrip(".! ")
    text = _VIEW.sub("", text, count=1) if _VIEW.match(text) else text
    words = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return []
        words.append(token[1])
        place = token.end()
    return words


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    """The words between "and" and commas. A comma before "and" is no part of its own."""
    part: list[str] = []
    for place, word in enumerate(words):
        if word.lower() == "and" and place and words[place - 1] == ",":
            continue
        if word == "," or word.lower() == "and":
            yield part
            part = []
        else:
            part.append(word)
    if words:
        yield part


def _clause(words: Sequence[str]) -> Clause | None:
    found = []
    place = 0
    while place < len(words):
        length = _relation_at(words, place)
        if length:
            found.append((place, place + length))
        place += max(length, 1)
    if len(found) > 1:
        return None  # "a man in a park with a dog": who is with the dog?
    if not found:
        thing = _thing(words)
        return None if thing is None else Clause(thing)
    ((start, stop),) = found
    first = _thing(words[:start])
    second = _thing(words[stop:])
    if first is None or second is None:
        return None
    relation = words[start:stop]
    if relation[0].lower() in ("is", "are"):
        relation = relation[1:]
    return Clause(first, " ".join(relation), second, joint=" ".join(words[start:stop]))


def _relation_at(words: Sequence[str], start: int) -> int:
    """How many words of a relation begin here: "above", "is sitting on", "wearing"; 0 where none does."""
    place = start
    if words[place].lower() in ("is", "are"):
        place += 1
    verb = place < len(words) and is_verb(words[place])
    if verb:
        place += 1
    rest = tuple(word.lower() for word in words[place : place + 5])
    for relation in _RELATIONS:
        if rest[: len(relation)] == relation:
            return place + len(relation) - start
    return place - start if verb else 0


def _thing(words: Sequence[str]) -> Thing | None:
    if not words:
        return None
    first = words[0].lower()
    counted = first in _COUNTS.split() or (first.isdecimal() and int(first) > 1)
    determiner = first if counted or first in _DETERMINERS.split() else ""
    rest = words[1:] if determiner else words
    if not rest or any(word.isdecimal() for word in rest):
        return None
    attributes = [word for word in rest[:-1] if word.lower() in ATTRIBUTES]
    noun = [word for word in rest[:-1] if word.lower() not in ATTRIBUTES] + [rest[-1]]
    if not _is_noun(noun, determiner, counted):
        return None
    singular = determiner in ("a", "an", "one")
    plural = counted or determiner in ("several", "many") or (not singular and _ends_as_plural(noun[-1]))
    count = words[0] if counted else None
    return Thing(tuple(words), determiner, count, tuple(dict.fromkeys(attributes)), " ".join(noun), plural)


def _is_noun(words: Sequence[str], determiner: str, counted: bool) -> bool:
    """Whether words can be a noun: what looks like a verb, a colour or a preposition cannot."""
    last = words[-1].lower()
    if len(words) > _MOST_WORDS or any(word.lower() in BREAKS or is_verb(word) for word in words):
        return False
    if last in ATTRIBUTES - _ALSO_NOUNS:
        return False  # "a red and blue ball"
    if len(words) == 1:
        return True
    if last.endswith("ed") and last not in _NOT_VERBS.split():
        return False  # "a cake topped with …"
    if counted:
        return _ends_as_plural(last) or not any(map(_ends_as_plural, words[:-1]))  # "two dogs swim in …"
    return determiner == "" or not _ends_as_plural(last)  # "a dog swims in …"


def _ends_as_plural(word: str) -> bool:
    return word.lower().endswith("s") and not word.lower().endswith(("ss", "us", "is"))
