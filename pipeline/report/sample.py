"""A few rows from all over a run, without reading the images of the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.reader import read_parquet, read_tar


def spread_rows(run_dir: Path, columns: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """Up to ``limit`` committed rows, evenly spaced, in order; opens few shards, and reads none past its last pick."""
    entries = [entry for _, entry in sorted(read_manifest(run_dir).entries.items()) if entry.rows]
    for entry, places in zip(entries, spread([entry.rows for entry in entries], limit), strict=True):
        if places:
            path = run_dir / entry.files[0].path
            rows = (read_parquet if path.suffix == ".parquet" else read_tar)(path, columns)
            yield from (row for place, row in enumerate(islice(rows, places[-1] + 1)) if place in places)


def spread(sizes: list[int], limit: int) -> list[list[int]]:
    """For shards of these sizes, the rows to pick from each: up to ``limit`` in all, every row where there are fewer.

    With at least as many shards as picks each pick is its shard's first row, which costs one row group to read.
    """
    total = sum(sizes)
    count = min(limit, total)
    picks = [index * total // count for index in range(count)]
    chosen, start = [], 0
    for size in sizes:
        places = [pick - start for pick in picks if start <= pick < start + size]
        chosen.append([0] * bool(places) if len(sizes) >= count else places)
        start += size
    return chosen
