"""Sends the images of committed shards to judges, and commits each shard's side files once all of them are judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ray.exceptions import RayError

from noisesmith.actors.inbox import Answer
from noisesmith.actors.judge import JudgeInfo, Verdicts
from noisesmith.actors.packs import Reference
from noisesmith.actors.pool import Pool, Slot
from noisesmith.actors.retry import FailureLimit, Fault, RowFaults, cause_of, fault_of
from noisesmith.actors.surroundings import Method, Surroundings, Worker
from noisesmith.pipeline.config.cluster import FaultsConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.sinks import SideWriter

POLL_SECONDS = 0.5  # the longest wait for an answer


class JudgeWorker(Worker, Protocol):
    @property
    def judge(self) -> Method: ...


@dataclass(frozen=True)
class JudgeTable:
    """The side table that a judge fills, and the ``origin`` of what it writes: model, revision, question."""

    writer: SideWriter
    origin: dict[str, str]


@dataclass(eq=False)
class Shard:
    """A shard that is being judged, and by whom.

    ``ids`` are those of its rows that were read so far, ``read`` says whether these are all. ``values`` holds the
    columns of judged rows by id, ``failed`` how many rows could not be judged.
    """

    number: int
    judges: list[str]
    ids: list[str] = field(default_factory=list)
    read: bool = False
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: int = 0

    @property
    def ended(self) -> bool:
        return self.read and len(self.values) + self.failed == len(self.ids)


@dataclass(eq=False)
class Batch:
    """Rows of one shard that travel together: a row alone after a failure, not before ``due``."""

    shard: Shard
    rows: list[dict[str, Any]]
    faults: RowFaults = field(default_factory=RowFaults)
    suspect: bool = False
    due: float = 0.0

    def pictures(self) -> tuple[list[str], list[bytes]]:
        """The prompt and the PNG file of each image: the kept images, then the first ones where they are stored."""
        prompts: list[str] = []
        pictures: list[bytes] = []
        for column in ("image", "image_initial"):
            for row in self.rows:
                if column in row:
                    prompts.append(row["prompt"])
                    pictures.append(row[column])
        return prompts, pictures


class Judging:
    """One rescoring.

    Args:
        tables: what to fill, by the judge's name; shards whose file has the same origin are skipped.
        images: the columns of the images.
        batch_size: images per call; halved when a batch does not fit into a worker's memory.
        advance: called with the number of images that were judged.
    """

    def __init__(
        self,
        tables: dict[str, JudgeTable],
        images: list[str],
        pool: Pool[JudgeWorker, JudgeInfo],
        batch_size: int,
        faults: FaultsConfig,
        around: Surroundings,
        advance: Callable[[int], None],
    ) -> None:
        self._tables = tables
        self._columns = ["id", "prompt", "width", "height", *images]
        self._pool = pool
        self._images_per_row = len(images)
        self._rows_per_batch = max(1, batch_size // self._images_per_row)
        self._faults = faults
        self._around = around
        self._advance = advance
        self._fresh = self._batches()
        self._again: deque[Batch] = deque()  # after a failure
        self._calls = 0
        self._judged = 0
        self._failures: list[str] = []
        self._limit = FailureLimit(faults.failed_share)

    def run(self) -> None:
        """Judge every wanted shard.

        Raises:
            UserError: a judge cannot be loaded, or a shard cannot be read.
            RunError: workers keep dying or cannot be placed, a side file cannot be written, or rows could not be
                judged: their shards then have no side file, and every other one has.
        """
        self._pool.start()
        while self._pool.info is None:
            self._wait()
        while self._dispatch():
            self._wait()
        if self._failures:
            count = len(self._failures)
            raise RunError(f"{count} rows could not be judged, so their shards are left out: {self._failures[0]}")

    def _batches(self) -> Iterator[Batch]:
        """Read the shards, a batch of images of one size at a time."""
        for number, judges in sorted(wanted_shards(self._tables).items()):
            shard = Shard(number, judges)
            writer = self._tables[judges[0]].writer
            left = writer.manifest.entries[number].rows
            waiting: dict[tuple[int, int], list[dict[str, Any]]] = {}
            for row in writer.rows(number, self._columns):
                shard.ids.append(row["id"])
                left -= 1
                shard.read = left == 0
                size = (row["width"], row["height"])
                alike = waiting.setdefault(size, [])
                alike.append(row)
                if len(alike) >= self._rows_per_batch:
                    yield Batch(shard, waiting.pop(size))
            for alike in waiting.values():
                yield Batch(shard, alike)

    def _dispatch(self) -> bool:
        """Give batches to workers with room; returns whether there is anything to wait for."""
        while (slot := self._pool.free()) is not None:
            batch = self._next()
            if batch is None:
                break
            if batch.suspect and slot.queued:
                self._again.append(batch)  # a suspect row goes to an idle worker
                break
            self._send(slot, batch)
        return self._calls > 0 or bool(self._again)

    def _next(self) -> Batch | None:
        for batch in self._again:
            if batch.due <= self._around.clock():
                self._again.remove(batch)
                return batch
        return next(self._fresh, None)

    def _send(self, slot: Slot[JudgeWorker], batch: Batch) -> None:
        worker = slot.worker
        reference: Reference = worker.judge.remote(batch.shard.judges, *batch.pictures())
        self._pool.sent(slot, alone=batch.suspect)
        self._calls += 1
        self._around.inbox.expect(reference, partial(self._answered, slot, worker, batch))

    def _wait(self) -> None:
        self._around.inbox.handle(POLL_SECONDS)
        self._pool.start_due()
        seconds = self._pool.missing_seconds()
        if seconds > self._faults.placement_seconds:
            raise RunError(f"no judge has found a place and loaded its model for {seconds:.0f} seconds")

    def _answered(self, slot: Slot[JudgeWorker], worker: JudgeWorker, batch: Batch, answer: Answer) -> None:
        self._calls -= 1
        try:
            verdicts: Verdicts = answer.result()
        except RayError as error:
            self._pool.failed(slot, worker, error)
            self._recover(batch, error)
            return
        self._pool.done(slot, worker, verdicts.seconds)
        self._advance(len(batch.rows) * self._images_per_row)
        self._judged += len(batch.rows)
        for index, row in enumerate(batch.rows):
            values = batch.shard.values.setdefault(row["id"], {})
            for name, scores in verdicts.scores.items():
                values[f"judge_{name}"] = scores[index]
                if self._images_per_row > 1:
                    values[f"judge_{name}_initial"] = scores[len(batch.rows) + index]
        self._commit(batch.shard)

    def _recover(self, batch: Batch, error: RayError) -> None:
        """Try the rows of a failed batch again: smaller, or each alone, which shows whose fault it was."""
        fault = fault_of(error)
        if len(batch.rows) > 1:
            size = 1
            if fault in (Fault.MEMORY, Fault.KILLED):
                size = len(batch.rows) // 2
                self._rows_per_batch = min(self._rows_per_batch, size)
            for start in range(0, len(batch.rows), size):
                part = batch.rows[start : start + size]
                self._again.append(Batch(batch.shard, part, suspect=size == 1))
            return
        batch.suspect = True
        batch.faults.count(fault)
        if batch.faults.allow_another(self._faults.retries):
            batch.due = self._around.clock() + batch.faults.delay(fault, self._faults.backoff_seconds)
            self._again.append(batch)
            return
        cause = cause_of(error)
        batch.shard.failed += 1
        self._failures.append(f"{batch.rows[0]['id']}: {type(cause).__name__}: {reason(cause)}")
        self._limit.count(type(cause).__name__, reason(cause))
        self._limit.check(self._judged)

    def _commit(self, shard: Shard) -> None:
        """Write the side files of a shard whose rows are all judged."""
        if not shard.ended or shard.failed:
            return
        rows = [{"id": row_id, **shard.values[row_id]} for row_id in shard.ids]
        for name in shard.judges:
            columns = ("id", f"judge_{name}", f"judge_{name}_initial")
            own = [{column: row.get(column) for column in columns} for row in rows]
            self._tables[name].writer.put(shard.number, own, self._tables[name].origin)


def wanted_shards(tables: dict[str, JudgeTable]) -> dict[int, list[str]]:
    """Return the shards to judge, each with the names of its judges."""
    wanted: dict[int, list[str]] = {}
    for name, table in tables.items():
        for shard in table.writer.missing(table.origin):
            wanted.setdefault(shard, []).append(name)
    return wanted
