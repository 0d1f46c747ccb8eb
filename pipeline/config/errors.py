"""Turns what pydantic finds wrong in a config into one sentence for the user."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection
from typing import get_args

from pydantic import BaseModel, ValidationError

from noisesmith.pipeline.config.panel import FORMS

_BEGINNING = reprlib.Repr()
_BEGINNING.maxstring = _BEGINNING.maxlong = _BEGINNING.maxother = 80


def sentence(error: ValidationError, root: type[BaseModel], tags: Collection[str]) -> str:
    """Return the first problem as one sentence with its field and remedy.

    Args:
        root: the model that was validated.
        tags: values of its ``method`` field, which choose between variants of a section and are no part of a key.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    location = [str(part) for part in first["loc"] if part not in tags and part not in FORMS]
    field = ".".join(location) or "config"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    kind = first["type"]
    message = first["msg"]
    given = first.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(root, location[:-1])
        if location[-1] in known:  # it is a key of the section's variant for another method
            method = next((part for part in first["loc"] if part in tags), None)
            if method is None:
                return f"{field}: only a list of {location[0]} has this key; write it as a list, or remove it{more}"
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
    """Return the keys of the section at a location; of all its variants where the section is a choice of method."""
    sections: list[type[BaseModel]] = [root]
    for part in location:
        if part.isdigit():
            continue
        below: list[type[BaseModel]] = []
        for section in sections:
            if part in section.model_fields:
                below += _models(section.model_fields[part].annotation)
        sections = below
    keys: set[str] = set()
    for section in sections:
        keys.update(section.model_fields)
    return sorted(keys)


def _models(annotation: object) -> list[type[BaseModel]]:
    """Return the sections in a field's annotation, such as a union of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for argument in get_args(annotation):
        models += _models(argument)
    return models


def _short(value: object) -> str:
    """Return the beginning of a value, in bounded time: a few YAML aliases can name more items than fit any memory."""
    try:
        text = _BEGINNING.repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
