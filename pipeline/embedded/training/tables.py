"""The figures of an evaluation as the tables of the model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ALONE = re.compile(r"alone, (?P<column>guidance \S+): (?P<row>.+)")
BY_EYE = re.compile(r"by eye, (?P<collection>\w+): (?P<row>\w+) (?P<measure>agrees|precision|recall)")


def tables(figures: Mapping[str, float]) -> str:
    """Three Markdown tables: single objects by word, agreement with the labels by eye, and all other figures."""
    alone: dict[str, dict[str, float]] = {}
    by_eye: dict[str, dict[str, float]] = {}
    others: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        if found := ALONE.fullmatch(name):
            alone.setdefault(found["row"], {})[found["column"]] = value
        elif found := BY_EYE.fullmatch(name):
            by_eye.setdefault(found["row"], {})[f"{found['collection']}: {found['measure']}"] = value
        else:
            others[name] = {"value": value}
    parts = [_table("alone", alone), _table("against labels by eye", by_eye), _table("measure", others)]
    return "\n\n".join(part for part in parts if part)


def _table(corner: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """One table; empty without rows. Every row has the columns of the first."""
    if not rows:
        return ""
    columns = list(next(iter(rows.values())))
    lines = [_line([corner, *columns]), _line(["---"] * (len(columns) + 1))]
    for row, values in rows.items():
        lines.append(_line([row, *(f"{values[column]:.3f}" for column in columns)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
