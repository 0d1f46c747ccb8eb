"""Whether a row reaches the thresholds of a rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from noisesmith.pipeline.config import AcceptConfig
from noisesmith.pipeline.schema import ATOMS


def rule_columns(rule: AcceptConfig) -> list[str]:
    """Return the columns that a rule reads."""
    columns = [f"judge_{name}" for name in rule.judges]
    if rule.score is not None:
        columns.append("score")
    if rule.atoms is not None:
        columns.append(ATOMS)
    return columns


def verdict(rule: AcceptConfig, row: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Return whether a row is accepted, else the first threshold that it fails.

    A value that is not known never accepts: the reason then says ``unknown``.

    Args:
        row: with the :func:`rule_columns`.
    """
    for name, value, least in _values(rule, row):
        if value is None or math.isnan(value):
            return False, f"{name} unknown"
        if value < least:
            return False, f"{name} below {least:g}"
    return True, None


def _values(rule: AcceptConfig, row: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float]]:
    """Yield the name, the value and the threshold of each part of a rule."""
    if rule.score is not None:
        yield "score", row["score"], rule.score
    for judge, least in rule.judges.items():
        yield f"judge {judge}", row[f"judge_{judge}"], least
    if rule.atoms is not None:
        yield ATOMS, worst_atom(row), rule.atoms


def worst_atom(row: Mapping[str, Any]) -> float | None:
    """Return the smallest score of a row's questions; ``None`` where it has none or one is not known."""
    scores = [atom["score"] for atom in row[ATOMS] or ()]
    return None if not scores or None in scores else min(scores)
