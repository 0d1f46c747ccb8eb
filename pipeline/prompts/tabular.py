"""Sources with columns: CSV, Parquet, and what the ``datasets`` library opens."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.prompts.columns import plain_type
from noisesmith.pipeline.prompts.sources import BATCH, Batch, FileSource, decoded_lines, missing_column

T = TypeVar("T")
MAX_FILES = 10_000  # in a directory that is opened as a data set


class CsvSource(FileSource):
    """Comma-separated UTF-8 text with a header."""

    text_cells = True

    def batches(self) -> Iterator[Batch]:
        rows = self._rows()
        _, header = next(rows, (0, []))
        if not header:
            raise UserError(f"{self.name}: has no header line; its first line must name the columns")
        for column in header:
            if header.count(column) > 1:
                raise UserError(f"{self.name}: names column {column!r} twice; rename one")
        if self.column not in header:
            raise UserError(f"{self.name}: {missing_column(self.column, header)}")
        numbers: list[int] = []
        cells: list[list[str]] = []
        for number, row in islice(rows, self.size):
            if len(row) != len(header):
                raise UserError(
                    f"{self.name}: line {number}: has {_count(len(row), 'cell')} where the header has {len(header)}; "
                    "put quotes around text that holds commas"
                )
            numbers.append(number)
            cells.append(row)
            if len(cells) == BATCH:
                yield self._batch(header, numbers, cells)
                numbers = []
                cells = []
        if cells:
            yield self._batch(header, numbers, cells)

    def _batch(self, header: list[str], numbers: list[int], cells: list[list[str]]) -> Batch:
        columns = dict(zip(header, zip(*cells, strict=True), strict=True))
        return Batch(numbers, columns.pop(self.column), dict(columns))

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield records with the number of their last line, without blank lines at the end; others are refused."""
        reader = csv.reader((line + "\n" for _, line in decoded_lines(self.path, self.name)), strict=True)
        blank = None
        try:
            for row in reader:
                if not row:
                    blank = blank or reader.line_num
                elif blank:
                    raise UserError(f"{self.name}: line {blank}: is blank, so its prompt is empty; remove the line")
                else:
                    yield reader.line_num, row
        except csv.Error as error:
            raise UserError(
                f"{self.name}: line {reader.line_num}: is not valid CSV ({error}); check its quotes"
            ) from error


class _ArrowSource:
    """The base of sources that give Arrow batches of declared types."""

    unit = "row"
    text_cells = False

    def __init__(self, section: CorpusConfig, schema: pa.Schema) -> None:
        self.name = section.source
        self.column = section.column
        if self.column not in schema.names:
            raise UserError(f"{self.name}: {missing_column(self.column, schema.names)}")
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise UserError(f"{self.name}: names column {twice!r} twice; rename one")
        kind = plain_type(self.column, schema.field(self.column).type, self.name)
        if not pa.types.is_string(kind):
            raise UserError(f"{self.name}: column {self.column!r} holds {kind} values, but prompts must be text")
        self.types: dict[str, pa.DataType] | None = {
            field.name: plain_type(field.name, field.type, self.name) for field in schema if field.name != self.column
        }

    def _split(self, tables: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Batch]:
        start = 1
        for table in tables:
            try:
                table.validate(full=True)  # a damaged file's offsets may point anywhere
                columns = table.to_pydict()
            except (pa.ArrowException, ValueError, OverflowError) as error:
                raise UserError(
                    f"{self.name}: holds a value at row {start} or after that cannot be read ({reason(error)}); "
                    "write the file again"
                ) from error
            prompts = columns.pop(self.column)
            yield Batch(range(start, start + len(prompts)), prompts, columns)
            start += len(prompts)


class ParquetSource(_ArrowSource):
    """A Parquet file."""

    def __init__(self, section: CorpusConfig, path: Path) -> None:
        self.path = path.absolute()  # pyarrow takes a relative path such as a:b/c for a URL
        self.name = section.source
        super().__init__(section, self._guarded(lambda: pq.read_schema(self.path)))

    def batches(self) -> Iterator[Batch]:
        file = self._guarded(lambda: pq.ParquetFile(self.path))
        with file:
            yield from self._split(self._tables(file.iter_batches(batch_size=BATCH)))

    def _tables(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            yield batch

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except PermissionError as error:
            raise UserError(f"corpus.source: {self.name}: cannot be read: {error.strerror or error}") from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"corpus.source: {self.name}: is not a readable Parquet file ({reason(error)}); write it again"
            ) from error


class DatasetSource(_ArrowSource):
    """A data set of the ``datasets`` library, which is backed by Arrow."""

    def __init__(self, section: CorpusConfig, dataset: Any) -> None:
        super().__init__(section, dataset.features.arrow_schema)
        self.dataset = dataset.with_format("arrow")

    def batches(self) -> Iterator[Batch]:
        yield from self._split(self.dataset.iter(batch_size=BATCH))


def dataset_source(section: CorpusConfig, directory: Path | None) -> DatasetSource:
    """Open a directory written by ``save_to_disk``, or any directory or Hub name that ``load_dataset`` opens.

    Raises:
        UserError: it cannot be opened, or has no such split.
    """
    import datasets
    import huggingface_hub
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as FORMATS

    if directory is not None:
        files = (name for _, _, names in os.walk(directory) for name in names)
        if next(islice(files, MAX_FILES, None), None) is not None:  # the library looks at each file: under / for hours
            raise UserError(
                f"corpus.source: {section.source}: holds more than {MAX_FILES} files; give the folder of one dataset"
            )
    if directory is None and section.source in FORMATS:  # the library reads all such files of the working directory
        raise UserError(f"corpus.source: {section.source} is a file format; give a file, a directory or a Hub name")
    for library in (datasets, huggingface_hub):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what they log is in the error too
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if directory is None:
            data = datasets.load_dataset(section.source, split=section.split, revision=section.revision)
        elif (directory / "state.json").exists() or (directory / "dataset_dict.json").exists():
            data = datasets.load_from_disk(str(directory.absolute()))
        else:
            data = datasets.load_dataset(str(directory.absolute()), split=section.split)
    except Exception as error:  # the library raises dozens of unrelated classes, and no code of ours runs in here
        why = reason(error.__cause__ or error)
        raise UserError(
            f"corpus.source: {section.source}: cannot be opened as a dataset ({why}); "
            "check the name, corpus.split and the network, or give a file"
        ) from error
    if isinstance(data, dict):
        if section.split not in data:
            raise UserError(f"corpus.split: {section.source} has no split {section.split!r} but {', '.join(data)}")
        data = data[section.split]
    return DatasetSource(section, data)


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}s"
