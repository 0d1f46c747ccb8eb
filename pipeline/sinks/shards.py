"""The two formats of a shard: Parquet exactly as ``datasets`` writes images, and WebDataset tar."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.schema import image_columns, with_features
from noisesmith.pipeline.sinks.samples import sample_json

ROW_GROUP_BYTES = 100 * 10**6  # the Hub's viewer refuses groups over 286 MiB; `datasets` aims for 100 MB
CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}  # datasets.config


def write_parquet(file: IO[bytes], tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write rows as ``datasets.Dataset.to_parquet`` does.

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
        for group in _groups(tables):
            writer.write_table(group.replace_schema_metadata(schema.metadata))
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})


def write_tar(file: IO[bytes], tables: Iterable[pa.Table], text: Collection[str], columns: Collection[str]) -> None:
    """Write rows as WebDataset samples. The same rows give the same bytes.

    A sample consists of ID.png, ID.txt (the prompt), ID.json (every other column) and, where ``columns`` has
    ``image_initial``, ID.initial.png.

    Args:
        text: the columns that ID.json holds as JSON text.
        columns: the columns to write.
    """
    from webdataset import TarWriter  # imports torch, which a Parquet-only run does not need

    with TarWriter(file, user="noisesmith", group="noisesmith", mtime=0, encoder=False) as tar:
        for table in tables:
            for row in table.to_pylist():
                sample = {"__key__": row["id"], "txt": row["prompt"].encode(), "json": sample_json(row, text)}
                sample["png"] = row["image"]["bytes"]
                if "image_initial" in columns:
                    sample["initial.png"] = row["image_initial"]["bytes"]
                tar.write(sample)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Gather rows into row groups, each at most one row above the limit."""
    group: list[pa.Table] = []
    size = 0
    for table in tables:
        group.append(table)
        size += table.nbytes
        if size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(group)
            group = []
            size = 0
    if group:
        yield pa.concat_tables(group)


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the paths of a column's leaves as Parquet names them."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path
