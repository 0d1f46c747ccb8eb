"""What a corpus can be read from. Every source yields columnar batches, any number of times, always the same."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError

BATCH = 1024
MAX_LINE = 1 << 26  # bytes: a file without line ends must not fill the memory
_FILE_NAME = re.compile(r".*\.[A-Za-z][A-Za-z0-9]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows: their numbers in the source (for messages), unchecked prompts and extra columns."""

    numbers: Sequence[int]
    prompts: Sequence[Any]
    columns: dict[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Batch:
        columns = {name: values[part] for name, values in self.columns.items()}
        return Batch(self.numbers[part], self.prompts[part], columns)

    def take(self, places: Sequence[int]) -> Batch:
        """The rows at some places, in their order."""
        numbers, prompts, *values = (
            [column[place] for place in places] for column in (self.numbers, self.prompts, *self.columns.values())
        )
        return Batch(numbers, prompts, dict(zip(self.columns, values, strict=True)))


class Source(Protocol):
    """One place prompts come from.

    ``unit`` is what its numbers count, from 1. ``types`` are those the source declares for its extra columns; where it
    declares none, its values tell, and ``text_cells`` says that these are text to be parsed.
    """

    name: str
    unit: str
    types: dict[str, pa.DataType] | None
    text_cells: bool

    def batches(self) -> Iterator[Batch]: ...


def open_source(section: CorpusConfig) -> Source:
    """The source that a corpus section names; nothing of it is read yet but what tells its kind.

    Raises:
        UserError: there is no such source, or it is of no known kind.
    """
    from noisesmith.pipeline.prompts import tabular

    name = section.source
    if name.startswith("embedded/"):
        return GrammarSource(section)
    try:
        path = Path(name).expanduser()
        is_dir, exists, is_file = path.is_dir(), path.exists(), path.is_file()
    except (OSError, RuntimeError) as error:
        raise UserError(f"corpus.source: {name}: cannot be opened ({error}); check the path") from None
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
    """Prompts of the embedded world."""

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
            yield Batch(*_unzip(numbered), {})


class FileSource:
    """What text files share."""

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
    """One prompt a line of UTF-8 text."""

    def batches(self) -> Iterator[Batch]:
        for numbered in _chunks(self._lines()):
            yield Batch(*_unzip(numbered), {})


class JsonLinesSource(FileSource):
    """One JSON object a line of UTF-8 text."""

    def batches(self) -> Iterator[Batch]:
        for numbered in _chunks(self._lines()):
            records = [self._record(number, line) for number, line in numbered]
            prompts = [record.pop(self.column) for record in records]
            names = dict.fromkeys(name for record in records for name in record)
            numbers = [number for number, _ in numbered]
            yield Batch(numbers, prompts, {name: [record.get(name) for record in records] for name in names})

    def _record(self, number: int, line: str) -> dict[str, Any]:
        where = f"{self.name}: line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: is not valid JSON ({error.msg} at character {error.pos + 1}); write one object a line"
            ) from None
        except (RecursionError, ValueError) as error:
            raise UserError(f"{where}: cannot be read as JSON ({error}); write one plain object a line") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: holds no JSON object; write one object a line, such as {{"prompt": "a cat"}}')
        if self.column not in record:
            raise UserError(f"{where}: {missing_column(self.column, record)}")
        return record


def missing_column(column: str, present: Iterable[str]) -> str:
    """Half a sentence on an absent prompt column: what there is, and what may be meant."""
    names = list(present)
    if not names:
        return f"has no column {column!r}, nor any other"
    close = difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean corpus.column={close[0]}?" if close else "name the prompts' column in corpus.column"
    shown = ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")
    return f"has no column {column!r} but {shown}; {hint}"


def decoded_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 text without their ends (``\\n`` or ``\\r\\n``) and without a byte order mark.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 or endless.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
                if len(raw) == MAX_LINE:
                    raise UserError(f"{name}: line {number}: has {MAX_LINE} bytes or more; write one prompt a line")
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{name}: line {number}: is not UTF-8 at byte {error.start + 1}; save the file as UTF-8 text"
                    ) from None
    except OSError as error:
        raise UserError(f"corpus.source: {name}: cannot be read: {error.strerror or error}") from None


def filled_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """:func:`decoded_lines`, of which only the file's last may be blank; those are dropped.

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
    return [number for number, _ in numbered], [text for _, text in numbered]
