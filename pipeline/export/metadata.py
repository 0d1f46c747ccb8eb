"""``metadata.jsonl`` of an image folder, with types that every reader infers alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetadataFile:
    """Writes one JSON object per row.

    ``datasets`` takes the type of each column from the first 10 MB, and refuses splits whose types differ. So the rows
    that have the first value of a column come first, and :func:`close` leaves out columns that have none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._leading: list[bytes] = []
        self._body_path = path.with_name(f".{path.name}.body")
        self._body = self._body_path.open("xb")
        self.typed: set[str] = set()  # columns that have had a value

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of JSON values."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        values = {name for name, value in row.items() if value is not None}
        if values <= self.typed:
            self._body.write(line)
        else:  # at most one row per column
            self._leading.append(line)
            self.typed |= values

    def close(self, left_out: set[str]) -> None:
        """Write the file, without some columns."""
        self._body.close()
        with self._path.open("xb") as target, self._body_path.open("rb") as body:
            for lines in (self._leading, body):
                for line in lines:
                    target.write(_without(line, left_out) if left_out else line)
        self._body_path.unlink()


def _without(line: bytes, names: set[str]) -> bytes:
    row = json.loads(line)
    kept = {name: value for name, value in row.items() if name not in names}
    return json.dumps(kept, ensure_ascii=False).encode() + b"\n"
