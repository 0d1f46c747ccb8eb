"""Which rows of a run are exported, and into which split; why the others are not."""

from __future__ import annotations

import hashlib
import io
import math
from array import array
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from noisesmith.pipeline.duplicates import HashIndex, perceptual_hash
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.columns import Kind, kind_of
from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.export.splits import assign_splits
from noisesmith.pipeline.export.where import Condition, read_where, unknown_column

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
DEFAULT_BY = "score"


@dataclass
class Selection:
    """What of a run is exported. ``splits`` has one byte per committed row: 0 where it is not exported, else 1 + the
    number of its split. ``dropped`` counts the other rows by reason."""

    splits: bytearray
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.splits) - self.splits.count(0)

    def drop(self, reason: str, rows: int = 1) -> None:
        """Count rows that are not exported."""
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows


def select(source: Source, options: ExportOptions, to: Format, progress: Progress) -> Selection:
    """Read the columns that decide, and decide about every row. Images are read only to find duplicates.

    Memory grows by a few dozen bytes per row.

    Args:
        progress: given a number of images, shows how many of them were looked at.

    Raises:
        UserError: an option names a column that cannot be used, or no row is left.
    """
    rules = _Rules.of(source, options, to)
    selection = Selection(bytearray(source.size))
    rows = _Candidates()
    for start, batch in source.batches(rules.columns):
        _filter(rules, selection, rows, start, batch)
    chosen = np.arange(len(rows.positions))
    if options.top_k is not None:
        best = _best(rows.arrays(), options.top_k)
        selection.drop(f"not among the {options.top_k} best of the prompt by {rules.by}", len(chosen) - len(best))
        chosen = best
    if options.drop_duplicates and len(chosen):
        single = _without_duplicates(source, rows, chosen, progress, best_first=rules.by is not None)
        selection.drop("nearly the same image as another one", len(chosen) - len(single))
        chosen = single
    if not len(chosen):
        raise nothing_left(source, selection)
    found = rows.arrays()
    splits = assign_splits(found.prompts[chosen], found.values[chosen], options.splits)
    for position, split in zip(found.positions[chosen].tolist(), splits.tolist(), strict=True):
        selection.splits[position] = 1 + split
    return selection


def nothing_left(source: Source, selection: Selection) -> UserError:
    """Return the refusal of an export without a row, which says why rows were dropped."""
    parts = [f"{count} {reason}" for reason, count in selection.dropped.items()]
    why = ", ".join(parts) or "nothing dropped"
    return UserError(f"{source.run_dir}: no row is left to export ({why}); ask for less")


@dataclass(frozen=True)
class _Rules:
    """What decides about a row, and the columns that it reads. ``by`` is set where images are ranked."""

    condition: Condition | None
    by: str | None
    balance: str | None
    to: Format
    seed: int

    @classmethod
    def of(cls, source: Source, options: ExportOptions, to: Format) -> _Rules:
        columns = source.columns
        condition = None if options.where is None else read_where(options.where, columns)
        by = options.by
        if by is None and options.top_k is not None:
            by = DEFAULT_BY
        if by is not None and kind_of(_known("--by", by, columns)) is not Kind.NUMBER:
            raise UserError(f"--by {by}: the column holds {columns[by]}; rank images by a column of numbers")
        if options.balance is not None and kind_of(_known("--balance", options.balance, columns)) is Kind.OTHER:
            raise UserError(
                f"--balance {options.balance}: the column holds {columns[options.balance]}; use one of texts, numbers "
                "or booleans"
            )
        return cls(condition, by, options.balance, to, options.seed)

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        names = ["prompt", *self.to.decides_by]
        if self.condition is not None:
            names.extend(self.condition.columns)
        names.extend(name for name in (self.by, self.balance) if name is not None)
        return list(dict.fromkeys(names))


@dataclass
class _Candidates:
    """The rows that pass so far: a few numbers each. ``ranks`` is what images are ranked by."""

    positions: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    ranks: array[float] = field(default_factory=lambda: array("d"))
    values: array[int] = field(default_factory=lambda: array("q"))
    _numbers: dict[object, int] = field(default_factory=dict)

    def add(self, position: int, prompt: int, rank: float, value: object) -> None:
        self.positions.append(position)
        self.prompts.append(prompt)
        self.ranks.append(rank)
        self.values.append(self._numbers.setdefault(value, len(self._numbers)))

    def arrays(self) -> _Arrays:
        return _Arrays(
            np.frombuffer(self.positions, np.int64),
            np.frombuffer(self.prompts, np.uint64),
            np.frombuffer(self.ranks, np.float64),
            np.frombuffer(self.values, np.int64),
        )


@dataclass(frozen=True)
class _Arrays:
    positions: NDArray[np.int64]
    prompts: NDArray[np.uint64]
    ranks: NDArray[np.float64]
    values: NDArray[np.int64]


def _filter(rules: _Rules, selection: Selection, rows: _Candidates, start: int, batch: list[dict[str, Any]]) -> None:
    """Add the rows of a batch that pass, and count the others."""
    held = [True] * len(batch) if rules.condition is None else rules.condition.holds(batch)
    for offset, (row, holds) in enumerate(zip(batch, held, strict=True)):
        if not holds:
            selection.drop("not matched by --where")
            continue
        refusal = rules.to.refusal(row)
        if refusal is not None:
            selection.drop(refusal)
            continue
        rank = 0.0
        if rules.by is not None:
            value = row[rules.by]
            if value is None or math.isnan(float(value)):
                selection.drop(f"without a value of {rules.by}")
                continue
            rank = float(value)
        balanced = None if rules.balance is None else row[rules.balance]
        rows.add(start + offset, _prompt_hash(row["prompt"], rules.seed), rank, balanced)


def _best(rows: _Arrays, count: int) -> NDArray[np.int64]:
    """Return the numbers of the ``count`` best rows of each prompt, in order; of equal ones the first."""
    order = np.lexsort((rows.positions, -rows.ranks, rows.prompts))
    prompts = rows.prompts[order]
    starts = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]])
    sizes = np.diff(np.r_[starts, len(prompts)])
    place = np.arange(len(prompts)) - np.repeat(starts, sizes)
    return np.sort(order[place < count])


def _without_duplicates(
    source: Source, rows: _Candidates, chosen: NDArray[np.int64], progress: Progress, *, best_first: bool
) -> NDArray[np.int64]:
    """Return the chosen rows whose image is not nearly that of another one that stays.

    The best one stays where images are ranked, else the first.
    """
    found = rows.arrays()
    wanted = bytearray(source.size)
    for position in found.positions[chosen].tolist():
        wanted[position] = 1
    hashes = []
    with progress(len(chosen)) as advance:
        for _, row in source.rows(["image"], wanted):
            with Image.open(io.BytesIO(row["image"])) as image:
                hashes.append(perceptual_hash(image))
            advance(1)
    order = np.argsort(-found.ranks[chosen], kind="stable") if best_first else np.arange(len(chosen))
    index = HashIndex()
    kept = [number for number in order.tolist() if index.add(hashes[number]) is None]
    return np.sort(chosen[kept])


def _known(option: str, name: str, columns: Mapping[str, str]) -> str:
    """Return the type of a column, or refuse one that the run does not have."""
    if name not in columns:
        raise UserError(unknown_column(option, name, columns))
    return columns[name]


def _prompt_hash(prompt: str, seed: int) -> int:
    """64 bits that stand for a prompt; another seed gives other splits."""
    digest = hashlib.blake2b(f"{seed}/{prompt}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
