"""Sources that give Arrow batches: Parquet files, and what the ``datasets`` library opens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.config import CorpusConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.prompts.columns import is_bytes, plain_type
from noisesmith.pipeline.prompts.files import compression, refuse_other_content
from noisesmith.pipeline.prompts.labels import class_names, media_columns
from noisesmith.pipeline.prompts.source import BATCH, Batch, Column, missing_column
from noisesmith.pipeline.prompts.values import json_text

T = TypeVar("T")


class ArrowSource:
    """The base of sources that give Arrow batches of declared types."""

    text_cells = False
    form = ""

    def __init__(self, section: CorpusConfig, name: str, schema: pa.Schema, features: Any, earlier: bool) -> None:
        self.name = name
        self.column = section.column
        if self.column not in schema.names:
            raise UserError(f"{self.name}: {missing_column(self.column, schema.names)}")
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise UserError(f"{self.name}: names column {twice!r} twice; rename one")
        kind = plain_type(schema.field(self.column).type)
        self._stored_as_bytes = kind is not None and is_bytes(kind)
        if not self._stored_as_bytes and not (kind is not None and pa.types.is_string(kind)):
            shown = schema.field(self.column).type if kind is None else kind
            raise UserError(f"{self.name}: column {self.column!r} holds {shown} values, but prompts must be text")
        self._wanted = [name for name in schema.names if name == self.column or section.columns.keeps(name)]
        self.media = media_columns(features)
        names = {} if earlier else class_names(features)
        columns = {}
        for field in schema:
            if field.name != self.column:
                columns[field.name] = _column(field.type, names.get(field.name))
        self.columns: dict[str, Column] | None = columns

    def _split(self, tables: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Batch]:
        start = 1
        for table in tables:
            try:
                table.validate(full=True)  # a damaged file's offsets may point anywhere
                columns = {name: _values(table.column(name)) for name in table.schema.names}
            except (pa.ArrowException, ValueError, OverflowError) as error:
                raise UserError(
                    f"{self.name}: holds a value at row {start} or after that cannot be read ({reason(error)}); "
                    "write the file again"
                ) from error
            prompts = columns.pop(self.column)
            if self._stored_as_bytes:
                prompts = [self._decoded(prompt, number) for number, prompt in enumerate(prompts, start)]
            yield Batch(self.name, "row", range(start, start + len(prompts)), prompts, columns)
            start += len(prompts)

    def _decoded(self, prompt: bytes | None, number: int) -> str | None:
        try:
            return None if prompt is None else prompt.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.name}: row {number}: the prompt is stored as bytes that are not UTF-8 at byte "
                f"{error.start + 1}; write the column as UTF-8 text"
            ) from error


def _column(kind: pa.DataType, names: Callable[[Any], Any] | None) -> Column:
    """Return how the values of a declared type are read, given what puts names in place of class labels."""
    if names is not None:
        named = _with_text_labels(kind)
        return Column(named, names)
    if isinstance(kind, pa.UuidType):
        return Column(pa.string(), str)
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    plain = plain_type(kind)
    return Column(pa.string(), json_text, form="json") if plain is None else Column(plain)


def _with_text_labels(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column of class labels, or of lists of them, once they are names."""
    return pa.list_(pa.string()) if pa.types.is_nested(kind) else pa.string()


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        column = column.cast(kind.storage_type)
    values: list[Any] = column.to_pylist()
    return values


class ParquetSource(ArrowSource):
    """A Parquet file."""

    form = "Parquet"

    def __init__(self, section: CorpusConfig, path: Path, name: str, earlier: bool) -> None:
        self.path = path.absolute()  # pyarrow takes a relative path such as a:b/c for a URL
        self.name = name
        refuse_other_content(path, name)
        packed = self._guarded(lambda: compression(path))
        if packed is not None:
            raise UserError(f"corpus.source: {name}: is compressed with {packed} as a whole; unpack it")
        schema = self._guarded(lambda: pq.read_schema(self.path))
        super().__init__(section, name, schema, _features(schema), earlier)

    def batches(self) -> Iterator[Batch]:
        file = self._guarded(lambda: pq.ParquetFile(self.path))
        with file:
            yield from self._split(self._tables(file.iter_batches(batch_size=BATCH, columns=self._wanted)))

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


def _features(schema: pa.Schema) -> Any:
    """Return the features that ``datasets`` has noted in a Parquet file; ``None`` where it did not write the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    import datasets

    with suppress(ValueError, KeyError, TypeError, AttributeError):  # noted by another program, or a newer version
        return datasets.Features.from_arrow_schema(schema)
    return None


class DatasetSource(ArrowSource):
    """A data set of the ``datasets`` library, which is backed by Arrow."""

    form = "dataset"

    def __init__(self, section: CorpusConfig, dataset: Any, earlier: bool) -> None:
        features = dataset.features
        super().__init__(section, section.source, features.arrow_schema, features, earlier)
        self.dataset = dataset.select_columns(self._wanted).with_format("arrow")

    def batches(self) -> Iterator[Batch]:
        yield from self._split(self.dataset.iter(batch_size=BATCH))
