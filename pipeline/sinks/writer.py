"""The writer of a part of a run: stages every finished row, and commits a shard as soon as its last row arrives."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.records import Failure, Provenance, Result
from noisesmith.pipeline.schema import schema_of, to_table
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.commit import commit_complete, commit_if_complete
from noisesmith.pipeline.sinks.done import recover
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.xmp import with_marks


class RunWriter:
    """Writes the rows of one part of an opened run, with the columns, types and formats of its manifest.

    All its state is on disk, so it can be killed and created again at any time. Only one may exist per run directory.

    Args:
        size: the number of the part's rows.
        first_row: where the part begins.
    """

    def __init__(
        self, run_dir: Path, extra_schema: pa.Schema, size: int, provenance: Provenance, first_row: int = 0
    ) -> None:
        self.run_dir = run_dir
        self.provenance = provenance
        self.done = recover(self.run_dir, first_row)
        self.header = read_manifest(run_dir).part_of_row(first_row)
        self.layout = self.header.layout
        self.schema = schema_of(self.header.columns, extra_schema)
        if self.layout.own_rows != size:
            raise ValueError(f"{run_dir} is a run of {self.layout.own_rows} rows, not {size}")

    def put(self, result: Result) -> list[int]:
        """Stage a finished row, in place of an earlier version of it or of its dead letter.

        A row of a committed shard is dropped: a row may be made twice, but is committed exactly once.

        Returns:
            The shards that this call has committed, at most one.
        """
        shard = self.layout.shard_of(result.row.index)
        if shard in self.done.committed:
            return []
        if self.header.marks_images:
            result = with_marks(result)
        staging.stage(self.run_dir, shard, result.row.id, to_table(result, self.provenance, self.schema))
        self.done.staged[shard].add(result.row.index)
        return self._commit_if_complete(shard)

    def fail(self, failure: Failure) -> list[int]:
        """Write the dead letter of a row that failed for good; the row then counts as done.

        A row that is already staged is kept instead.

        Returns:
            The shards that this call has committed, at most one.
        """
        shard = self.layout.shard_of(failure.row.index)
        if shard in self.done.committed or failure.row.index in self.done.staged.get(shard, ()):
            return []
        staging.add_letter(self.run_dir, shard, failure)
        self.done.dead[shard].add(failure.row.index)
        return self._commit_if_complete(shard)

    def finish(self) -> list[int]:
        """Commit shards that are complete but not committed, as a crash just before a commit leaves them.

        Returns:
            The shards that this call has committed.
        """
        return commit_complete(self.run_dir, self.done, self.header, self.schema)

    def _commit_if_complete(self, shard: int) -> list[int]:
        if commit_if_complete(self.run_dir, self.done, shard, self.header, self.schema):
            return [shard]
        return []
