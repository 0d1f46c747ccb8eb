"""What a writer does for a part of a run: it stages finished rows, and prepares the files of complete shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.records import Provenance, Result
from noisesmith.pipeline.schema import schema_of, to_table
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.commit import Prepared, prepare
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.shards import load_libraries
from noisesmith.pipeline.xmp import with_marks


class ShardWriter:
    """Writes rows with the columns, types and formats of the part's header.

    It keeps nothing between two calls and only makes files under names of their own. So any number of writers may work
    on the same run, and each can be killed at any time. A :class:`Committer` makes their files part of the dataset.
    """

    def __init__(self, run_dir: Path, header: Header, extra_schema: pa.Schema) -> None:
        self._run_dir = run_dir
        self._header = header
        self.schema = schema_of(header.columns, extra_schema)

    def load(self) -> None:
        """Import what the first shard will need."""
        load_libraries(self._header.formats)

    def stage(self, results: Sequence[Result], provenance: Provenance) -> staging.Staged:
        """Stage finished rows of one shard: they are on disk when this returns."""
        (shard,) = {self._header.layout.shard_of(result.row.index) for result in results}
        tables = []
        for result in results:
            marked = with_marks(result) if self._header.marks_images else result
            tables.append(to_table(marked, provenance, self.schema))
        return staging.stage(self._run_dir, shard, pa.concat_tables(tables))

    def prepare(self, shard: int, rows: Mapping[int, str]) -> Prepared:
        """Write the files of a complete shard; see :func:`prepare`."""
        return prepare(self._run_dir, self._header, self.schema, shard, rows)
