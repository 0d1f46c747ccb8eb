"""Sources of a corpus: files of text and JSON lines, and built-in grammars.

Every source yields columnar batches, any number of times, and always the same ones.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.home import user_path

BATCH = 1024
MAX_LINE = 1 << 26  # bytes; a file without line ends must not fill the RAM
_FILE_NAME = re.compile(r".*\.[A-Za-z][A-Za-z0-9]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a source: their numbers in it (for messages), unchecked prompts and extra columns."""

    numbers: Sequence[int]
    prompts: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Batch:
        columns = {name: values[part] for name, values in self.columns.items()}
        return Batch(self.numbers[part], self.prompts[part], columns)

    def take(self, positions: Sequence[int]) -> Batch:
        """Return the rows at these positions, in this order."""
        columns = {}
        for name, values in self.columns.items():
            columns[name] = [values[position] for position in positions]
        numbers = [self.numbers[position] for position in positions]
        prompts = [self.prompts[position] for position in positions]
        return Batch(numbers, prompts, columns)


class Source(Protocol):
    """Where prompts come from.

    ``unit`` is what a batch's numbers count, from 1. ``types`` are those that the source declares for its extra
    columns, or ``None`` where they are inferred from the values; ``text_cells`` means that values are text to parse.
    """

    name: str
    unit: str
    types: dict[str, pa.DataType] | None
    text_cells: bool

    def batches(self) -> Iterator[Batch]: ...


def open_source(section: CorpusConfig) -> Source:
    """Return the source that a corpus section names. Only what determines its kind is read.

    Raises:
        UserError: there is no such source, or its kind is unknown.
    """
    from noisesmith.pipeline.prompts import tabular

    name = section.source
    if name.startswith("embedded/"):
        return GrammarSource(section)
    try:
        path = user_path(name)
        exists = path.exists()
        is_dir = path.is_dir()
        is_file = path.is_file()
    except OSError as error:  # a name too long
        raise UserError(f"corpus.source: {name}: cannot be opened ({error}); check the path") from error
    if is_dir:
        return tabular.dataset_source(section, path)
    if not exists:
        if _HUB_NAME.fullmatch(name) and not _FILE_NAME.fullmatch(name):
            return tabular.dataset_source(section, None)
        raise UserError(f"corpus.source: {name}: no such file; check the path, which starts at {Path.cwd()}")
    if not is_file:
        raise UserError(f"corpus.source: {name}: is not a regular file; copy its prompts into one, it is read twice")
    kinds: dict[str, Callable[[CorpusConfig, Path], Source]] = {
        ".txt": TextSource,
        ".jsonl": JsonLinesSource,
        ".ndjson": JsonLinesSource,
        ".json": JsonLinesSource,
        ".csv": tabular.CsvSource,
        ".parquet": tabular.ParquetSource,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"corpus.source: {name}: has no known extension; use one of {', '.join(sorted(kinds))}")
    return kind(section, path)


class GrammarSource:
    """Prompts of a built-in grammar."""

    unit = "row"
    types: dict[str, pa.DataType] | None = {}  # noqa: RUF012
    text_cells = False

    def __init__(self, section: CorpusConfig) -> None:
        self.section = section
        self.name = section.source
        self.grammar = self.name.removeprefix("embedded/")
        if self.grammar not in grammar.GRAMMARS:
            known = [f"embedded/{name}" for name in grammar.GRAMMARS]
            raise UserError(f"corpus.source: no grammar {self.name!r}; choose {' or '.join(known)}")

    def batches(self) -> Iterator[Batch]:
        prompts = map(str, islice(grammar.prompts(self.grammar, self.section.seed), self.section.size))
        for numbered in _chunks(enumerate(prompts, 1)):
            numbers, texts = _unzip(numbered)
            yield Batch(numbers, texts, {})


class FileSource:
    """The base of sources that are text files."""

    unit = "line"
    types: dict[str, pa.DataType] | None = None
    text_cells = False

    def __init__(self, section: CorpusConfig, path: Path) -> None:
        self.name = section.source
        self.column = section.column
        self.size = section.size
        self.path = path

    def _lines(self) -> Iterator[tuple[int, str]]:
        return islice(filled_lines(self.path, self.name), self.size)


class TextSource(FileSource):
    """A file with one prompt per line of UTF-8 text."""

    def batches(self) -> Iterator[Batch]:
        for numbered in _chunks(self._lines()):
            numbers, texts = _unzip(numbered)
            yield Batch(numbers, texts, {})


class JsonLinesSource(FileSource):
    """A file with one JSON object per line of UTF-8 text."""

    def batches(self) -> Iterator[Batch]:
        for numbered in _chunks(self._lines()):
            numbers = []
            prompts = []
            records = []
            names: dict[str, None] = {}  # of the other columns, in the order in which they appear
            for number, line in numbered:
                record = self._record(number, line)
                numbers.append(number)
                prompts.append(record.pop(self.column))
                records.append(record)
                names |= dict.fromkeys(record)
            columns = {}
            for name in names:
                columns[name] = [record.get(name) for record in records]
            yield Batch(numbers, prompts, columns)

    def _record(self, number: int, line: str) -> dict[str, Any]:
        where = f"{self.name}: line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: is not valid JSON ({error.msg} at character {error.pos + 1}); write one object per line"
            ) from error
        except (RecursionError, ValueError) as error:
            raise UserError(f"{where}: cannot be read as JSON ({error}); write one plain object per line") from error
        if not isinstance(record, dict):
            raise UserError(f'{where}: holds no JSON object; write one object per line, such as {{"prompt": "a cat"}}')
        if self.column not in record:
            raise UserError(f"{where}: {missing_column(self.column, record)}")
        return record


def missing_column(column: str, present: Iterable[str]) -> str:
    """Return half a sentence on an absent prompt column: which columns there are, and which one may be meant."""
    names = list(present)
    if not names:
        return f"has no column {column!r}, nor any other"
    hint = "name the prompts' column in corpus.column"
    close = difflib.get_close_matches(column, names, n=1)
    if close:
        hint = f"did you mean corpus.column={close[0]}?"
    shown = ", ".join(map(repr, names[:12]))
    if len(names) > 12:
        shown += ", …"
    return f"has no column {column!r} but {shown}; {hint}"


def decoded_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of UTF-8 text, without their ends (``\\n`` or ``\\r\\n``) and a byte order mark.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 or too long.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE):
                number += 1
                if len(raw) == MAX_LINE:
                    raise UserError(f"{name}: line {number}: has {MAX_LINE} bytes or more; write one prompt per line")
                yield number, _decode(raw, number, name)
    except OSError as error:
        raise UserError(f"corpus.source: {name}: cannot be read: {error.strerror or error}") from error


def _decode(raw: bytes, number: int, name: str) -> str:
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: line {number}: is not UTF-8 at byte {error.start + 1}; save the file as UTF-8 text"
        ) from error


def filled_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield lines like :func:`decoded_lines`, without blank lines at the end of the file.

    Raises:
        UserError: a blank line stands between others.
    """
    blank = None
    for number, line in decoded_lines(path, name):
        if not line.strip():
            blank = blank or number
        elif blank:
            raise UserError(f"{name}: line {blank}: is blank, so its prompt is empty; remove the line")
        else:
            yield number, line


def _chunks(items: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    items = iter(items)
    while chunk := list(islice(items, BATCH)):
        yield chunk


def _unzip(numbered: list[tuple[int, str]]) -> tuple[list[int], list[str]]:
    numbers = [number for number, _ in numbered]
    texts = [text for _, text in numbered]
    return numbers, texts
