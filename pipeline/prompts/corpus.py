"""One corpus out of one or several sources: read once in full to check, count and digest it, then streamed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig, RunConfig
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.prompts import columns as cols
from noisesmith.pipeline.prompts.sources import Batch, Source, open_source
from noisesmith.pipeline.records import Row, row_id
from noisesmith.pipeline.schema import reserved_columns
from noisesmith.pipeline.text.subjects import occurrences

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # tab and newline are text
_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = re.compile(f"{_CONTROL.pattern}|{_SURROGATE.pattern}")


@dataclass(frozen=True)
class Part:
    """One source of a corpus: how many of its rows are taken, the checksum of each of their batches, the types found
    in its extra columns, and which of them lists the prompt's subjects."""

    source: Source
    size: int
    checksums: tuple[bytes, ...]
    types: dict[str, pa.DataType]
    subjects: str | None = None

    def batches(self) -> Iterator[Batch]:
        """The batches that were read when the corpus was opened.

        Raises:
            RunError: the source has changed since; no row of a changed batch is ever given.
        """
        batches = _first(self.source.batches(), self.size)
        try:
            for checksum in self.checksums:
                batch = next(batches, None)
                if batch is None:
                    raise self._changed("it is shorter")
                if _checksum(_encode(batch)) != checksum:
                    raise self._changed(f"it differs at {self.source.unit} {batch.numbers[0]} or after")
                yield batch
        except UserError as error:  # it was readable when the corpus was opened
            raise self._changed(str(error).removeprefix("corpus.source: ")) from None

    def _changed(self, how: str) -> RunError:
        return RunError(f"corpus.source: {self.source.name} has changed since the run began ({how}); restore it")


@dataclass(frozen=True)
class Corpus:
    """Prompts in a fixed order. ``digest`` is the SHA-256 over prompts, extra columns, their types and the order."""

    digest: str
    size: int
    extra_schema: pa.Schema
    parts: tuple[Part, ...]

    def rows(self, start: int = 0, stop: int | None = None, skip: Container[int] = ()) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` (exclusive; the end when absent) but those in ``skip``, in order, in constant
        memory.

        Raises:
            RunError: a source has changed since the corpus was opened.
        """
        stop = self.size if stop is None else min(stop, self.size)
        first = 0
        for part in self.parts:
            if first < stop and first + part.size > start:
                yield from self._rows_of(part, first, range(start, stop), skip)
            first += part.size

    def _rows_of(self, part: Part, first: int, among: range, skip: Container[int]) -> Iterator[Row]:
        for batch in part.batches():
            indices = range(max(first, among.start), min(first + len(batch), among.stop))
            wanted = [index for index in indices if index not in skip]
            taken = batch.take([index - first for index in wanted])
            for index, prompt, extra in zip(wanted, taken.prompts, self._extras(part, taken), strict=True):
                subjects = subject_list(extra[part.subjects]) if part.subjects else ()
                yield Row(index, row_id(index, prompt), prompt, extra, subjects)
            first += len(batch)
            if first >= among.stop:
                return

    def _extras(self, part: Part, batch: Batch) -> list[dict[str, Any]]:
        absent = [None] * len(batch)
        values = []
        for column in self.extra_schema:
            found: Sequence[Any] = batch.columns.get(column.name, absent)
            if part.source.text_cells and column.name in batch.columns:
                found = cols.parse_cells(found, part.types[column.name])
            values.append(cols.conform(found, column.type))
        names = self.extra_schema.names
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] or [{} for _ in absent]


def open_corpus(config: RunConfig) -> Corpus:
    """Read every source of ``config.corpus`` once, and refuse what cannot become a row.

    Raises:
        UserError: a source, a row or a column is unusable; the message names file and line or row.
    """
    if not config.corpus:
        raise UserError("corpus: is required; name a source of prompts, such as corpus.source=prompts.txt")
    scan = _Scan(config)
    for number, section in enumerate(config.corpus):
        scan.read(section, f"corpus.{number}.size" if len(config.corpus) > 1 else "corpus.size")
    return scan.corpus()


@dataclass
class _Scan:
    """The opening pass."""

    config: RunConfig
    size: int = 0
    parts: list[Part] = field(default_factory=list)
    types: dict[str, pa.DataType] = field(default_factory=dict)
    hashes: dict[str | None, _ColumnHash] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reserved = reserved_columns(self.config)

    def read(self, section: CorpusConfig, size_field: str) -> None:
        source = open_source(section)
        types: dict[str, pa.DataType] = dict(source.types or {})
        self._check_names(source, types)
        begin = self.size
        checksums = []
        for batch in _first(source.batches(), section.size):
            self._check_prompts(source, batch)
            self._infer(source, batch, types)
            self._check_named(source, section, batch, types)
            encoded = _encode(batch)
            checksums.append(_checksum(encoded))
            for name, values in encoded.items():
                self.hashes.setdefault(name, _ColumnHash()).add(values, self.size, len(batch))
            self.size += len(batch)
        taken = self.size - begin
        if not taken:
            raise UserError(f"corpus.source: {source.name}: holds no prompts; add some")
        if section.size is not None and taken < section.size:
            raise UserError(f"{size_field}: asks for {section.size} rows, but {source.name} has {taken}; lower it")
        for name, kind in types.items():
            types[name] = cols.plain_type(name, kind, source.name)
            self._merge(source, self.types, name, types[name])
        self._check_subjects(source, section, types)
        self.parts.append(Part(source, taken, tuple(checksums), types, section.subjects))

    def corpus(self) -> Corpus:
        digest = hashlib.sha256(self.hashes[None].hexdigest(self.size).encode())
        for name, kind in sorted(self.types.items()):
            entry = [name, str(kind), self.hashes[name].hexdigest(self.size) if name in self.hashes else None]
            digest.update(json.dumps(entry).encode())
        return Corpus(digest.hexdigest(), self.size, pa.schema(list(self.types.items())), tuple(self.parts))

    def _check_prompts(self, source: Source, batch: Batch) -> None:
        limit = self.config.max_prompt_chars
        for number, prompt in zip(batch.numbers, batch.prompts, strict=True):
            if problem := prompt_problem(prompt, limit):
                raise UserError(f"{source.name}: {source.unit} {number}: {problem}")

    def _infer(self, source: Source, batch: Batch, types: dict[str, pa.DataType]) -> None:
        if source.types is not None:
            return
        for name, values in batch.columns.items():
            if source.text_cells:
                kind = cols.infer_cells(values)
                types[name] = cols.merge_cells(types.get(name, kind), kind)
                continue
            try:
                kind = cols.infer_values(values)
            except ValueError as error:
                raise self._mixed(source, name, error) from None
            self._merge(source, types, name, kind)
        self._check_names(source, types)

    def _merge(self, source: Source, types: dict[str, pa.DataType], name: str, kind: pa.DataType) -> None:
        try:
            types[name] = cols.merge(types.get(name, kind), kind)
        except ValueError as error:
            raise self._mixed(source, name, error) from None

    def _mixed(self, source: Source, name: str, error: ValueError) -> UserError:
        return UserError(f"{source.name}: column {name!r} has no single type ({error}); make its values alike")

    def _check_names(self, source: Source, types: dict[str, pa.DataType]) -> None:
        for name in types:
            if not name.strip() or _REFUSED.search(name):
                raise UserError(f"{source.name}: column name {name!r} is empty or no plain text; rename the column")
            if name in self.reserved:
                raise UserError(f"{source.name}: column {name!r} is one that the run itself writes; rename it")

    def _check_subjects(self, source: Source, section: CorpusConfig, types: dict[str, pa.DataType]) -> None:
        if section.subjects is None:
            return
        kind = types.get(section.subjects)
        if kind is None:
            has = ", ".join(types) or "none beside the prompt"
            raise UserError(f"corpus.subjects: {source.name} has no column {section.subjects!r}; its columns are {has}")
        if not _lists_text(kind):
            raise UserError(
                f"corpus.subjects: column {section.subjects!r} of {source.name} holds {kind}; "
                "list the subjects as text, such as cat,dog, or as lists of text"
            )

    def _check_named(self, source: Source, section: CorpusConfig, batch: Batch, types: dict[str, pa.DataType]) -> None:
        """Refuse subjects that their prompt does not name, where the method looks for them there."""
        column = section.subjects
        if column not in batch.columns or not self.config.optimizer.reads_attention:
            return
        if not source.text_cells and not _lists_text(types[column]):
            return  # refused once all is read
        for number, prompt, value in zip(batch.numbers, batch.prompts, batch.columns[column], strict=True):
            try:
                occurrences(prompt, subject_list(value))
            except UserError as error:
                raise UserError(f"{source.name}: {source.unit} {number}: {error}") from None


def _encode(batch: Batch) -> dict[str | None, bytes]:
    """A batch's prompts (under ``None``) and columns, each as JSON values with a comma after every one."""
    columns = ((None, batch.prompts), *batch.columns.items())
    return {name: _json(values)[1:-1] + b"," for name, values in columns}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def _checksum(encoded: dict[str | None, bytes]) -> bytes:
    """8 bytes by which a batch is known again."""
    checksum = hashlib.blake2b(digest_size=8)
    for name, values in encoded.items():
        checksum.update(_json(name) + values)
    return checksum.digest()


class _ColumnHash:
    """SHA-256 over a column's values as JSON, whatever the batches they come in; absent stretches count as nulls."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.rows = 0

    def add(self, encoded: bytes, start: int, rows: int) -> None:
        self._pad(start)
        self.sha256.update(encoded)
        self.rows += rows

    def hexdigest(self, size: int) -> str:
        self._pad(size)
        return self.sha256.hexdigest()

    def _pad(self, rows: int) -> None:
        self.sha256.update(b"null," * (rows - self.rows))
        self.rows = rows


def subject_list(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The subjects a column's value names: a list of them, or text with commas between."""
    names = value.split(",") if isinstance(value, str) else value or ()
    return tuple(name.strip() for name in names if name and name.strip())


def _lists_text(kind: pa.DataType) -> bool:
    text = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_string(text) or pa.types.is_null(text))


def _first(batches: Iterator[Batch], size: int | None) -> Iterator[Batch]:
    """Batches up to ``size`` rows; the source is read no further."""
    for batch in batches:
        if size is None or len(batch) < size:
            yield batch
            size = None if size is None else size - len(batch)
        else:
            yield batch[:size]
            return


def prompt_problem(prompt: Any, limit: int) -> str | None:
    """Why a value cannot be a prompt, and the remedy; ``None`` for a text of 1 to ``limit`` characters."""
    is_text = type(prompt) is str and not _REFUSED.search(prompt)
    if is_text and prompt.strip() and len(prompt) <= limit:
        return None
    return _complaint(prompt, limit)


def _complaint(prompt: Any, limit: int) -> str:
    if prompt is None:
        return "has no prompt; write one or remove the row"
    if not isinstance(prompt, str):
        return f"the prompt is {json.dumps(prompt, default=str)[:40]}, but must be text"
    if not prompt.strip():
        return "the prompt is empty; write one or remove the row"
    if len(prompt) > limit:
        return f"the prompt has {len(prompt)} characters, above max_prompt_chars={limit}; shorten it or raise the limit"
    if found := _CONTROL.search(prompt):
        return f"the prompt holds the control character U+{ord(found[0]):04X}; remove it"
    return "the prompt holds half a surrogate pair, which is not valid Unicode; remove it"
