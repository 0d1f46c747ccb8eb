"""The writer of a run: stages every finished row at once and commits a shard as soon as its last row is in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Failure, Provenance, Result
from noisesmith.pipeline.schema import row_schema, to_table
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.commit import commit_complete, commit_if_complete
from noisesmith.pipeline.sinks.done import recover


class RunWriter:
    """Writes the rows of one opened run. All it knows is on disk, so it can be killed and made again at any time.

    Only one may live in a run directory at once.
    """

    def __init__(
        self, run_dir: Path, config: RunConfig, extra_schema: pa.Schema, size: int, provenance: Provenance
    ) -> None:
        self.run_dir = run_dir
        self.formats = config.output.formats
        self.schema = row_schema(config, extra_schema)
        self.provenance = provenance
        self.done = recover(self.run_dir)
        self.plan = self.done.plan
        if self.plan.size != size:
            raise ValueError(f"{run_dir} is a run of {self.plan.size} rows, not {size}")

    def put(self, result: Result) -> list[int]:
        """Stage a finished row, in place of an earlier version of it or of its dead letter.

        A row of a committed shard is dropped: work is done at least once, rows are committed exactly once.

        Returns:
            The shards that this call has committed, at most one.
        """
        shard = self.plan.shard_of(result.row.index)
        if shard in self.done.committed:
            return []
        staging.stage(self.run_dir, shard, result.row.id, to_table(result, self.provenance, self.schema))
        self.done.staged[shard].add(result.row.index)
        return self._commit_if_complete(shard)

    def fail(self, failure: Failure) -> list[int]:
        """Give a row up: it counts as done, and its dead letter tells why. A row already staged is kept instead.

        Returns:
            The shards that this call has committed, at most one.
        """
        shard = self.plan.shard_of(failure.row.index)
        if shard in self.done.committed or failure.row.index in self.done.staged.get(shard, ()):
            return []
        staging.add_letter(self.run_dir, shard, failure)
        self.done.dead[shard].add(failure.row.index)
        return self._commit_if_complete(shard)

    def finish(self) -> list[int]:
        """Commit what is complete and not yet committed, such as after a crash just before a commit.

        Returns:
            The shards that this call has committed.
        """
        return commit_complete(self.run_dir, self.done, self.formats, self.schema)

    def _commit_if_complete(self, shard: int) -> list[int]:
        return [shard] if commit_if_complete(self.run_dir, self.done, shard, self.formats, self.schema) else []
