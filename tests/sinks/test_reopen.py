"""Dead rows are tried again in their shards, whose other rows stay as they were."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.sinks import open_run, read_rows, reopen, reopen_failed, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.staging import read_letters
from tests.sinks.conftest import WITH_FIRST, Run, failure, result

DEAD = (1, 6)


@pytest.fixture(params=[["parquet", "webdataset"], ["parquet"], ["webdataset"]], ids=lambda formats: "+".join(formats))
def run(make_run: Callable[..., Run], request: pytest.FixtureRequest) -> Run:
    """Ten rows of which two are dead, each in a shard of its own."""
    run = make_run(output={"formats": request.param})
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index in DEAD else writer.put(result(row))
    return run


def test_only_dead_rows_are_to_do_again(run: Run) -> None:
    before = open_run(run.config, run.corpus)
    state, again = reopen_failed(run.config, run.corpus, before)
    assert again == 2
    assert [row.index for row in run.rows if row.index not in state.done] == [*DEAD]
    assert (before.done.written, state.done.written) == (8, 8)
    assert list(read_manifest(run.dir).entries) == [2]
    assert list(open_run(run.config, run.corpus).done) == list(state.done)


def test_once_they_succeed_the_run_equals_one_without_failures(run: Run) -> None:
    reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    writer = run.writer()
    assert [writer.put(result(run.rows[index])) for index in DEAD] == [[0], [1]]
    assert not list((run.dir / "failed").iterdir())
    assert verify_run(run.dir) == []
    retried = read_manifest(run.dir)
    run.dir.rename(run.dir.with_name("retried"))
    assert read_manifest(run.write_all().dir) == retried, "the files are equal byte for byte"


def test_rows_of_files_with_their_hash_are_staged_together_and_unchecked(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(output={"rows_per_shard": 10})
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 4 else writer.put(result(row))
    monkeypatch.delattr(reopen, "check_row")
    monkeypatch.delattr(reopen, "replays")
    reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    assert len(list(run.dir.glob("staging/*/*"))) == 2, "8 rows and the ninth"
    run.writer().put(result(run.rows[4]))
    assert verify_run(run.dir, range(10)) == []


def test_rows_of_a_file_without_its_hash_are_checked(make_run: Callable[..., Run]) -> None:
    """A byte of one image differs, and every other row can be read."""
    run = make_run(output={"formats": ["webdataset"]} | WITH_FIRST)
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 1 else writer.put(result(row))
    (tar,) = run.dir.glob("tars/train-00000-*")
    content = bytearray(tar.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 255
    tar.write_bytes(content)
    state, again = reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    assert again == 2
    assert [row.index for row in run.rows if row.index not in state.done] == [0, 1]


def test_a_copy_of_dead_letters_is_passed_over(run: Run) -> None:
    letters = (run.dir / "failed" / "shard-00000.jsonl").read_bytes()
    copies = [run.dir / "failed" / name for name in ("shard-00000.jsonl.bak", "shard-00000 (copy).jsonl")]
    for path in copies:
        path.write_bytes(letters[:-1])
    assert verify_run(run.dir) == []
    assert reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))[1] == 2
    assert [path.read_bytes() for path in copies] == [letters[:-1]] * 2


def test_a_row_that_fails_again_keeps_its_earlier_attempts(run: Run) -> None:
    for times in (1, 2, 3):
        assert [len(read_letters(run.dir, shard)[DEAD[shard]]["attempts"]) for shard in (0, 1)] == [2 * times] * 2
        assert reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))[1] == 2
        assert read_letters(run.dir, 0) == {}
        writer = run.writer()
        for index in DEAD:
            writer.fail(failure(run.rows[index], f"again {times}"))
    assert verify_run(run.dir) == []
    (letter,) = map(json.loads, (run.dir / "failed" / "shard-00000.jsonl").read_text().splitlines())
    assert letter["message"] == "again 3"
    assert [attempt["message"] for attempt in letter["attempts"]] == [
        *["out of memory"] * 2, *["again 1"] * 2, *["again 2"] * 2, *["again 3"] * 2,
    ]  # fmt: skip
    assert [row["id"] for row in read_rows(run.dir, ["id"])] == [r.id for r in run.rows if r.index not in DEAD]


def test_a_dead_row_of_an_open_shard_is_tried_again(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(reopen, "write_manifest")  # no line of it changes
    run = make_run()
    writer = run.writer()
    writer.put(result(run.rows[0]))
    writer.fail(failure(run.rows[1]))
    state, again = reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    assert (list(state.done), again) == ([0], 1)
    assert reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))[1] == 0, "it is still to do"
    writer = run.writer()
    for row in run.rows[1:]:
        writer.put(result(row))
    assert verify_run(run.dir) == []


def test_without_dead_rows_nothing_changes(make_run: Callable[..., Run]) -> None:
    run = make_run().write_all()
    before = (run.dir / "manifest.jsonl").read_bytes()
    state, again = reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    assert (len(state.done), again) == (10, 0)
    assert (run.dir / "manifest.jsonl").read_bytes() == before


def test_the_corpus_own_columns_come_back_as_they_were(make_run: Callable[..., Run], tmp_path: Path) -> None:
    """A tar has no form for dates and decimals, and none for a number that is not finite."""
    own = {"day": [datetime.date(2026, 1, 2)] * 2, "price": [Decimal("1.50")] * 2, "weight": [float("inf"), 0.1]}
    table = pa.table({"prompt": ["a cat", "a dog"], **own})
    pq.write_table(table, tmp_path / "own.parquet")
    run = make_run(corpus={"source": str(tmp_path / "own.parquet")}, output={"formats": ["webdataset", "parquet"]})
    writer = run.writer()
    writer.put(result(run.rows[0]))
    writer.fail(failure(run.rows[1]))
    reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    run.writer().put(result(run.rows[1]))
    assert verify_run(run.dir) == []
    written = pq.read_table(run.dir / "data" / "train-00000-of-00001.parquet")
    assert written.select(table.column_names).to_pylist() == table.to_pylist()
