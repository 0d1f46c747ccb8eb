"""The two formats of a shard: Parquet exactly as ``datasets`` writes images, and WebDataset tar."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.schema import image_columns, with_features
from noisesmith.pipeline.sinks.samples import sample_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ROW_GROUP_BYTES = 100 * 10**6  # the Hub's viewer refuses groups over 286 MiB; `datasets` aims for 100 MB
CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}  # datasets.config


AddRow = Callable[[pa.Table], None]
OpenFile = IO[bytes] | io.RawIOBase


class HashedFile(io.RawIOBase):
    """Writes to a file, and knows the size and the SHA-256 of what it has written: nobody needs to read it again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, content: ReadableBuffer) -> int:
        view = memoryview(content)
        self._file.write(view)
        self._digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


def load_libraries(formats: Collection[str]) -> None:
    """Import what the formats need. It takes seconds, which the first shard would otherwise take longer."""
    if "parquet" in formats:
        import datasets  # noqa: F401
    if "webdataset" in formats:
        import webdataset  # noqa: F401


@contextmanager
def parquet_file(file: OpenFile, schema: pa.Schema) -> Iterator[AddRow]:
    """Write rows as ``datasets.Dataset.to_parquet`` does. The block is given a function that adds a table of rows.

    Images are uncompressed, plain and without dictionary; everything else is compressed with snappy. The file has a
    page index and content-defined chunks, so that the Hub deduplicates shards that share rows.
    """
    schema = with_features(schema)
    images = image_columns(schema)
    raw: list[str] = []
    others: list[str] = []
    for column in schema:
        leaves = raw if column.name in images else others
        leaves.extend(_leaves(column.name, column.type))
    with pq.ParquetWriter(
        file,
        schema,
        compression=dict.fromkeys(raw, "none") | dict.fromkeys(others, "snappy"),
        use_dictionary=others,
        column_encoding=dict.fromkeys(raw, "PLAIN"),
        write_page_index=True,
        use_content_defined_chunking=CHUNKING,
    ) as writer:
        groups = _RowGroups(writer, schema)
        yield groups.add
        groups.write()
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})


class _RowGroups:
    """Gathers rows into row groups, each at most one row above the limit."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes >= ROW_GROUP_BYTES:
            self.write()

    def write(self) -> None:
        """Write what is gathered."""
        if self._tables:
            group = pa.concat_tables(self._tables)
            self._writer.write_table(group.replace_schema_metadata(self._schema.metadata))
        self._tables = []
        self._bytes = 0


@contextmanager
def tar_file(file: OpenFile, text: Collection[str], columns: Collection[str]) -> Iterator[AddRow]:
    """Write rows as WebDataset samples. The block is given a function that adds a table of rows.

    The same rows give the same bytes. A sample consists of ID.png, ID.txt (the prompt), ID.json (every other column)
    and, where ``columns`` has ``image_initial``, ID.initial.png.

    Args:
        text: the columns that ID.json holds as JSON text.
        columns: the columns to write.
    """
    from webdataset import TarWriter  # imports torch, which a Parquet-only run does not need

    with TarWriter(file, user="noisesmith", group="noisesmith", mtime=0, encoder=False) as tar:

        def add(table: pa.Table) -> None:
            held = [name for name in table.column_names if name in columns]
            for row in table.select(held).to_pylist():
                sample = {"__key__": row["id"], "txt": row["prompt"].encode(), "json": sample_json(row, text)}
                sample["png"] = row["image"]["bytes"]
                if "image_initial" in columns:
                    sample["initial.png"] = row["image_initial"]["bytes"]
                tar.write(sample)

        yield add


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the paths of a column's leaves as Parquet names them."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path
