"""Searches that go on: the rows that continue others, as a corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import Resolution
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import Parent, Recipe, Row, index_of, with_index
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.storage.home import shell_word

_READ = ["id", "score", "rounds", "recipe"]


@dataclass(frozen=True)
class ContinuedCorpus:
    """Rows that go on from others, in the order in which their searches began.

    ``positions`` has the position of each row, by the index of the row that began the search, and ``parents`` the row
    that it goes on from; the latter is empty where rows are only to be recognised. Prompts and columns are those of
    ``corpora``. The recipes of all parents are held in memory.
    """

    digest: str
    size: int
    extra_schema: pa.Schema
    first: int
    corpora: tuple[Corpus, ...]
    positions: Mapping[int, int]
    parents: Mapping[int, Parent]

    @property
    def whole(self) -> int:
        """The number of its rows: only a whole run can be extended."""
        return self.size

    @property
    def resolutions(self) -> frozenset[Resolution]:
        """The sizes of images that rows of its corpora ask for, which may be more than its own rows do."""
        return frozenset().union(*(corpus.resolutions for corpus in self.corpora))

    def rows(self, start: int = 0, stop: int | None = None, skip: Container[int] = ()) -> Iterator[Row]:
        """Yield rows in order; the arguments are those of ``Corpus.rows``.

        Raises:
            RunError: a source has changed since the corpus was opened.
        """
        among = range(self.size)[start:stop]
        for corpus in self.corpora:
            for row in corpus.rows():
                position = self.positions.get(row.index)
                if position is None or position not in among or self.first + position in skip:
                    continue
                index = self.first + position
                yield replace(row, index=index, id=with_index(row.id, index), parent=self.parents.get(row.index))


def continue_rows(
    corpora: Sequence[Corpus], manifest: Manifest, indices: Sequence[int], parents: Mapping[int, Parent], first: int
) -> ContinuedCorpus:
    """Return the corpus of the rows that go on from others.

    Args:
        indices: of the rows that they go on from, in the order in which the searches began.
        parents: these rows, by the index of the row that began the search.
        first: the index of the corpus's first row.
    """
    digest = hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()
    schema = corpora[0].extra_schema  # those of later parts have no other columns
    positions = {manifest.search_index(index): position for position, index in enumerate(indices)}
    return ContinuedCorpus(digest, len(indices), schema, first, tuple(corpora), positions, parents)


def find_parents(run_dir: Path, manifest: Manifest, below: float, rounds: int) -> dict[int, Parent]:
    """Return the rows whose searches can go on, by the index of the row that began the search, in order.

    Only the last row of a search can: one that another row continues would make the same images again.

    Args:
        below: the score that theirs is below.
        rounds: how many search rounds they may have in all; they have taken fewer.
    """
    parents: dict[int, Parent] = {}
    for row in read_rows(run_dir, _READ):
        search = manifest.search_index(index_of(row["id"]))
        parents.pop(search, None)
        if row["score"] < below and row["rounds"] < rounds:
            parents[search] = _parent(row, manifest)
    return dict(sorted(parents.items()))


def parents_of(run_dir: Path, manifest: Manifest, part: Header) -> dict[int, Parent]:
    """Return the rows from which the rows of a part go on, by the index of the row that began the search, in order.

    Raises:
        UserError: one of them is not committed.
    """
    wanted = set(part.parents)
    parents: dict[int, Parent] = {}
    for row in read_rows(run_dir, _READ):
        index = index_of(row["id"])
        if index in wanted:
            wanted.remove(index)
            parents[manifest.search_index(index)] = _parent(row, manifest)
    if wanted:
        raise UserError(
            f"{run_dir}: {len(wanted)} rows whose searches go on are not committed; make them again with noisesmith "
            f"retry {shell_word(run_dir)}"
        )
    return dict(sorted(parents.items()))


def _parent(row: Mapping[str, Any], manifest: Manifest) -> Parent:
    return Parent(row["id"], manifest.search_id(row["id"]), Recipe.from_row(row["recipe"]), row["rounds"])
