"""Splits a prompt into questions about its parts, by rules.

``a cat above a red car`` becomes: is there a cat, is there a car, is the car red, is the cat above the car. A prompt of
the embedded world becomes statements instead, which are asked with the scorer's own question, since its small scorer
knows no other: ``a cat``, ``a red car``, ``a cat above a red car``.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations

from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.text.scene import Clause, Thing, article, read_scene

YES = "Yes"
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_ASKING = """a an any are as at be by can does do did for from had has have how in is it its many more much number of on
    one or other than that the their there these they this those to visible was were what where which who whose with you
    see seen show shown shows depict depicted image picture photo figure scene color colour colored coloured kind type
    sort made yes no please answer word choose"""


def split(prompt: str, template: str) -> tuple[Question, ...]:
    """Questions about the parts of a prompt, in the order of its words; empty where it cannot be split.

    Args:
        template: the scorer's question, with ``{prompt}`` in it.
    """
    scene = grammar.parse(prompt)
    if scene is not None:
        return tuple(Question(template.replace("{prompt}", statement), YES) for statement in scene.parts())
    clauses = read_scene(prompt)
    things = [thing for clause in clauses for thing in clause.things]
    if any(_are_mixed_up(first, second) for first, second in permutations(things, 2)):
        return ()
    nouns = Counter(map(_kind, things))
    twins = frozenset(noun for noun, count in nouns.items() if count > 1)
    questions: list[Question] = []
    for thing in things:
        questions += _about(thing, _kind(thing) in twins)
    for clause in clauses:
        if clause.second is not None:
            questions.append(_about_relation(clause, twins))
    return tuple(questions)


def or_whole(questions: tuple[Question, ...], prompt: str, template: str) -> tuple[Question, ...]:
    """The listed questions; where there are none those of :func:`split`, and else one about the whole prompt."""
    return questions or split(prompt, template) or (Question(template.replace("{prompt}", prompt), YES),)


def strange_words(question: str, prompt: str) -> list[str]:
    """The words of a question that neither the prompt has nor are used for asking; number and case do not matter."""
    known = _stems(prompt)
    return [word for word in _content(question) if _stem(word) not in known]


def names_something(question: str, prompt: str) -> bool:
    """Whether a question has a word of the prompt beyond those that are used for asking."""
    known = _stems(prompt)
    return any(_stem(word) in known for word in _content(question))


def _content(question: str) -> list[str]:
    return [word for word in _WORD.findall(question.lower()) if word not in _ASKING.split()]


def _stems(prompt: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(prompt.lower())}


def _stem(word: str) -> str:
    """A word without the ending of its plural or of its possessive, roughly."""
    word = re.sub(r"['’]s?$", "", word)
    if re.search("(x|z|ch|sh|ss)es$", word):
        return word.removesuffix("es")
    for ending, replacement in (("ies", "y"), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word.removesuffix(ending) + replacement
    return word


def _kind(thing: Thing) -> str:
    """The noun in one form for one and several: of "cars" and "car", "traffic lights" and "traffic light"."""
    *before, last = thing.noun.lower().split()
    return " ".join((*before, _stem(last)))


def _are_mixed_up(first: Thing, second: Thing) -> bool:
    """Whether one question is about both: of "a cat and a cat" any, of "two cars and a red car" how many cars."""
    if _kind(first) != _kind(second):
        return False
    own, other = ({word.lower() for word in thing.attributes} for thing in (first, second))
    return own == other or (first.count is not None and own < other)


def _about(thing: Thing, twin: bool) -> list[Question]:
    """Is it there, how many are there, what is it like. One of two things with the same noun is asked for whole."""
    name = _name(thing, twin)
    questions = [Question(_presence(thing, name), YES)]
    if thing.count is not None:
        questions.append(Question(f"How many {name} are there?", thing.count))
    if not twin:
        for attribute in thing.attributes:
            questions.append(Question(f"{_is(thing)} the {name} {attribute}?", YES))
    return questions


def _presence(thing: Thing, name: str) -> str:
    if thing.plural:
        return f"Are there any {name}?"
    if thing.determiner == "the":
        return f"Is the {name} there?"
    if thing.determiner in ("some", "any"):
        return f"Is there any {name}?"
    return f"Is there {_indefinite(thing, name)}?"


def _about_relation(clause: Clause, twins: frozenset[str]) -> Question:
    first, second = clause.first, clause.second
    assert second is not None
    subject = _name(first, _kind(first) in twins)
    object_name = _name(second, _kind(second) in twins)
    if clause.relation == "with":
        there = "Are there" if first.plural else "Is there"
        return Question(f"{there} {_indefinite(first, subject)} with {_indefinite(second, object_name)}?", YES)
    # A verb without a preposition does something to the thing: "wearing a hat".
    is_verb_alone = str(clause.relation).endswith("ing")
    thing = _indefinite(second, object_name) if is_verb_alone else f"the {object_name}"
    return Question(f"{_is(first)} the {subject} {clause.relation} {thing}?", YES)


def _indefinite(thing: Thing, name: str) -> str:
    """A name with the determiner that the prompt gives it, as far as it still fits: "a car" of "an orange car"."""
    if thing.determiner == "the":
        return f"the {name}"
    if thing.determiner not in ("a", "an", "one"):
        return name
    if name.startswith(thing.words[1]) and thing.determiner != "one":
        return f"{thing.determiner} {name}"
    return f"{article(name)} {name}"


def _name(thing: Thing, twin: bool) -> str:
    return thing.name if twin else thing.noun


def _is(thing: Thing) -> str:
    return "Are" if thing.plural else "Is"
