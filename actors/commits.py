"""Commits of shards and dead letters: the part of writing that the driver's process alone does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from ray.exceptions import RayError

from noisesmith.actors.inbox import Answer
from noisesmith.actors.pool import Pool, Slot
from noisesmith.actors.retry import cause_of, fault_of
from noisesmith.actors.row_task import RowTask
from noisesmith.actors.stages import WriterWorker, cannot_write
from noisesmith.actors.surroundings import Surroundings
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Failure
from noisesmith.pipeline.sinks import Committer, Prepared, Staged


class Commits:
    """Lets writers prepare complete shards, and commits them. Threads do what waits for a disk or a store.

    Args:
        on_buried: called with each row whose dead letter is durable.
        on_committed: called with each shard that is in the dataset.

    Attributes:
        buried: rows whose dead letters are being written.
    """

    def __init__(
        self,
        writers: Pool[WriterWorker, None],
        around: Surroundings,
        on_buried: Callable[[RowTask], None],
        on_committed: Callable[[int], None],
    ) -> None:
        self._writers = writers
        self._around = around
        self._on_buried = on_buried
        self._on_committed = on_committed
        self.buried: set[RowTask] = set()
        self._complete: deque[int] = deque()  # shards that wait for a writer
        self._prepared: set[int] = set()  # shards that writers prepare
        self._committed: set[int] = set()  # shards that are being committed

    def open(self, committer: Committer) -> None:
        """Take what is known once the run is opened."""
        self._committer = committer

    @property
    def idle(self) -> bool:
        """Whether nothing is left to commit."""
        return not (self._complete or self._prepared or self._committed)

    def accept(self, staged: Staged) -> None:
        """Count rows as done that a writer has staged."""
        self._complete.extend(self._committer.accept(staged))

    def bury(self, row: RowTask) -> None:
        """Write the dead letter of a row that failed for good."""
        attempts = tuple(asdict(attempt) for attempt in row.attempts)
        letter = Failure(row.search.row, attempts)
        self.buried.add(row)
        future = self._around.threads.submit(self._committer.bury, letter)
        self._around.inbox.await_future(future, partial(self._letter_written, row))

    def dispatch(self) -> None:
        """Give complete shards to writers with room, at most one per writer, so that rows find room too."""
        while self._complete and len(self._prepared) < self._writers.count:
            slot = self._writers.free()
            if slot is None:
                return
            shard = self._complete.popleft()
            self._prepared.add(shard)
            rows = self._committer.done.staged.get(shard, {})
            answer = slot.worker.prepare.remote(shard, rows)
            self._writers.sent(slot, alone=False)
            self._around.inbox.expect(answer, partial(self._shard_prepared, shard, slot, slot.worker))

    def leave(self) -> bool:
        """Leave the shards that no thread commits yet: they are committed when the run is opened again.

        Returns:
            whether there were any.
        """
        left = bool(self._complete or self._prepared)
        self._complete.clear()
        self._prepared.clear()
        return left

    def clean_up(self) -> None:
        """Remove what dead writers have left, once nothing is left to commit."""
        _written(self._committer.clean_up)

    def _letter_written(self, row: RowTask, answer: Answer) -> None:
        _written(answer.result)
        self.buried.remove(row)
        self._complete.extend(self._committer.accept_buried(row.search.row.index))
        self._on_buried(row)

    def _shard_prepared(self, shard: int, slot: Slot[WriterWorker], worker: WriterWorker, answer: Answer) -> None:
        try:
            prepared: Prepared = answer.result()
        except RayError as error:
            self._writers.failed(slot, worker, error)
            if not fault_of(error).is_death:
                raise cannot_write(cause_of(error)) from error
            if shard in self._prepared:
                self._prepared.remove(shard)
                self._complete.appendleft(shard)
            return
        self._writers.done(slot, worker, 0.0)
        if shard not in self._prepared:  # it was left at the deadline
            return
        self._prepared.remove(shard)
        self._committed.add(shard)
        future = self._around.threads.submit(self._committer.commit, prepared)
        self._around.inbox.await_future(future, partial(self._shard_committed, shard))

    def _shard_committed(self, shard: int, answer: Answer) -> None:
        _written(answer.result)
        self._committed.remove(shard)
        self._on_committed(shard)


def _written(call: Callable[[], object]) -> None:
    """Call, and explain what the disk says."""
    try:
        call()
    except (OSError, UserError) as error:
        raise cannot_write(error) from error
