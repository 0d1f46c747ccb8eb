"""What pydantic finds wrong in a config, as one sentence for the user."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_BEGINNING = reprlib.Repr()
_BEGINNING.maxstring = _BEGINNING.maxlong = _BEGINNING.maxother = 80


def sentence(error: ValidationError, root: type[BaseModel], tags: Collection[str]) -> str:
    """The first problem as one sentence with its field and remedy.

    Args:
        root: the model that was validated.
        tags: values of its ``method`` field, which choose between variants of a section and are no part of a key.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    location = [str(part) for part in first["loc"] if part not in tags]
    field = ".".join(location) or "config"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    kind, message, given = first["type"], first["msg"], first.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(root, location[:-1])
        if location[-1] in known:  # of another method's variant of the section
            method = next(part for part in first["loc"] if part in tags)
            return f"{field}: method {method} has no such key; remove it{more}"
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; remove it"
        return f"{field}: unknown key{hint}{more}"
    if kind == "missing":
        return f"{field}: is required{more}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"{field}.method: must be one of {', '.join(tags)}{more}"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{field}: {message}{more}" if location else f"{message}{more}"
    for lead in ("Input should be", "String should", "Tuple should"):
        message = message.replace(lead, "must be" if lead.endswith("be") else "must")
    return f"{field}: {message[0].lower()}{message[1:]}, but it is {_short(given)}{more}"


def _known_keys(root: type[BaseModel], location: list[str]) -> list[str]:
    """The keys of the section at a location; of all its variants where the section is a choice of method."""
    sections: list[type[BaseModel]] = [root]
    for part in location:
        if not part.isdigit():
            fields = [section.model_fields[part] for section in sections if part in section.model_fields]
            sections = [model for field in fields for model in _models(field.annotation)]
    return sorted({name for section in sections for name in section.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _short(value: Any) -> str:
    """A value's beginning, in bounded time: a few YAML aliases can name more items than fit any memory."""
    try:
        text = _BEGINNING.repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
