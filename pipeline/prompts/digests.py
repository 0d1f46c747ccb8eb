"""Checksums over a corpus's content: per batch, to notice a change, and per column, for the corpus's digest."""

from __future__ import annotations

import hashlib
import json

from noisesmith.pipeline.prompts.source import Batch


def encode(batch: Batch) -> dict[str | None, bytes]:
    """Return a batch's prompts (under ``None``) and columns as JSON values with a comma after each value."""
    encoded: dict[str | None, bytes] = {None: _encode_values(batch.prompts)}
    for name, values in batch.columns.items():
        encoded[name] = _encode_values(values)
    return encoded


def _encode_values(values: object) -> bytes:
    return _json(values)[1:-1] + b","


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def checksum(encoded: dict[str | None, bytes]) -> bytes:
    """Return 8 bytes that identify an encoded batch."""
    found = hashlib.blake2b(digest_size=8)
    for name, values in encoded.items():
        found.update(_json(name) + values)
    return found.digest()


class ColumnHash:
    """SHA-256 over a column's values as JSON. It does not depend on the batches; rows without the column are nulls."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._rows = 0

    def add(self, encoded: bytes, start: int, rows: int) -> None:
        """Add the encoded values of ``rows`` rows from index ``start`` on."""
        self._fill(start)
        self._sha256.update(encoded)
        self._rows += rows

    def hexdigest(self, size: int) -> str:
        """Return the hash over ``size`` rows as 64 hex digits."""
        self._fill(size)
        return self._sha256.hexdigest()

    def _fill(self, rows: int) -> None:
        self._sha256.update(b"null," * (rows - self._rows))
        self._rows = rows
