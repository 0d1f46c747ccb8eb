"""Large corpora of one prompt each row and two more columns, in every format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = ("txt", "csv", "jsonl", "parquet")
CHUNK = 10_000


def row(index: int) -> dict[str, Any]:
    return {"prompt": f"a photo of a cat and a red car, number {index}", "topic": "pets", "n": index}


def write_corpus(path: Path, rows: int) -> None:
    """``rows`` rows in the format that the suffix names, written in constant memory."""
    made = map(row, range(rows))
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, pa.Table.from_pylist([row(0)]).schema) as parquet:
            for start in range(0, rows, CHUNK):
                parquet.write_table(pa.Table.from_pylist([row(n) for n in range(start, min(start + CHUNK, rows))]))
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            sheet = csv.DictWriter(file, row(0))
            sheet.writeheader()
            sheet.writerows(made)
        else:
            file.writelines(_lines(made, path.suffix))


def _lines(made: Iterator[dict[str, Any]], suffix: str) -> Iterator[str]:
    for one in made:
        yield f"{one['prompt'] if suffix == '.txt' else json.dumps(one)}\n"
