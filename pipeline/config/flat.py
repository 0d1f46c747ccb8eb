"""A config as one mapping from dotted keys to values, by which two configs are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from noisesmith.pipeline.embedded import newest


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Return nested mappings and lists as one mapping from dotted key to scalar."""
    if not isinstance(value, dict | list | tuple):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in _items(value):
        flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def without_positions(key: str) -> str:
    """Return a dotted key without the positions in lists: the field that it is a value of."""
    return re.sub(r"\.\d+(?=\.|$)", "", key)


def _items(value: object) -> Iterator[tuple[str, object]]:
    """Yield the items of a mapping or a list, the position in a list as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key), item
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield str(position), item


def left_at_default(whole: object, chosen: object, section: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key of each value that is a field's default, with the dotted prefix of its section.

    Args:
        whole: a section as plain values. chosen: the same without the fields that have their defaults.
        section: the dotted prefix of this section.
    """
    given = dict(_items(chosen))
    for name, value in _items(whole):
        key = f"{section}{name}"
        if name not in given:
            for leaf in flatten(value, key):
                yield leaf, section
        else:
            yield from left_at_default(value, given[name], f"{key}.")


def with_versions(old: Mapping[str, object], new: Mapping[str, object]) -> Mapping[str, object]:
    """``old`` with the built-in models named as in ``new``, where an older version of one makes or scores images there.

    Rows record the weights of these, which are compared before a run goes on; they do not record those of judges.

    Args:
        old, new: the fields of two configs by their dotted keys.
    """
    sides = ("generators.", "scorers.")
    names = [str(value) for key, value in new.items() if key.startswith(sides) and key.endswith(".model")]
    if all(newest(name) == name for name in names):
        return old
    renamed = dict(old)
    for key, value in old.items():
        now = new.get(key)
        if key.endswith(".model") and isinstance(now, str) and newest(now) == value:
            renamed[key] = now
    return renamed
