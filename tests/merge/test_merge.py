"""Partitions become one run that nothing tells from an undivided one; what is not of one dataset is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from noisesmith.pipeline.acceptance import accept
from noisesmith.pipeline.config import AcceptConfig, dump_config, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.merge import merge as merge_partitions
from noisesmith.pipeline.publish.plan import make_plan
from noisesmith.pipeline.records import index_of
from noisesmith.pipeline.report.figures import read_operations
from noisesmith.pipeline.sinks import SideWriter, hold_side, open_run, read_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import to_path
from noisesmith.pipeline.telemetry.events import RowWritten, RunEnded
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.status import read_status
from tests.merge.conftest import FAILED, MakeDealt, fill, merge
from tests.sinks import conftest
from tests.sinks.conftest import Run

MakeRun = Callable[..., Run]
JUDGE = pa.schema([("judge_late", pa.float64()), ("judge_late_initial", pa.float64())])


def data(run_dir: Path) -> dict[str, bytes]:
    """The content of every file that holds rows or says which count."""
    names = ["manifest.jsonl"]
    for folder in ("data", "tars", "failed", "side"):
        names += [path.relative_to(run_dir).as_posix() for path in (run_dir / folder).rglob("*") if path.is_file()]
    return {name: (run_dir / name).read_bytes() for name in names}


def judge(run: Run, revision: str = "r1", name: str = "late") -> None:
    with hold_side(run.dir, print) as check_lock:
        writer = SideWriter(run.dir, name, JUDGE, check_lock)
        for shard in writer.filled():
            rows = [{"id": row["id"], "judge_late": 0.5} for row in writer.rows(shard, ["id"])]
            writer.put(shard, rows, {"model": "m", "revision": revision})


class TestMerged:
    @pytest.mark.parametrize("of", [1, 2, 3])
    def test_is_what_an_undivided_run_writes(
        self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path, of: int
    ) -> None:
        whole = fill(make_run())
        runs = make_dealt(of)
        before = [data(run.dir) for run in runs]
        found = merge(runs, tmp_path / "merged")
        assert (found.rows, found.failed, found.shards, found.missing) == (9, 1, 3, 0)
        assert data(tmp_path / "merged") == data(whole.dir)
        assert [data(run.dir) for run in runs] == before
        assert verify_run(tmp_path / "merged", range(10)) == []
        assert list(read_rows(tmp_path / "merged")) == list(read_rows(whole.dir))

    def test_is_an_ordinary_run(self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path) -> None:
        merge(make_dealt(), tmp_path / "merged")
        whole = make_run(output={"dir": str(tmp_path / "merged")})
        assert load_config(tmp_path / "merged/config.yaml") == whole.config
        state = open_run(whole.config, whole.corpus)
        assert (state.resumed, len(state.done)) == (True, 10)
        found = read_status(tmp_path / "merged")
        assert (found.state, found.rows_done, found.partition) == ("finished", 10, None)
        card = (tmp_path / "merged/README.md").read_text()
        assert "partition" not in card
        assert {"data/train-00001-of-00003.parquet", "README.md"} <= {
            file.path for file in make_plan(tmp_path / "merged", "me/it").files
        }
        assert json.loads((tmp_path / "merged/stats.json").read_text())["summary"]["rows"] == 9
        assert not (tmp_path / "merged/merging.json").exists()

    def test_opens_with_datasets(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        from datasets import load_dataset

        merge(make_dealt(), tmp_path / "merged")
        rows = load_dataset(str(tmp_path / "merged"), split="train", cache_dir=str(tmp_path / "cache"))
        assert [index_of(name) for name in rows["id"]] == [index for index in range(10) if index != FAILED]

    def test_takes_no_space_where_files_can_be_linked(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        merge(runs, tmp_path / "merged")
        name = "data/train-00001-of-00003.parquet"
        assert (tmp_path / "merged" / name).samefile(runs[1].dir / name)

    def test_copies_where_they_cannot(
        self, make_dealt: MakeDealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_link(*_: object) -> None:
            raise OSError("another file system")

        monkeypatch.setattr("os.link", no_link)
        runs = make_dealt()
        merge(runs, tmp_path / "merged")
        for run in runs:
            shutil.rmtree(run.dir)
        assert verify_run(tmp_path / "merged") == []

    def test_adds_up_what_the_sessions_did(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        for run in runs:
            session = Telemetry(run.dir, {})
            session.emit(RowWritten(run.rows[0].id, 1, 2, 0.25, 0.75, 1.5))
            session.emit(RunEnded("finished"))
        merge(runs, tmp_path / "merged")
        found = read_operations(tmp_path / "merged")
        assert (found["partitions"], found["rows_written"], found["rounds"]) == (2, 2, 4)
        assert "rows_per_minute" not in found

    def test_has_the_side_tables_and_one_rule(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt(accept={"score": 0.5})
        judge(runs[1])
        merge(runs, tmp_path / "merged")
        assert verify_run(tmp_path / "merged") == []
        rows = {index_of(row["id"]): row for row in read_rows(tmp_path / "merged", ["id", "judge_late", "accepted"])}
        assert all(row["accepted"] for row in rows.values())
        assert {index: row["judge_late"] for index, row in rows.items()} == {
            index: 0.5 if 4 <= index < 8 else None for index in rows
        }

    def test_lacks_what_is_missing_and_makes_it_later(
        self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path
    ) -> None:
        runs = make_dealt(3)
        found = merge([runs[2], runs[0]], tmp_path / "merged", allow_missing=True)
        assert (found.rows, found.missing) == (6, 1)
        assert read_status(tmp_path / "merged").state == "stopped"
        whole = fill(make_run(output={"dir": str(tmp_path / "merged")}))
        assert verify_run(whole.dir) == []
        assert [index_of(row["id"]) for row in read_rows(whole.dir)] == [0, 1, 2, 3, 4, 5, 7, 8, 9]

    def test_leaves_unfinished_shards_behind(self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path) -> None:
        runs = make_dealt()
        shutil.rmtree(runs[0].dir)
        fill(runs[0], rows=5)
        with pytest.raises(UserError, match=r"part-1: 1 of its 2 shards are not committed yet; finish it"):
            merge(runs, tmp_path / "merged")
        assert merge(runs, tmp_path / "merged", allow_missing=True).missing == 1
        assert verify_run(tmp_path / "merged") == [
            "1 of 3 shards are not committed yet: finish the run with noisesmith retry"
        ]


class TestRefused:
    def refuse(self, runs: list[Run], out: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            merge(runs, out)
        assert not (out / "manifest.jsonl").exists()

    def test_a_whole_run(self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path) -> None:
        self.refuse([*make_dealt(), fill(make_run())], tmp_path / "merged", "run: is a whole run; give directories")

    def test_a_directory_of_no_run(self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path) -> None:
        self.refuse([*make_dealt(), make_run()], tmp_path / "merged", "run: is not a run directory")

    def test_a_partition_twice(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        again = make_dealt(folder=str(tmp_path / "again"))
        self.refuse([*runs, again[0]], tmp_path / "merged", "part-1: is the partition 1/2, and so is .*; give each one")

    def test_a_missing_partition(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        self.refuse(make_dealt(3)[:1], tmp_path / "merged", "2/3, 3/3 of the partitions are missing; .*--allow-missing")
        assert not (tmp_path / "merged").exists()

    def test_other_shares(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        others = make_dealt(3, folder=str(tmp_path / "thirds"))
        self.refuse([make_dealt()[0], others[1]], tmp_path / "merged", "is the partition 2/3, and .* is 1/2, so")

    def test_another_config(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        other = make_dealt(folder=str(tmp_path / "other"), seed=5)[1]
        message = "part-2: was made with another config than .*part-1: seed was 5 and is now 0"
        self.refuse([make_dealt()[0], other], tmp_path / "merged", message)

    def test_another_corpus(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        first = make_dealt()[0]
        other = make_dealt(folder=str(tmp_path / "other"), rows=9)[1]
        self.refuse([first, other], tmp_path / "merged", "part-2: was made from another corpus than .*part-1")

    def test_other_models(self, make_dealt: MakeDealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = make_dealt()[0]
        monkeypatch.setattr(conftest, "PROVENANCE", replace(conftest.PROVENANCE, scorer_revision="other"))
        second = make_dealt(folder=str(tmp_path / "other"))[1]
        message = "the scorer_revision of its rows is 'other', and in .*part-1 it is .*; make one of them again"
        self.refuse([first, second], tmp_path / "merged", message)

    def test_tables_that_two_models_have_filled(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        judge(runs[0])
        judge(runs[1], revision="r2")
        self.refuse(runs, tmp_path / "merged", "part-2: its side table late was made otherwise than that of .*part-1")

    def test_a_column_in_two_tables(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        judge(runs[0])
        judge(runs[1], name="later")
        self.refuse(runs, tmp_path / "merged", "table later has a column 'judge_late', which another")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda _: None, "is missing"),
            (lambda whole: whole[:-1], "has [0-9]+ bytes where"),
            (lambda whole: whole[:700] + bytes([whole[700] ^ 1]) + whole[701:], "differs from its SHA-256"),
        ],
        ids=["missing", "short", "changed"],
    )
    def test_a_damaged_file(
        self, make_dealt: MakeDealt, tmp_path: Path, damage: Callable[[bytes], bytes | None], message: str
    ) -> None:
        runs = make_dealt()
        for name in ("tars/train-00001-of-00003.tar", "data/train-00001-of-00003.parquet"):
            path = runs[1].dir / name
            whole = path.read_bytes()
            path.unlink()
            damaged = damage(whole)
            if damaged is not None:
                path.write_bytes(damaged)
            told = name  # of the Parquet file the first row is read before, to compare the models
            if path.suffix == ".tar":
                told = f"{name}: {message}.*; repair the partition with noisesmith verify .*part-2 --repair"
            self.refuse(runs, tmp_path / path.suffix, told)
            path.write_bytes(whole)
        merge(runs, tmp_path / ".tar")  # goes on
        assert verify_run(tmp_path / ".tar") == []

    def test_damaged_dead_letters(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        (runs[1].dir / "failed/shard-00001.jsonl").write_text("{}\n")
        self.refuse(runs, tmp_path / "merged", "failed/shard-00001.jsonl: is damaged .*; repair the partition with")

    def test_a_target_that_is_not_empty(self, make_dealt: MakeDealt, make_run: MakeRun, tmp_path: Path) -> None:
        runs = make_dealt()
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken/thesis.tex").write_text("years of work")
        self.refuse(runs, tmp_path / "taken", "taken holds files but no run; choose an empty or new directory")
        assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]
        whole = fill(make_run())
        with pytest.raises(UserError, match=r"--out: .*run is a run already; choose an empty or new directory"):
            merge(runs, whole.dir)
        with pytest.raises(UserError, match="is a run already"):
            merge(runs, runs[0].dir)

    def test_an_unfinished_merge_of_others(self, make_dealt: MakeDealt, tmp_path: Path) -> None:
        runs = make_dealt()
        others = make_dealt(folder=str(tmp_path / "other"), seed=5)
        (runs[1].dir / "tars/train-00001-of-00003.tar").unlink()
        self.refuse(runs, tmp_path / "merged", "is missing")
        self.refuse(others, tmp_path / "merged", "merged holds an unfinished merge of other partitions")


def test_rules_that_differ_are_refused(make_dealt: MakeDealt, tmp_path: Path) -> None:
    runs = make_dealt()
    for run, score in zip(runs, (0.5, 0.6), strict=True):
        with hold_side(run.dir, print) as check_lock:
            accept(run.dir, AcceptConfig(score=score), check_lock)
    with pytest.raises(UserError, match=r"rule \(score at least 0.6\) is not that of .*part-1 \(score at"):
        merge(runs, tmp_path / "merged")


def test_configs_may_differ_in_speed_and_place(make_dealt: MakeDealt, tmp_path: Path) -> None:
    other = make_dealt(folder=str(tmp_path / "other"), generators={"count": 3}, faults={"retries": 9})[1]
    runs = [make_dealt()[0], other]
    merge(runs, tmp_path / "merged")
    assert load_config(tmp_path / "merged/config.yaml").generators.count == 1
    assert "partition: null" in dump_config(load_config(tmp_path / "merged/config.yaml"))


def test_in_an_object_store(make_dealt: MakeDealt, url: str, tmp_path: Path) -> None:
    dirs = [run.dir for run in make_dealt(output={"formats": ["parquet"]})]
    stored, out = [to_path(f"{url}/{path.name}") for path in dirs], to_path(f"{url}/merged")
    for there, here in zip(stored, dirs, strict=True):
        for path in [*here.glob("*.*"), *here.glob("*/*")]:
            files.bring(path, there / path.relative_to(here).as_posix(), files.sha256_of(path))
    name = "data/train-00001-of-00003.parquet"
    damaged = (dirs[1] / name).read_bytes()[:-1] + b"X"
    files.write_atomic(stored[1] / name, damaged)
    with pytest.raises(UserError, match=r"part-2/data/train-00001-of-00003.parquet"):
        merge_partitions([dirs[0], stored[1]], out, print)
    assert not (out / "manifest.jsonl").exists()
    files.bring(dirs[1] / name, stored[1] / name, files.sha256_of(dirs[1] / name))
    merge_partitions([dirs[0], stored[1]], out, print)  # one from this machine, one within the store
    assert verify_run(out) == []
    merge_partitions(stored, tmp_path / "here", print)
    assert verify_run(tmp_path / "here") == []
    assert read_manifest(tmp_path / "here") == read_manifest(out)


def test_a_damaged_copy_is_not_left(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    source = to_path(f"{url}/file")
    files.bring(tmp_path / "file", source, files.sha256_of(tmp_path / "file"))
    for one, other in ((source, to_path(f"{url}/copy")), (source, tmp_path / "copy"), (tmp_path / "file", source)):
        with pytest.raises(ValueError, match="differs from its SHA-256"):
            files.bring(one, other, "0" * 64)
        assert not other.exists() or other.read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not to_path(f"{url}/copy").exists()
