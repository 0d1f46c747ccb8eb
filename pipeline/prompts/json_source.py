"""JSON files: one object per line, or one document that holds a list of objects or texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.files import BOM, filled_lines, opened
from noisesmith.pipeline.prompts.source import Batch, FileSource, chunks, missing_column

MAX_DOCUMENT = 1 << 28  # bytes; a document is parsed as a whole, in about ten times its size


class JsonSource(FileSource):
    """A file with one JSON object per line, or one JSON document, in UTF-8 text.

    A document is a list of objects, a list of prompts, an object with one list of objects that have the prompt's column
    (as the captions of COCO are), or an object of such objects, whose keys become the column ``key``.
    """

    def batches(self) -> Iterator[Batch]:
        document = self._is_document()
        self.form = "JSON document" if document else "JSON lines"
        records = self._document() if document else self._lines()
        for numbered in chunks(islice(records, self.size)):
            numbers = []
            prompts = []
            others = []
            names: dict[str, None] = {}  # of the other columns, in the order in which they appear
            for number, record in numbered:
                numbers.append(number)
                prompts.append(record.pop(self.column))
                others.append(record)
                names |= dict.fromkeys(record)
            columns = {}
            for name in names:
                columns[name] = [record.get(name) for record in others]
            yield Batch(self.name, "item" if document else "line", numbers, prompts, columns)

    def _is_document(self) -> bool:
        """Return whether the file is one JSON value: a list, or an object without the prompt's column.

        A first line that is a whole value is a document only if no other line follows. Files that are named as JSON
        lines are never documents.
        """
        if self.earlier or ".json" not in [suffix.lower() for suffix in self.path.suffixes]:
            return False
        with opened(self.path, self.name) as file:
            first = file.readline(MAX_DOCUMENT).removeprefix(BOM.encode()).lstrip()
            rest = file.read(1 << 16).lstrip()
        try:
            value = json.loads(first)
        except (ValueError, RecursionError):
            # A value over several lines, unless another object begins on the next one.
            return bool(rest) and (first.startswith(b"[") or not rest.startswith(b"{"))
        if rest or not isinstance(value, dict):
            return not rest and isinstance(value, list)
        return self.column not in value and any(isinstance(item, list | dict) for item in value.values())

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in filled_lines(self.path, self.name, self.earlier):
            where = f"{self.name}: line {number}"
            record = self._parsed(line, where)
            if not isinstance(record, dict):
                raise UserError(
                    f'{where}: holds no JSON object; write one object per line, such as {{"prompt": "a cat"}}'
                )
            if self.column not in record:
                raise UserError(f"{where}: {missing_column(self.column, record)}")
            yield number, record

    def _document(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with opened(self.path, self.name) as file:
            content = file.read(MAX_DOCUMENT + 1)
        if len(content) > MAX_DOCUMENT:
            raise UserError(
                f"{self.name}: is one JSON document of more than {MAX_DOCUMENT >> 20} MiB; write one object per line"
            )
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.name}: is not UTF-8 at byte {error.start + 1}; save the file as UTF-8 text"
            ) from error
        del content
        items = self._items(self._parsed(text, self.name))
        for number, item in enumerate(items, 1):
            where = f"{self.name}: item {number}"
            if isinstance(item, str):
                yield number, {self.column: item}
                continue
            if not isinstance(item, dict):
                raise UserError(f"{where}: is neither an object nor a text; list the prompts, or objects with them")
            if self.column not in item:
                raise UserError(f"{where}: {missing_column(self.column, item)}")
            yield number, item

    def _items(self, document: Any) -> list[Any]:
        """Return the list in a document that holds the prompts."""
        if isinstance(document, list):
            return document
        if document and all(isinstance(item, dict) and self.column in item for item in document.values()):
            return [{"key": key, **item} for key, item in document.items()]
        found = {}
        for key, value in document.items():
            first = value[0] if isinstance(value, list) and value else None
            if isinstance(first, dict) and self.column in first:
                found[key] = value
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise UserError(
                f"{self.name}: several of its lists have the column {self.column!r} ({', '.join(found)}); "
                "write the one to use into a file of its own"
            )
        raise UserError(
            f"{self.name}: is one JSON object, none of whose lists holds objects with the column {self.column!r}; "
            "name the prompts' column in corpus.column, or write one object per line"
        )

    def _parsed(self, text: str, where: str) -> Any:
        """Return the value of JSON text, exactly: no key may be there twice, and no number becomes infinite."""
        try:
            return json.loads(text) if self.earlier else _EXACT.decode(text)
        except json.JSONDecodeError as error:
            place = (
                f"line {error.lineno}, character {error.colno}" if error.lineno > 1 else f"character {error.pos + 1}"
            )
            raise UserError(
                f"{where}: is not valid JSON ({error.msg} at {place}); write one object per line"
            ) from error
        except (RecursionError, ValueError) as error:
            raise UserError(
                f"{where}: cannot be read as JSON ({error}); write plain objects with few levels"
            ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large for a float64")
    return value


_EXACT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float)
