"""``retry``, ``verify`` and ``status`` as a user calls them, where no model is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from noisesmith.pipeline import cli
from noisesmith.pipeline.report import describes, rewrite_report
from noisesmith.pipeline.sinks import read_rows
from noisesmith.pipeline.storage.lock import hold
from noisesmith.pipeline.telemetry.events import ModelsLoading, RunStarted, Snapshot
from noisesmith.pipeline.telemetry.log import Telemetry
from tests.sinks.conftest import PROVENANCE, Run, failure, result

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``command(*arguments)``: exit code and output of ``noisesmith ARGUMENTS``."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["noisesmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return call


class TestRetry:
    def test_without_failed_rows_says_so(self, make_run: Callable[..., Run], command: Command) -> None:
        run = make_run().write_all()
        code, output = command("retry", run.dir)
        assert code == 0
        assert output == f"no row of {run.dir} has failed; nothing to retry\n"

    def test_commits_what_a_killed_run_has_staged_and_renews_its_report(
        self, make_run: Callable[..., Run], command: Command
    ) -> None:
        run = make_run(accept={"score": 0.5})
        writer = run.writer()
        for row in run.rows[:-1]:
            writer.put(result(row))
        rewrite_report(run.dir, run.config)
        writer.writer.stage([result(run.rows[-1])], PROVENANCE)
        assert command("retry", run.dir) == (0, "shards that missed no row and are committed now: 1\n")
        assert describes(run.dir)
        assert [row["accepted"] for row in read_rows(run.dir, ["accepted"])] == [True] * 10

    def test_refuses_another_config_and_changes_nothing(self, make_run: Callable[..., Run], command: Command) -> None:
        run = make_run(2)
        writer = run.writer()
        writer.put(result(run.rows[0]))
        writer.fail(failure(run.rows[1]))
        before = (run.dir / "manifest.jsonl").read_bytes()
        code, output = command("retry", run.dir, "optimizer.rounds=3")
        assert code == 2
        assert "optimizer.rounds was 50 and is now 3" in output
        assert (run.dir / "manifest.jsonl").read_bytes() == before


class TestVerify:
    def test_a_sound_run_is_well(self, make_run: Callable[..., Run], command: Command) -> None:
        run = make_run().write_all()
        assert command("verify", run.dir) == (0, f"{run.dir}: no problems; noise rebuilt for 2 rows\n")
        assert command("verify", run.dir, "--replay", 0) == (0, f"{run.dir}: no problems; noise rebuilt for 0 rows\n")

    def test_damage_is_listed_with_exit_code_1(self, make_run: Callable[..., Run], command: Command) -> None:
        run = make_run().write_all()
        (run.dir / "tars" / "train-00001-of-00003.tar").unlink()
        assert command("verify", run.dir) == (1, "tars/train-00001-of-00003.tar: is missing\n1 problem\n")

    def test_repair_rebuilds_a_form_and_says_what_is_to_be_made(
        self, make_run: Callable[..., Run], command: Command
    ) -> None:
        run = make_run().write_all()
        damaged = (
            "tars/train-00000-of-00003.tar",
            "data/train-00001-of-00003.parquet",
            "tars/train-00001-of-00003.tar",
        )
        for path in damaged:
            (run.dir / path).unlink()
        code, output = command("verify", run.dir, "--repair")
        assert code == 0
        assert output == (
            f"{damaged[0]}: is missing\n{damaged[1]}: is missing\n{damaged[2]}: is missing\n"
            "3 problems repaired: sound rows were kept\n"
            f"to make 4 missing rows again: noisesmith retry {run.dir}\n"
        )
        assert command("verify", run.dir) == (
            1,
            "1 of 3 shards are not committed yet: finish the run with noisesmith retry\n1 problem\n",
        )

    def test_repair_renews_the_report(self, make_run: Callable[..., Run], command: Command) -> None:
        run = make_run().write_all()
        rewrite_report(run.dir, run.config)
        for path in ("tars/train-00000-of-00003.tar", "data/train-00000-of-00003.parquet"):
            (run.dir / path).unlink()
        assert command("verify", run.dir, "--repair")[0] == 0
        assert describes(run.dir)
        assert json.loads((run.dir / "stats.json").read_text())["summary"]["rows"] == 6

    def test_repair_without_its_corpus_says_so_and_writes_nothing(
        self, make_run: Callable[..., Run], command: Command
    ) -> None:
        run = make_run().write_all()
        (run.dir / "tars" / "train-00001-of-00003.tar").unlink()
        source = run.dir.parent / "p.jsonl"
        source.unlink()
        before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
        code, output = command("verify", run.dir, "--repair")
        assert code == 2
        assert output.startswith("error: ")
        assert output.count("\n") == 1
        assert str(source) in output
        assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before


class TestStatus:
    def test_a_session_that_loads_its_models_shows_no_figures(
        self, make_run: Callable[..., Run], command: Command
    ) -> None:
        run = make_run()
        run.writer()
        with hold(run.dir, print):
            Telemetry(run.dir, {}).emit(ModelsLoading())
            code, output = command("status", run.dir)
        assert code == 0
        names = [line.split()[0] for line in output.splitlines() if line]
        assert names == ["state", "rows", "shards", "failed", "updated"]
        assert output.splitlines()[0].endswith("): loading models")

    def test_a_session_at_work_shows_images_rates_and_time_left(
        self, make_run: Callable[..., Run], command: Command
    ) -> None:
        run = make_run()
        run.writer()
        with hold(run.dir, print):
            session = Telemetry(run.dir, {})
            session.emit(RunStarted(10, 0))
            session.emit(Snapshot(8, {"generate": 4, "score": 2}, 0.5, 0.25, images_done=12, images_planned=510))
            code, output = command("status", run.dir)
        assert code == 0
        lines = {line[:10].strip(): line[10:] for line in output.splitlines()}
        assert lines["images"] == "12 of at most 510 done in this session"
        assert "images/min, ETA " in lines["rate"]
        assert lines["in flight"] == "8 rows"
        assert lines["queues"] == "generate 4, score 2"
        assert lines["busy"] == "generators 50%, scorers 25%"
