"""Features of the ``datasets`` library that say more than their Arrow types: class labels and media."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

Names = Callable[[Any], Any]


def class_names(features: Any) -> dict[str, Names]:
    """Return, by column of class labels or of lists of them, what puts the labels' names in place of their numbers.

    Args:
        features: ``datasets.Features``, or ``None``.
    """
    found = {}
    for column, feature in (features or {}).items():
        names = _names(feature)
        if names is not None:
            found[column] = names
    return found


def media_columns(features: Any) -> tuple[str, ...]:
    """Return the columns that hold images, audio, video or documents: features that the library decodes."""
    found = []
    for column, feature in (features or {}).items():
        if _is_media(feature):
            found.append(column)
    return tuple(found)


def _names(feature: Any) -> Names | None:
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return partial(_name, feature.names)
    if isinstance(feature, datasets.List | datasets.LargeList) and isinstance(feature.feature, datasets.ClassLabel):
        return partial(_list_of_names, feature.feature.names)
    return None


def _name(names: Sequence[str], label: int | None) -> str | None:
    """Return the name of a label; the library's -1, which stands for none, has none."""
    return None if label is None or label < 0 else names[label]


def _list_of_names(names: Sequence[str], labels: Sequence[int | None]) -> list[str | None]:
    return [_name(names, label) for label in labels]


def _is_media(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_is_media, feature.values()))
    if hasattr(feature, "feature"):
        return _is_media(feature.feature)
    return hasattr(feature, "decode_example")
