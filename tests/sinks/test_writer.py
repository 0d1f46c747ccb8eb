"""What the writer of a run takes, commits and drops; dead letters."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Failure
from noisesmith.pipeline.sinks import open_run, read_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.staging import read_letters
from tests.sinks.conftest import PROVENANCE, Run, failure, result
from tests.writing import RunWriter


class TestWriter:
    def test_commits_a_shard_with_its_last_row_in_any_order(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        writer = run.writer()
        order = [9, 0, 3, 4, 2, 8, 1, 5, 7, 6]
        assert [writer.put(result(run.rows[index])) for index in order] == [[], [], [], [], [], [2], [0], [], [], [1]]
        assert [row["id"] for row in read_rows(run.dir, ["id"])] == [row.id for row in run.rows]
        assert verify_run(run.dir) == []

    def test_is_rebuilt_from_disk_between_any_two_rows(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        open_run(run.config, run.corpus)
        arguments = (run.dir, run.corpus.extra_schema, run.corpus.size, PROVENANCE)
        committed = []
        for row in run.rows:
            writer = RunWriter(*pickle.loads(pickle.dumps(arguments)))
            committed += writer.put(pickle.loads(pickle.dumps(result(row))))
        assert committed == [0, 1, 2]
        assert verify_run(run.dir) == []

    def test_a_staged_row_put_again_is_replaced(self, make_run: Callable[..., Run]) -> None:
        run = make_run(3)
        writer = run.writer()
        writer.put(result(run.rows[0], score=0.2))
        writer.put(result(run.rows[0], score=0.9))
        writer.put(result(run.rows[1]))
        writer.put(result(run.rows[2]))
        assert [row["score"] for row in read_rows(run.dir, ["score"])] == [0.9, 0.75, 0.75]

    def test_a_committed_row_put_again_is_dropped(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        before = (run.dir / "manifest.jsonl").read_bytes()
        writer = run.writer()
        assert writer.put(result(run.rows[0], score=0.2)) == []
        assert writer.fail(failure(run.rows[0])) == []
        assert writer.finish() == []
        assert (run.dir / "manifest.jsonl").read_bytes() == before
        assert verify_run(run.dir) == []

    def test_a_result_without_its_first_image_is_an_error(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        with pytest.raises(ValueError, match="without its image_initial"):
            run.writer().put(replace(result(run.rows[0]), image_initial=None))

    def test_a_result_without_the_noise_no_recipe_rebuilds_is_an_error(self, make_run: Callable[..., Run]) -> None:
        run = make_run(optimizer={"method": "pgd"})
        with pytest.raises(ValueError, match="without its noise_fp16"):
            run.writer().put(result(run.rows[0]))


class TestDeadLetters:
    def test_tell_all_that_is_needed_to_try_again(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        run.writer().fail(failure(run.rows[5]))
        (line,) = (run.dir / "failed" / "shard-00001.jsonl").read_text().splitlines()
        attempt = {
            "error": "OutOfMemoryError",
            "message": "out of memory",
            "traceback": "Traceback: out of memory",
            "where": "generate",
        }
        assert json.loads(line) == {
            "id": run.rows[5].id,
            "index": 5,
            "prompt": "prompt 5",
            "extra": {"topic": "pets", "n": 5},
            "error": "OutOfMemoryError",
            "message": "out of memory",
            "traceback": "Traceback: out of memory",
            "attempts": [attempt, attempt],
        }

    def test_count_as_done_and_are_named_by_the_manifest(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        writer = run.writer()
        committed = [writer.fail(failure(row)) if row.index in (1, 6) else writer.put(result(row)) for row in run.rows]
        assert [shard for shards in committed for shard in shards] == [0, 1, 2]
        assert [entry.failed for entry in read_manifest(run.dir).entries.values()] == [
            (run.rows[1].id,),
            (run.rows[6].id,),
            (),
        ]
        assert [row["id"] for row in read_rows(run.dir, ["id"])] == [r.id for r in run.rows if r.index not in (1, 6)]
        assert verify_run(run.dir) == []

    def test_a_shard_of_dead_letters_alone_has_no_files(self, make_run: Callable[..., Run]) -> None:
        run = make_run(5)
        writer = run.writer()
        for row in run.rows:
            writer.put(result(row)) if row.index == 4 else writer.fail(failure(row))
        written = [str(path.relative_to(run.dir)) for path in run.dir.glob("*/train-*")]
        assert sorted(written) == ["data/train-00001-of-00002.parquet", "tars/train-00001-of-00002.tar"]
        assert len(open_run(run.config, run.corpus).done) == 5
        assert verify_run(run.dir) == []

    def test_are_withdrawn_when_the_row_succeeds_after_all(self, make_run: Callable[..., Run]) -> None:
        run = make_run(4)
        writer = run.writer()
        writer.fail(failure(run.rows[1]))
        writer.fail(failure(run.rows[2]))
        for index in (0, 1, 3):
            writer.put(result(run.rows[index]))
        assert list(read_letters(run.dir, 0)) == [2]
        assert [row["id"] for row in read_rows(run.dir, ["id"])] == [run.rows[index].id for index in (0, 1, 3)]
        assert verify_run(run.dir) == []

    def test_a_later_failure_does_not_undo_a_staged_row(self, make_run: Callable[..., Run]) -> None:
        run = make_run(2)
        writer = run.writer()
        writer.put(result(run.rows[0]))
        assert writer.fail(failure(run.rows[0])) == []
        assert writer.put(result(run.rows[1])) == [0]
        assert verify_run(run.dir) == []

    def test_the_last_of_a_row_counts(self, make_run: Callable[..., Run]) -> None:
        run = make_run(2)
        writer = run.writer()
        for message in ("first", "second"):
            writer.fail(failure(run.rows[0], message))
        writer.put(result(run.rows[1]))
        assert read_letters(run.dir, 0)[0]["message"] == "second"
        assert verify_run(run.dir) == []

    @given(st.text(max_size=40))
    @settings(max_examples=25)
    def test_any_message_is_kept(self, tmp_path_factory: pytest.TempPathFactory, message: str) -> None:
        run = Run(tmp_path_factory.mktemp("letters"), [{"prompt": "a cat"}, {"prompt": "a dog"}])
        run.writer().fail(Failure(run.rows[0], ({"error": "E", "message": f"\ud800{message}\n", "where": "score"},)))
        assert read_letters(run.dir, 0)[0]["message"] == f"\ud800{message}\n"

    def test_a_damaged_file_is_named(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        run.writer().fail(failure(run.rows[0]))
        (run.dir / "failed" / "shard-00000.jsonl").write_text("nonsense\n")
        with pytest.raises(UserError, match=r"shard-00000\.jsonl: is damaged .*delete it"):
            open_run(run.config, run.corpus)


def test_a_damaged_staged_row_is_named(make_run: Callable[..., Run]) -> None:
    run = make_run(2)
    writer = run.writer()
    writer.put(result(run.rows[0]))
    (staged,) = (run.dir / "staging" / "shard-00000").glob("*.arrows")
    staged.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"\.arrows: is damaged; delete it and run again"):
        writer.put(result(run.rows[1]))
    staged.unlink()
    assert list(open_run(run.config, run.corpus).done) == [1]
