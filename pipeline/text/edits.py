"""Edits of a prompt that an image of the prompt does not show: other order, other relation, other colours."""

from __future__ import annotations

from noisesmith.pipeline.text.scene import Clause, Thing, article, read_scene

_OPPOSITES = {
    "on": "under",
    "on top of": "under",
    "above": "below",
    "over": "under",
    "under": "on",
    "below": "above",
    "beneath": "on top of",
    "underneath": "on top of",
    "behind": "in front of",
    "in front of": "behind",
    "left of": "right of",
    "right of": "left of",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "on the left of": "on the right of",
    "on the right of": "on the left of",
    "on the left side of": "on the right side of",
    "on the right side of": "on the left side of",
}
_MUTUAL = ("with", "near", "beside", "by", "next to", "against", "at")  # true in both orders
_OTHER_COLOURS = {
    "red": "blue", "blue": "yellow", "yellow": "purple", "green": "red", "purple": "green", "orange": "blue",
    "black": "white", "white": "black", "gray": "red", "grey": "red", "brown": "blue", "pink": "green",
}  # fmt: skip


def edits(prompt: str) -> tuple[str, ...]:
    """Prompts that differ from a prompt in one respect and that its images do not show; each once, in a fixed order.

    Empty where the rules do not understand the prompt, or find nothing to change: "a cat and a dog".
    """
    text = " ".join(prompt.split())
    clauses = read_scene(prompt)
    found = []
    for clause in clauses:
        for edited in _other_places(clause):
            found.append(text.replace(clause.text, edited, 1))
    found += _other_colours(text, clauses)
    return tuple(dict.fromkeys(edit for edit in found if edit != text))


def _other_places(clause: Clause) -> list[str]:
    """The clause with its things exchanged, and with the opposite relation."""
    if clause.second is None or clause.relation is None:
        return []
    first, joint, second = clause.first.text, clause.joint, clause.second.text
    found = []
    if not _is_mutual(clause):
        found.append(f"{second} {joint} {first}")
    for relation in sorted(_OPPOSITES, key=len, reverse=True):
        if f" {joint.lower()}".endswith(f" {relation}"):
            opposite = joint[: len(joint) - len(relation)] + _OPPOSITES[relation]
            found.append(f"{first} {opposite} {second}")
            break
    return found


def _is_mutual(clause: Clause) -> bool:
    """Whether the relation of two things is true in both orders."""
    return clause.relation is not None and clause.relation.lower().endswith(_MUTUAL)


def _other_colours(text: str, clauses: tuple[Clause, ...]) -> list[str]:
    """The colours of two things exchanged; where there are not two, another colour for the one."""
    coloured = []
    for clause in clauses:
        for thing in clause.things:
            colours = [word for word in thing.attributes if word.lower() in _OTHER_COLOURS]
            if len(colours) == 1:
                coloured.append((thing, colours[0]))
    taken: set[str] = set()
    if len(coloured) == 2 and coloured[0][1] != coloured[1][1]:
        (first, colour), (second, other) = coloured
        if not _are_alike(first, second, clauses):
            exchanged = text.replace(first.text, "\0", 1).replace(second.text, _with_colour(second, other, colour), 1)
            return [exchanged.replace("\0", _with_colour(first, colour, other))]
        taken = {colour.lower(), other.lower()}
    found = []
    for thing, colour in coloured:
        others = (_OTHER_COLOURS[colour.lower()], *_OTHER_COLOURS)
        new = next(other for other in others if other not in taken)
        found.append(text.replace(thing.text, _with_colour(thing, colour, new), 1))
    return found


def _are_alike(first: Thing, second: Thing, clauses: tuple[Clause, ...]) -> bool:
    """Whether a prompt tells two things apart by one colour alone.

    If they exchange their colours, the prompt says the same as before. It does not where a relation to another thing,
    or an order of the two, tells them apart.
    """
    for clause in clauses:
        things = set(clause.things)
        mutual = things == {first, second} and _is_mutual(clause)
        if clause.second is not None and things & {first, second} and not mutual:
            return False
    return first.noun.lower() == second.noun.lower() and _without_colour(first) == _without_colour(second)


def _without_colour(thing: Thing) -> list[str]:
    """The determiner and the attributes of a thing, without its colour. "a" and "an" count as the same word."""
    words = [word.lower() for word in thing.attributes if word.lower() not in _OTHER_COLOURS]
    return ["a" if thing.determiner == "an" else thing.determiner, *words]


def _with_colour(thing: Thing, old: str, new: str) -> str:
    words = [new if word == old else word for word in thing.words]
    if words[0].lower() in ("a", "an") and words[1] == new:
        words[0] = article(new)
    return " ".join(words)
