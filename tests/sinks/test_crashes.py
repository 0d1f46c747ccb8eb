"""A writer killed at any step of any operation loses no row it had accepted, and doubles none."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.sinks import ShardWriter, open_run, read_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage import files
from tests.sinks.conftest import PROVENANCE, Run, failure, result

DEAD = 1


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and no file operation works any more."""


@contextmanager
def killed_at(step: int) -> Iterator[list[int]]:
    """Die at the ``step``-th durable operation, half way through where it can be; counts those that were done."""
    done = [0]

    def guarded(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if done[0] >= step:
                if operation is rmtree and done[0] == step:
                    next(iter(Path(arguments[0]).glob("*")), Path("/none")).unlink(missing_ok=True)
                raise Killed
            done[0] += 1
            return operation(*arguments, **options)

        return call

    rmtree = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", guarded(os.replace))
        patch.setattr(os, "fsync", guarded(os.fsync))
        patch.setattr(Path, "unlink", guarded(Path.unlink))
        patch.setattr(shutil, "rmtree", guarded(rmtree))
        yield done


def work(run: Run, accepted: set[int]) -> None:
    """One start of the run: what is not done is done, and noted once the writer has accepted it."""
    writer = run.writer()
    writer.finish()
    done = open_run(run.config, run.corpus).done
    for row in run.rows:
        if row.index not in done:
            if row.index == DEAD:
                writer.fail(failure(row))
            else:
                writer.put(result(row))
            accepted.add(row.index)


def work_until_killed(run: Run, step: int, accepted: set[int]) -> int:
    with killed_at(step) as done:
        try:
            work(run, accepted)
        except Killed:
            return step
    return done[0]


def check_whole(run: Run) -> None:
    """The corpus is there once each, and nothing else lies about."""
    assert verify_run(run.dir) == []
    expected = [row.id for row in run.rows if row.index != DEAD]
    rows = list(read_rows(run.dir))
    assert [row["id"] for row in rows] == expected
    assert [row["scores"][0] for row in rows] == [0.1 + row.index / 1000 for row in run.rows if row.index != DEAD]
    listed = {file.path for entry in read_manifest(run.dir).entries.values() for file in entry.files}
    present = {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()}
    assert present == listed | {"manifest.jsonl", "config.yaml", "failed/shard-00000.jsonl"}


@pytest.fixture
def fresh(make_run: Callable[..., Run]) -> Callable[[], Run]:
    run = make_run(3, output={"rows_per_shard": 2})

    def make() -> Run:
        shutil.rmtree(run.dir, ignore_errors=True)
        return run

    return make


def test_killed_at_every_step_and_at_times_again(fresh: Callable[[], Run]) -> None:
    rng = random.Random(0)
    steps = work_until_killed(fresh(), 10**6, set())
    assert steps > 30
    for step in range(steps):
        run, accepted = fresh(), set[int]()
        work_until_killed(run, step, accepted)
        if step % 3 == 0:
            work_until_killed(run, rng.randrange(steps), accepted)
        if (run.dir / "manifest.jsonl").exists():
            committed = [row["id"] for row in read_rows(run.dir, ["id"])]
            assert len(committed) == len(set(committed))
        state = open_run(run.config, run.corpus)
        assert accepted <= set(state.done), f"killed at {step}: an accepted row is lost"
        work(run, accepted)
        check_whole(run)


def work_together(run: Run, count: int, accepted: set[int]) -> None:
    """One start of the run with several writers beside each other, which stage the rows of a shard together."""
    first = run.writer()
    first.finish()
    writers = [first]
    while len(writers) < count:  # one process commits what all of them have made
        other = copy.copy(first)
        other.writer = ShardWriter(run.dir, first.committer.header, run.corpus.extra_schema)
        writers.append(other)
    left = [row for row in run.rows if row.index not in first.done]
    for shard, rows in groupby(left, lambda row: row.index // 3):
        writer = writers[shard % count]
        fates = list(rows)
        alive = [row for row in fates if row.index != DEAD]
        if alive:
            writer.put(*map(result, alive))
            accepted.update(row.index for row in alive)
        if len(alive) < len(fates):
            writer.fail(failure(run.rows[DEAD]))
            accepted.add(DEAD)
    first.committer.clean_up()


def test_several_writers_killed_at_steps_go_on_as_another_number(make_run: Callable[..., Run]) -> None:
    run = make_run(5, output={"rows_per_shard": 3})
    with killed_at(10**6) as steps:
        work_together(run, 2, set())
    assert steps[0] > 20
    for step in range(0, steps[0], 2):
        shutil.rmtree(run.dir)
        accepted = set[int]()
        with killed_at(step), suppress(Killed):
            work_together(run, 2, accepted)
        assert accepted <= set(open_run(run.config, run.corpus).done), f"killed at {step}: an accepted row is lost"
        work_together(run, 1 + step % 4, accepted)
        check_whole(run)


def test_a_writer_that_is_presumed_dead_changes_nothing_that_is_committed(fresh: Callable[[], Run]) -> None:
    """It stages and prepares late, what another writer has made in its place with other scores."""
    run = fresh()
    writer = run.writer()
    presumed_dead = ShardWriter(run.dir, writer.committer.header, run.corpus.extra_schema)
    late = presumed_dead.stage([result(run.rows[2], score=0.1)], PROVENANCE)
    prepared_late = presumed_dead.prepare(1, {2: late.file})
    writer.put(result(run.rows[2]))
    writer.put(result(run.rows[0]))
    before = {path: path.read_bytes() for path in run.dir.glob("*/train-*")}
    assert len(before) == 2, "one shard in two formats"
    presumed_dead.stage([result(run.rows[2], score=0.1)], PROVENANCE)
    assert not {path for path, _ in prepared_late.files} & before.keys()
    assert {path: path.read_bytes() for path in run.dir.glob("*/train-*")} == before
    assert writer.committer.accept(late) == [], "its answer comes too late"
    assert [row["score"] for row in read_rows(run.dir, ["score"])] == [0.75]
    work(run, set())
    check_whole(run)


def test_complete_shard_is_committed_on_opening(fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that finds every row done has nothing left to start a writer for."""
    run = fresh()
    writer = run.writer()
    writer.fail(failure(run.rows[DEAD]))
    writer.put(result(run.rows[2]))
    with monkeypatch.context() as patch:
        patch.setattr("noisesmith.pipeline.sinks.commit.append_entry", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            writer.put(result(run.rows[0]))
    assert list(read_manifest(run.dir).entries) == [1]
    assert (run.dir / "data" / "train-00000-of-00002.parquet").exists(), "renamed, and not in the manifest"
    assert len(open_run(run.config, run.corpus).done) == 3
    check_whole(run)


@pytest.mark.parametrize(
    ("step", "listed", "renamed"),
    [("files.replace", 0, False), ("append_entry", 0, True), ("staging.drop_staged", 1, True)],
    ids=["before the rename", "after it and before the manifest", "after the manifest"],
)
def test_killed_in_a_commit(
    fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, step: str, listed: int, renamed: bool
) -> None:
    run = fresh()
    writer = run.writer()
    writer.fail(failure(run.rows[DEAD]))
    replace = files.replace

    def killed(*arguments: Any) -> None:
        if step != "files.replace" or arguments[1].suffix == ".parquet":
            raise Killed
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(f"noisesmith.pipeline.sinks.commit.{step}", killed)
        with pytest.raises(Killed):
            writer.put(result(run.rows[0]))
    assert len(read_manifest(run.dir).entries) == listed
    assert (run.dir / "data" / "train-00000-of-00002.parquet").exists() == renamed
    assert sorted(open_run(run.config, run.corpus).done) == [0, DEAD]
    work(run, set())
    check_whole(run)


@pytest.mark.parametrize("cut", [1, 20])
def test_half_a_manifest_line(fresh: Callable[[], Run], cut: int) -> None:
    run = fresh()
    work(run, set())
    manifest = run.dir / "manifest.jsonl"
    content = manifest.read_bytes()
    lines = content.splitlines(keepends=True)
    folder = run.dir / "staging" / "shard-00001"
    manifest.write_bytes(b"".join(lines[:-1]))
    shutil.rmtree(folder, ignore_errors=True)
    writer = run.writer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            writer.put(result(run.rows[2]))
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    assert [row["id"] for row in read_rows(run.dir, ["id"])] == [run.rows[0].id]
    work(run, set())
    check_whole(run)


def test_orphans_go_and_strangers_stay(fresh: Callable[[], Run]) -> None:
    run = fresh()
    writer = run.writer()
    writer.put(result(run.rows[0]))
    orphans = ["data/train-00001-of-00002.parquet", "tars/train-00001-of-00002.tar", "data/.train-00000.x.tmp"]
    orphans += [".config.yaml.ab.tmp", "staging/shard-00000/.x.arrow.ab.tmp"]
    strangers = ["data/notes.txt", "stats.json"]
    for name in orphans + strangers:
        (run.dir / name).write_text("x")
    assert list(open_run(run.config, run.corpus).done) == [0]
    assert not [name for name in orphans if (run.dir / name).exists()]
    assert [name for name in strangers if (run.dir / name).exists()] == strangers


def test_a_duplicate_manifest_entry_doubles_no_row(fresh: Callable[[], Run]) -> None:
    run = fresh()
    work(run, set())
    manifest = run.dir / "manifest.jsonl"
    last = manifest.read_bytes().splitlines(keepends=True)[-1]
    manifest.write_bytes(manifest.read_bytes() + last)
    check_whole(run)
    assert len(open_run(run.config, run.corpus).done) == 3


def test_half_a_dead_letter_is_tried_again(fresh: Callable[[], Run]) -> None:
    run = fresh()
    run.writer().fail(failure(run.rows[DEAD]))
    letters = run.dir / "failed" / "shard-00000.jsonl"
    letters.write_bytes(letters.read_bytes()[:-5])
    assert list(open_run(run.config, run.corpus).done) == []
    work(run, set())
    check_whole(run)
    assert len(letters.read_bytes().splitlines()) == 1
    assert json.loads(letters.read_bytes())["index"] == DEAD


def test_staged_rows_that_vanish_are_not_left_out(fresh: Callable[[], Run]) -> None:
    run = fresh()
    writer = run.writer()
    writer.put(result(run.rows[0]))
    shutil.rmtree(run.dir / "staging" / "shard-00000")
    with pytest.raises(FileNotFoundError, match="staged rows have vanished"):
        writer.fail(failure(run.rows[DEAD]))
    work(run, set())
    check_whole(run)


def test_a_full_disk_leaves_the_manifest_whole(fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = fresh()
    writer = run.writer()
    (run.dir / "failed").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            writer.put(result(run.rows[0]))
        with pytest.raises(OSError, match="No space left"):
            writer.fail(failure(run.rows[DEAD]))
    assert not list(run.dir.rglob("*.tmp"))
    assert (run.dir / "failed" / "shard-00000.jsonl").read_bytes() == b""
    for row in (run.rows[0], run.rows[2]):
        writer.put(result(row))
    writer.fail(failure(run.rows[DEAD]))
    check_whole(run)
