"""Some rows from all over a run: evenly spaced, or at random by a fixed seed."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from noisesmith.pipeline.report.summary import Row
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.reader import read_shard


def spread_rows(run_dir: Path, columns: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """Up to ``limit`` committed rows, evenly spaced, in order.

    Opens few shards, and reads none of them past the last row that it takes.
    """
    manifest = read_manifest(run_dir)
    entries = [entry for _, entry in sorted(manifest.entries.items()) if entry.rows]
    chosen = spread([entry.rows for entry in entries], limit)
    for entry, positions in zip(entries, chosen, strict=True):
        if not positions:
            continue
        rows = read_shard(run_dir, manifest, entry, columns)
        for position, row in enumerate(islice(rows, positions[-1] + 1)):
            if position in positions:
                yield row


def spread(sizes: list[int], limit: int) -> list[list[int]]:
    """For shards of these sizes, the positions of the rows to take from each, up to ``limit`` in all.

    Every row is taken where there are no more than ``limit``. With at least as many shards as picks, each pick is its
    shard's first row, which costs one row group to read.
    """
    total = sum(sizes)
    count = min(limit, total)
    picks = [number * total // count for number in range(count)]
    chosen: list[list[int]] = []
    start = 0
    for size in sizes:
        end = start + size
        positions = [pick - start for pick in picks if start <= pick < end]
        if positions and len(sizes) >= count:
            positions = [0]
        chosen.append(positions)
        start = end
    return chosen


class SeededSample:
    """Up to ``limit`` rows of a run, chosen at random by a fixed seed and their ids.

    The same rows give the same sample in any order, and a row that comes later takes the place of at most one other, so
    a sample of a run at work changes little.
    """

    def __init__(self, limit: int, seed: int = 0) -> None:
        self._limit = limit
        self._seed = seed
        self._worst_first: list[tuple[int, str, Row]] = []

    def add(self, row: Row) -> None:
        """Offer a row with its ``id``."""
        digest = hashlib.sha256(f"{self._seed}:{row['id']}".encode()).digest()
        rank = -int.from_bytes(digest[:8], "big")
        if len(self._worst_first) < self._limit:
            heapq.heappush(self._worst_first, (rank, row["id"], row))
        elif rank > self._worst_first[0][0]:
            heapq.heapreplace(self._worst_first, (rank, row["id"], row))

    def rows(self) -> list[Row]:
        """The chosen rows by id, which is the order of the corpus."""
        chosen = sorted(self._worst_first, key=lambda entry: entry[1])
        return [row for _, _, row in chosen]
