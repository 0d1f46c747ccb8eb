"""The rows of a run written in one process: a writer and what commits its shards, as a run's actors use them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.records import Failure, Provenance, Result
from noisesmith.pipeline.sinks import Committer, ShardWriter
from noisesmith.pipeline.sinks.done import recover
from noisesmith.pipeline.sinks.manifest import read_manifest


class RunWriter:
    """Writes the rows of one part of an opened run. All its state is on disk, so it can be created again at any time.

    Each method returns the shards that it has committed.
    """

    def __init__(
        self, run_dir: Path, extra_schema: pa.Schema, size: int, provenance: Provenance, first_row: int = 0
    ) -> None:
        self.done = recover(run_dir, first_row)
        header = read_manifest(run_dir).part_of_row(first_row)
        assert header.layout.own_rows == size
        self.committer = Committer(run_dir, header, self.done)
        self.writer = ShardWriter(run_dir, header, extra_schema)
        self.provenance = provenance

    def put(self, *results: Result) -> list[int]:
        """Stage finished rows of one shard, unless it is committed."""
        if self.done.layout.shard_of(results[0].row.index) in self.done.committed:
            return []
        return self._commit(self.committer.accept(self.writer.stage(results, self.provenance)))

    def fail(self, failure: Failure) -> list[int]:
        """Write the dead letter of a row."""
        self.committer.bury(failure)
        return self._commit(self.committer.accept_buried(failure.row.index))

    def finish(self) -> list[int]:
        """Commit shards that are complete but not committed, as a crash just before a commit leaves them."""
        return self._commit(self.committer.complete())

    def _commit(self, shards: list[int]) -> list[int]:
        for shard in shards:
            self.committer.commit(self.writer.prepare(shard, self.done.staged.get(shard, {})))
        if shards and not self.done.open_shards():  # as the driver does when nothing is left to commit
            self.committer.clean_up()
        return shards
