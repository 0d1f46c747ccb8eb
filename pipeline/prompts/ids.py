"""Row ids: stable under re-runs, whoever works on the row."""

from __future__ import annotations

import hashlib


def row_id(index: int, prompt: str) -> str:
    """A row's name in every file: its place in the corpus and the first 8 hex digits of its prompt's SHA-256."""
    return f"{index:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def index_of(row_id: str) -> int:
    """The place in the corpus that an id begins with."""
    return int(row_id.split("-")[0])
