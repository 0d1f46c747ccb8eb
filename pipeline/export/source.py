"""The committed rows of a run, as an export reads them: in order, and more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export.columns import Kind, kind_of
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.sinks.reader import read_shard

BATCH = 512  # rows without images


@dataclass(frozen=True)
class Source:
    """A run as it was when its manifest was read: what is committed later is not exported."""

    run_dir: Path
    manifest: Manifest

    @classmethod
    def open(cls, run_dir: Path) -> Source:
        """Read the manifest of a run.

        Raises:
            UserError: the directory is no run, or nothing of it is committed.
        """
        source = cls(run_dir, read_manifest(run_dir))
        if not source.size:
            raise UserError(f"{run_dir}: has no committed row; let its run write some first")
        return source

    @property
    def size(self) -> int:
        """The number of committed rows."""
        return sum(entry.rows for entry in self.manifest.entries.values())

    @property
    def columns(self) -> dict[str, str]:
        """Name → type of all columns: the run's own, then those of its side tables."""
        columns = dict(self.manifest.types)
        for table in self.manifest.side_columns.values():
            columns.update(table)
        return columns

    @property
    def rated(self) -> list[str]:
        """The columns of numbers that rate the kept image, and of which ``NAME_initial`` rates the first.

        Columns of the corpus, which come after the recipe, rate other images, whatever they are called.
        """
        columns = self.columns
        own = list(self.manifest.types)
        own = own[: own.index("recipe")]
        for table in self.manifest.side_columns.values():
            own += table
        pairs = [(name, f"{name}_initial") for name in own if f"{name}_initial" in own]
        return [name for name, first in pairs if kind_of(columns[name]) is kind_of(columns[first]) is Kind.NUMBER]

    def rows(self, columns: list[str], kept: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the position and the values of the rows, in order; images are PNG bytes.

        Args:
            columns: the columns to read.
            kept: for each position a number that is not 0 where the row is wanted. Shards without such a row are not
                read.

        Raises:
            UserError: a file is missing or damaged, or has other rows than when the run was opened.
        """
        position = 0
        for shard, entry in sorted(self.manifest.entries.items()):
            end = position + entry.rows
            if kept is None or any(kept[position:end]):
                found = 0
                for row in read_shard(self.run_dir, self.manifest, entry, columns):
                    if kept is None or kept[position + found]:
                        yield position + found, row
                    found += 1
                    if found == entry.rows:
                        break
                if found != entry.rows:
                    raise UserError(
                        f"{self.run_dir}: shard {shard} has other rows than a moment ago; export again once nothing "
                        "else works on the run"
                    )
            position = end

    def batches(self, columns: list[str]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield the rows a few hundred at a time, each time with the position of the first."""
        rows = (row for _, row in self.rows(columns))
        start = 0
        while batch := list(islice(rows, BATCH)):
            yield start, batch
            start += len(batch)
