"""Which rows form which shard; opening, resuming and refusing run directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import DoneRows, check_run_dir, open_run, read_rows, verify_run
from noisesmith.pipeline.sinks.layout import ShardLayout
from noisesmith.pipeline.sinks.manifest import Entry, read_manifest
from tests.sinks.conftest import Run, failure, result


class TestLayout:
    @given(st.integers(1, 500), st.integers(1, 60))
    def test_every_row_is_in_one_shard_in_order(self, size: int, rows_per_shard: int) -> None:
        plan = ShardLayout(size, rows_per_shard)
        assert [index for shard in range(plan.shards) for index in plan.rows(shard)] == list(range(size))
        assert all(plan.shard_of(index) == shard for shard in range(plan.shards) for index in plan.rows(shard))
        assert all(0 < len(plan.rows(shard)) <= rows_per_shard for shard in range(plan.shards))

    def test_names_hold_the_total_from_the_start(self) -> None:
        assert ShardLayout(41_001, 1000).data_file(0, "parquet") == "data/train-00000-of-00042.parquet"
        assert ShardLayout(41_001, 1000).data_file(41, "webdataset") == "tars/train-00041-of-00042.tar"

    def test_no_row_outside_it(self) -> None:
        for index in (-1, 10):
            with pytest.raises(IndexError):
                ShardLayout(10, 4).shard_of(index)


@given(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 17)), st.sets(st.integers(0, 17)))
@settings(max_examples=60)
def test_done_rows_are_the_committed_the_staged_and_the_dead(
    shards: set[int], staged: set[int], dead: set[int]
) -> None:
    plan = ShardLayout(18, 4)
    done = DoneRows(plan, {shard: Entry(shard, 0, (), "", ()) for shard in shards})
    expected = {index for shard in shards for index in plan.rows(shard)}
    for index in staged - expected:
        done.staged[plan.shard_of(index)][index] = "a file"
    for index in dead - expected:
        done.dead[plan.shard_of(index)].add(index)
    expected |= staged | dead
    assert set(done) == expected
    assert len(done) == len(expected)
    assert [index for index in range(-2, 25) if index in done] == sorted(expected)


class TestOpen:
    def test_makes_the_directory_its_config_and_its_manifest(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        state = open_run(run.config, run.corpus)
        assert not state.resumed
        assert len(state.done) == 0
        assert load_config(run.dir / "config.yaml") == run.config
        header = read_manifest(run.dir).header
        assert (header.rows, header.shards, header.corpus_digest) == (10, 3, run.corpus.digest)
        assert open_run(run.config, run.corpus).resumed

    def test_checking_writes_nothing(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        assert check_run_dir(run.config, run.corpus) == 0
        assert not run.dir.exists()
        writer = run.writer()
        for row in run.rows[:5]:
            writer.put(result(row))
        before = {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")}
        assert check_run_dir(run.config, run.corpus) == 5
        assert {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")} == before

    def test_done_counts_committed_staged_and_dead(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        writer = run.writer()
        for row in [*run.rows[:4], run.rows[8]]:
            writer.put(result(row))
        writer.fail(failure(run.rows[6]))
        assert list(open_run(run.config, run.corpus).done) == [0, 1, 2, 3, 6, 8]

    def test_operational_fields_may_change(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        changed = make_run(generators={"count": 3, "num_gpus": 1, "batch_size": 2}, faults={"retries": 9}, name="other")
        assert len(open_run(changed.config, changed.corpus).done) == 10
        assert load_config(run.dir / "config.yaml") == changed.config

    @pytest.mark.parametrize(
        ("changes", "messages"),
        [
            ({"seed": 5}, ["seed was 0 and is now 5"]),
            (
                {"optimizer": {"rounds": 7}, "generators": {"steps": 9}},
                ["generators.steps was 50 and is now 9", "optimizer.rounds was 50 and is now 7"],
            ),
            ({"output": {"formats": ["parquet"]}}, ["output.formats.1 was 'webdataset' and is now '(absent)'"]),
            (
                {"judges": []},
                [
                    "judges.0.model was 'embedded/judge' and is now '(absent)'",
                    "judges.0.name was 'eye' and is now '(absent)'",
                ],
            ),
        ],
    )
    def test_another_config_is_refused_naming_each_field(
        self, make_run: Callable[..., Run], changes: dict[str, Any], messages: list[str]
    ) -> None:
        make_run().write_all()
        other = make_run(**changes)
        for opening in (open_run, check_run_dir):
            with pytest.raises(UserError, match="started with another config") as caught:
                opening(other.config, other.corpus)
            differences = str(caught.value).partition("config: ")[2].split("; ")[:-1]
            assert differences == messages

    def test_another_corpus_is_refused(self, make_run: Callable[..., Run]) -> None:
        make_run(10).write_all()
        other = make_run(11)
        with pytest.raises(
            UserError, match=r"started with another corpus: .* of 10 rows and is now .* of 11; restore it"
        ):
            open_run(other.config, other.corpus)

    def test_a_directory_of_something_else_is_refused(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        run.dir.mkdir()
        (run.dir / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match=r"output\.dir: .* holds files but no run; choose an empty or new"):
            open_run(run.config, run.corpus)
        assert [path.name for path in run.dir.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("place", ["p.jsonl", "p.jsonl/run", "/proc/noisesmith", "nul\0", "x" * 300])
    def test_a_place_that_cannot_be_written_is_refused(
        self, make_run: Callable[..., Run], tmp_path: Path, place: str
    ) -> None:
        run = make_run(output={"dir": str(tmp_path / place)})
        with pytest.raises(UserError, match=r"output\.dir: .*choose another output\.dir") as caught:
            open_run(run.config, run.corpus)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is damaged"),
            (b'{"kind": "run"', "is damaged"),
            (b"not json\n", "is damaged .line 1 is no header of version 1"),
            (b'{"kind": "run", "version": 99}\n', "is of version 99, and"),
            (b'{"kind": "run", "version": 1}\n', "is damaged"),
        ],
    )
    def test_a_damaged_manifest_is_refused(self, make_run: Callable[..., Run], content: bytes, message: str) -> None:
        run = make_run().write_all()
        (run.dir / "manifest.jsonl").write_bytes(content)
        for reading in (
            lambda: open_run(run.config, run.corpus),
            lambda: verify_run(run.dir),
            lambda: read_rows(run.dir),
        ):
            with pytest.raises(UserError, match=message):
                reading()

    def test_a_damaged_line_amid_the_manifest_is_refused(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        lines = (run.dir / "manifest.jsonl").read_bytes().splitlines(keepends=True)
        (run.dir / "manifest.jsonl").write_bytes(lines[0] + b"half a li\n" + b"".join(lines[2:]))
        with pytest.raises(UserError, match="line 2 holds no JSON object"):
            open_run(run.config, run.corpus)
