"""Runs that make some shards of a dataset: which ones, under which names, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.config import Partition, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.extend import find_extension, open_parts
from noisesmith.pipeline.records import index_of
from noisesmith.pipeline.report import rewrite_report
from noisesmith.pipeline.sinks import check_part, check_run_dir, open_run, read_rows, repair_run, verify_run
from noisesmith.pipeline.sinks.layout import ShardLayout
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.telemetry.status import read_status
from tests.sinks.conftest import Run, failure, result

MakeRun = Callable[..., Run]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_every_row_is_dealt_to_one_partition(size: int, rows_per_shard: int, of: int) -> None:
    whole = ShardLayout(size, rows_per_shard)
    dealt: list[int] = []
    for number in range(1, of + 1):
        partition = Partition(number, of)
        layout = ShardLayout(size, rows_per_shard, partition=partition)
        rows = [index for shard in layout.numbers for index in layout.rows(shard)]
        assert layout.own_rows == len(rows)
        assert all(partition.owns(whole.shard_of(index)) for index in rows)
        for shard in layout.numbers:
            assert layout.data_file(shard, "parquet") == whole.data_file(shard, "parquet")
            assert layout.rows(shard) == whole.rows(shard)
        dealt += rows
    assert sorted(dealt) == list(range(size))


def test_rows_keep_their_indices_and_ids(make_run: MakeRun) -> None:
    whole = {row.index: row for row in make_run().rows}
    runs = [make_run(partition=f"{number}/2") for number in (1, 2)]
    assert [row.index for row in runs[0].rows] == [0, 1, 2, 3, 8, 9]
    assert [row.index for row in runs[1].rows] == [4, 5, 6, 7]
    for run in runs:
        assert all(row == whole[row.index] for row in run.rows)
        assert (run.corpus.size, run.corpus.whole) == (len(run.rows), 10)
    assert runs[0].corpus.digest == runs[1].corpus.digest
    assert [row.index for row in runs[0].corpus.rows(2, 9, skip={3})] == [2, 8]


def test_a_partition_is_a_run_of_its_own_rows(make_run: MakeRun) -> None:
    run = make_run(partition="2/2")
    assert check_run_dir(run.config, run.corpus) == 0
    writer = run.writer()
    for row in run.rows[:3]:
        writer.put(result(row))
    assert check_run_dir(run.config, run.corpus) == 3
    found = read_status(run.dir)
    assert (found.state, found.partition) == ("stopped", "2/2")
    assert (found.rows, found.rows_done, found.shards, found.shards_committed) == (4, 3, 1, 0)
    assert verify_run(run.dir) == ["1 of 1 shards are not committed yet: finish the run with noisesmith retry"]
    run.writer().put(result(run.rows[3]))
    assert verify_run(run.dir) == []
    assert read_status(run.dir).state == "finished"
    assert [index_of(row["id"]) for row in read_rows(run.dir)] == [4, 5, 6, 7]
    assert [path.name for path in (run.dir / "data").iterdir()] == ["train-00001-of-00003.parquet"]
    assert load_config(run.dir / "config.yaml") == run.config
    rewrite_report(run.dir, run.config)
    assert "| partition | 2/2 of 10 rows |" in (run.dir / "README.md").read_text()


def test_a_damaged_shard_of_a_partition_is_repaired(make_run: MakeRun) -> None:
    run = make_run(partition="1/2").write_all()
    (run.dir / "data/train-00002-of-00003.parquet").write_bytes(b"")
    manifest = (run.dir / "manifest.jsonl").read_text().splitlines(keepends=True)
    (run.dir / "manifest.jsonl").write_text("".join(manifest[:2]) + "damage\n")
    ((config, corpus),) = open_parts(run.dir)
    repair_run(config, corpus, print)
    writer = run.writer()
    for row in run.corpus.rows(skip=writer.done):
        writer.put(result(row))
    assert verify_run(run.dir) == []
    assert len(list(read_rows(run.dir))) == 6


@pytest.mark.parametrize(
    ("started", "asked", "message"),
    [
        ("1/2", "2/2", "holds the partition 1/2, not the partition 2/2; run it again with --partition 1/2, or"),
        ("1/2", "1/3", "holds the partition 1/2, not the partition 1/3; run it again with --partition 1/2, or"),
        ("1/2", None, "holds the partition 1/2, not all rows; run it again with --partition 1/2, or"),
        (None, "1/2", "holds all rows, not the partition 1/2; run it again without --partition, or"),
    ],
)
def test_a_directory_keeps_its_partition(
    make_run: MakeRun, started: str | None, asked: str | None, message: str
) -> None:
    make_run(partition=started).write_all()
    other = make_run(partition=asked)
    for opening in (check_run_dir, open_run):
        with pytest.raises(UserError, match=message):
            opening(other.config, other.corpus)


def test_more_partitions_than_shards_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(
        UserError, match=r"partition: 1/4 would leave runs without a row, since the corpus has 3 shards"
    ):
        make_run(partition="1/4")


def test_a_partition_cannot_be_extended(make_run: MakeRun) -> None:
    run = make_run(partition="1/2").write_all()
    with pytest.raises(UserError, match=r"is the partition 1/2 of a dataset, .* noisesmith merge, then extend"):
        check_part(run.config, run.corpus, read_manifest(run.dir), continues=False)
    with pytest.raises(UserError, match=r"is the partition 1/2 of a dataset"):
        find_extension(run.dir, ["corpus.source=more.txt"])


def test_an_older_program_refuses_a_partition_but_no_other_run(make_run: MakeRun, tmp_path: Path) -> None:
    def header(run: Run) -> dict[str, object]:
        line: dict[str, object] = json.loads((run.dir / "manifest.jsonl").read_text().splitlines()[0])
        return line

    dealt = make_run(partition="1/2", output={"dir": str(tmp_path / "part")}).write_all()
    whole = make_run().write_all()
    assert header(dealt)["version"] == 9
    assert header(whole)["version"] == 5
    assert header(dealt).keys() - header(whole).keys() == {"partition"}


def test_a_dead_row_of_a_partition_counts_as_its_own(make_run: MakeRun) -> None:
    run = make_run(partition="2/2")
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 5 else writer.put(result(row))
    found = read_status(run.dir)
    assert (found.rows, found.rows_done, found.failed) == (4, 4, {"OutOfMemoryError": 1})
    assert verify_run(run.dir) == []
