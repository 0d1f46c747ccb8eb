"""One row of a run as the page has it: plain values that JSON holds and JavaScript reads exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisesmith.pipeline.acceptance import ACCEPTED
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.report.figures import figures_of
from noisesmith.pipeline.report.meanings import is_own_column
from noisesmith.pipeline.schema import ATOMS, IMAGES, NOISE_BYTES, PARENT, TOKENS_CUT
from noisesmith.pipeline.sinks.manifest import Manifest

TEXT_LIMIT = 2000  # characters of a prompt
VALUE_LIMIT = 300  # characters of a corpus column's value
_EXACT = 2**53  # larger integers lose digits as JavaScript numbers
_DIGITS = 5  # of a score or a statistic
_ALL_DIGITS = 17  # of a recipe, which must give the same noise again


@dataclass(frozen=True)
class RowColumns:
    """Which columns of a run the page shows.

    ``scores`` maps the key of a score (score, score_NAME, judge_NAME) to its columns of first and kept image, ``extra``
    are those of the corpus and of further side tables.
    """

    scores: dict[str, tuple[str, str]]
    extra: list[str]
    has_atoms: bool
    has_verdicts: bool
    has_first: bool
    has_parents: bool
    has_cut: bool

    def small(self) -> list[str]:
        """The columns to read, without images."""
        names = ["id", "prompt", "scores", "steps", "rounds", "stop_reason", "recipe", "noise"]
        names += ["width", "height"]
        for pair in self.scores.values():
            names.extend(pair)
        if self.has_atoms:
            names.append(ATOMS)
        if self.has_verdicts:
            names += ["accepted", "accept_reason"]
        if self.has_cut:
            names.append(TOKENS_CUT)
        if self.has_parents:
            names.append(PARENT)
        return [*names, *self.extra]

    def images(self) -> list[str]:
        """The columns of the images."""
        return ["image", "image_initial"] if self.has_first else ["image"]


def columns_of_page(config: RunConfig, manifest: Manifest) -> RowColumns:
    """Which columns of a run the page shows; a run of an older version has fewer."""
    figures = figures_of(config, manifest)
    names = manifest.columns
    scores = {"score": ("score_initial", "score")}
    for key in [f"score_{member}" for member in figures.members] + [f"judge_{judge}" for judge in figures.judges]:
        scores[key] = (f"{key}_initial", key)
    taken = {*IMAGES, NOISE_BYTES, "accepted", "accept_reason"}
    for pair in scores.values():
        taken.update(pair)
    extra = [name for name in names if name not in taken and not is_own_column(name)]
    return RowColumns(
        scores=scores,
        extra=extra,
        has_atoms=ATOMS in names,
        has_verdicts=ACCEPTED in manifest.side_columns,
        has_first="image_initial" in names,
        has_parents=manifest.continues_searches,
        has_cut=TOKENS_CUT in names,
    )


def page_row(row: Mapping[str, Any], columns: RowColumns) -> dict[str, Any]:
    """Return one row as the page has it.

    Args:
        row: with the columns of :meth:`RowColumns.small`.
    """
    scores: dict[str, list[Any]] = {}
    for key, (first, kept) in columns.scores.items():
        scores[key] = [plain(row[first]), plain(row[kept])]
    record: dict[str, Any] = {
        "id": row["id"],
        "prompt": shortened(row["prompt"], TEXT_LIMIT),
        "scores": scores,
        "trajectory": plain(row["scores"]),
        "rounds": row["rounds"],
        "stop": row["stop_reason"],
        "noise": plain(row["noise"]),
        "recipe": plain(row["recipe"], _ALL_DIGITS),
        "size": [row["width"], row["height"]],
        "extra": {name: value_of(row[name]) for name in columns.extra},
    }
    steps = row["steps"]
    if steps and len(set(steps)) > 1:  # some images are previews or probes
        record["steps"] = list(steps)
    if columns.has_atoms:
        record["atoms"] = [[atom["question"], atom["answer"], plain(atom["score"])] for atom in row[ATOMS] or ()]
    if columns.has_verdicts:
        record["accepted"] = row["accepted"]
        record["reason"] = row["accept_reason"]
    if columns.has_cut:
        record["cut"] = row[TOKENS_CUT]
    if columns.has_parents:
        record["parent"] = row[PARENT]
    return record


def plain(value: Any, digits: int = _DIGITS) -> Any:
    """Return a value of a row as JSON and JavaScript have it: floats of ``digits`` digits, large integers as text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return _number(value, digits)
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part, digits) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(part, digits) for part in value]
    return str(value)  # a date, a decimal


def value_of(value: Any) -> Any:
    """Return the value of a corpus column: a number, a text of limited length, or null."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    value = plain(value)
    if isinstance(value, str):
        return shortened(value, VALUE_LIMIT)
    if isinstance(value, list | dict):
        return shortened(str(value), VALUE_LIMIT)
    return value


def shortened(text: str, limit: int) -> str:
    """Return a text, or its beginning with ``…`` where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[:limit] + "…"


def _number(value: float, digits: int) -> float | None:
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
