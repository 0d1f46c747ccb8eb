"""Run directories in an object store: the S3 protocol against a local server, which fails as S3 does."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from datasets import load_dataset
from fsspec.implementations.memory import MemoryFileSystem

from noisesmith.pipeline import cli
from noisesmith.pipeline.config import validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import (
    check_run_dir,
    hold_run,
    open_run,
    read_rows,
    reopen_failed,
    repair_run,
    verify_run,
)
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage import files, lock
from noisesmith.pipeline.storage import paths as stores
from noisesmith.pipeline.storage.lock import hold
from noisesmith.pipeline.storage.paths import StorePath, to_path
from noisesmith.pipeline.telemetry.events import RunEnded, RunStarted
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.status import read_status
from tests.runs import PROMPTS, finish, noisesmith, start, write_config
from tests.s3 import S3
from tests.sinks.conftest import Run, failure, result

MakeRun = Callable[..., Run]
BUCKETS = itertools.count()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    import s3fs

    server = S3()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def url(s3: S3) -> str:
    return f"s3://{s3.make_bucket(f'bucket-{next(BUCKETS)}')}/some/run"


def set_client(monkeypatch: pytest.MonkeyPatch, attempts: int, **others: Any) -> None:
    """Let botocore try each request so often."""
    config = {"retries": {"mode": "standard", "total_max_attempts": attempts}, **others}
    monkeypatch.setitem(stores.STORES, "s3", stores.STORES["s3"]._replace(options={"config_kwargs": config}))


def names(run: Run) -> set[str]:
    return {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()}


class TestPlaces:
    @pytest.mark.parametrize(
        ("place", "message"),
        [
            (
                "s3://key:secret@bucket/run",
                "must be a plain URL without credentials; put those into the environment",
            ),
            ("s3://bucket/run?versionId=3", "must be a plain URL"),
            ("s3://bucket/run*", "must not hold * or ["),
            ("s3://bucket", "must name a bucket and a folder in it, such as s3://bucket/my-run"),
            ("s3:///run", "must name a bucket"),
            ("ftp://host/run", "ftp:// is no known store; use s3://, gs://, hf://"),
            ("file://run", "file:// must be followed by an absolute path"),
        ],
    )
    def test_that_cannot_be_used_are_refused(self, make_run: MakeRun, place: str, message: str) -> None:
        with pytest.raises(UserError) as caught:
            validated({"corpus": {"source": "p.txt"}, "output": {"dir": place}}, "config.yaml")
        assert f"config.yaml: output.dir: {message}" in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_need_the_package_that_speaks_to_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(ValueError, match=r"s3:// needs s3fs; run pip install 'noisesmith\[s3\]'"):
            to_path("s3://bucket/run")

    def test_without_a_store_are_plain_paths(self) -> None:
        assert to_path("file:///data/my%20run") == Path("/data/my run") == to_path("/data/my run")
        assert to_path("runs/mine") == Path("runs/mine")

    def test_in_a_store_travel_to_other_processes(self) -> None:
        path = to_path("s3://bucket/run/")
        assert pickle.loads(pickle.dumps(path)) == path.absolute() == path
        assert str(path / "data") == "s3://bucket/run/data"


class TestUnusable:
    def check(self, run: Run, message: str) -> None:
        for opening in (check_run_dir, open_run):
            with pytest.raises(UserError, match=message):
                opening(run.config, run.corpus)

    def test_a_bucket_that_is_not_there(self, s3: S3, make_run: MakeRun) -> None:
        run = make_run(output={"dir": "s3://nobody-made-this/run"})
        self.check(
            run, r"^output\.dir: s3://nobody-made-this/run cannot be written \(The specified bucket does not exist"
        )

    def test_an_expired_token(self, s3: S3, make_run: MakeRun, url: str) -> None:
        with s3.failing("403 Forbidden", "ExpiredToken"):
            self.check(
                make_run(output={"dir": url}), r"^output\.dir: .*\(ExpiredToken by test\); renew the credentials"
            )

    def test_a_bucket_that_may_not_be_written(self, s3: S3, make_run: MakeRun, url: str) -> None:
        run = make_run(output={"dir": url})
        with (
            s3.failing("403 Forbidden", "AccessDenied", "^PUT"),
            pytest.raises(UserError, match="renew the credentials"),
        ):
            open_run(run.config, run.corpus)
        assert not run.dir.exists()

    def test_an_address_where_nobody_answers(
        self, s3: S3, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        unretried = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
        monkeypatch.setitem(stores.STORES, "s3", stores.STORES["s3"]._replace(options_at_start=unretried))
        self.check(make_run(output={"dir": url}), r"Could not connect.*check the store's address and the network$")

    def test_a_folder_of_something_else(self, s3: S3, make_run: MakeRun, url: str) -> None:
        files.write_atomic(to_path(url) / "thesis.tex", b"years of work")
        self.check(make_run(output={"dir": url}), "holds files but no run")

    @pytest.mark.parametrize("verb", [["verify"], ["replay", "00000000-00000000"]])
    def test_that_hold_no_run_cannot_be_verified_or_replayed(
        self, s3: S3, url: str, verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def message(place: str) -> str:
            monkeypatch.setattr(sys, "argv", ["noisesmith", verb[0], place, *verb[1:]])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == 2
            return capsys.readouterr().err

        assert message(url) == (
            f"error: {url}: is not a run directory, since it has no manifest.jsonl; give one that a run has written\n"
        )
        with s3.failing("403 Forbidden", "ExpiredToken"):
            assert message(url) == f"error: {url}/manifest.jsonl: cannot be read: Forbidden\n"
        assert "must be a plain URL without credentials" in message("s3://key:secret@bucket/run")


class TestFaults:
    def test_a_store_that_refuses_is_not_empty(self, s3: S3, make_run: MakeRun, url: str) -> None:
        """fsspec's own glob, isfile and isdir say so, and a resumed run would begin anew."""
        run = make_run(output={"dir": url})
        run.writer().put(result(run.rows[0]))
        manifest = run.dir / "manifest.jsonl"
        asks = (manifest.is_file, manifest.exists, run.dir.is_dir, lambda: list(run.dir.glob("staging/*/*.arrow")))
        with s3.failing("403 Forbidden", "AccessDenied"):
            for ask in asks:
                with pytest.raises(PermissionError):
                    ask()
            with pytest.raises(UserError, match=r"manifest\.jsonl: cannot be read: "):
                verify_run(run.dir)
        run.write_all()
        with s3.failing("403 Forbidden", "AccessDenied", "parquet"):
            assert "data/train-00000-of-00003.parquet: cannot be read (Forbidden)" in verify_run(run.dir)

    def test_503s_and_timeouts_pass(self, s3: S3, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests are refused, then left without an answer until the client gives up on them."""
        set_client(monkeypatch, 20, read_timeout=0.5)
        run = make_run(4, output={"dir": url})
        writer = run.writer()
        with s3.failing("503 Slow Down", "SlowDown", times=3) as failed:
            writer.put(result(run.rows[0]))
        assert len(failed) == 3
        release = threading.Event()
        left: list[str] = []

        def hang(method: str, path: str) -> None:
            if method == "PUT" and len(left) < 2:
                left.append(path)
                release.wait(60)

        s3.fault = hang
        for row in run.rows[1:]:
            writer.put(result(row))
        s3.fault = None
        release.set()
        assert len(left) == 2
        assert verify_run(run.dir) == []
        assert len(list(read_rows(run.dir, ["id"]))) == 4

    @pytest.mark.parametrize(
        ("where", "status", "code"),
        [
            ("staging/", "503 Service Unavailable", "ServiceUnavailable"),
            ("parquet", "403 Forbidden", "ExpiredToken"),
            ("tar", "500 Internal Server Error", "InternalError"),
            ("manifest", "403 Forbidden", "ExpiredToken"),
        ],
    )
    def test_a_run_cut_off_goes_on_where_it_was(
        self, s3: S3, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch, where: str, status: str, code: str
    ) -> None:
        set_client(monkeypatch, 1)
        run = make_run(5, output={"dir": url})
        run.writer().fail(failure(run.rows[1]))
        with s3.failing(status, code, f"PUT .*{where}"), pytest.raises(OSError, match=code):
            run.write_all()
        run.write_all()
        assert verify_run(run.dir) == []
        assert [row["id"] for row in read_rows(run.dir, ["id"])] == [row.id for row in run.rows]
        listed = {file.path for entry in read_manifest(run.dir).entries.values() for file in entry.files}
        assert names(run) == listed | {"manifest.jsonl", "config.yaml"}

    def test_a_shard_uploaded_and_not_committed_is_an_orphan(self, s3: S3, make_run: MakeRun, url: str) -> None:
        run = make_run(4, output={"dir": url})
        open_run(run.config, run.corpus)
        with s3.failing("403 Forbidden", "AccessDenied", "PUT .*manifest"), pytest.raises(PermissionError):
            run.write_all()
        orphan = run.dir / "data" / "train-00000-of-00001.parquet"
        assert orphan.is_file()
        assert read_manifest(run.dir).entries == {}
        (run.dir / "staging" / "shard-00000" / f"{run.rows[0].id}.arrow").unlink()
        assert len(open_run(run.config, run.corpus).done) == 3
        assert not orphan.exists()

    def test_other_bytes_than_were_sent_are_never_committed(
        self, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(2, output={"dir": url})
        writer = run.writer()
        writer.put(result(run.rows[0]))
        read_range = StorePath.read_range
        with monkeypatch.context() as patch:
            patch.setattr(
                StorePath, "read_range", lambda path, start, end: read_range(path, start, end).replace(b"PAR1", b"PAR2")
            )
            with pytest.raises(OSError, match="other bytes than it was sent"):
                writer.put(result(run.rows[1]))
        assert read_manifest(run.dir).entries == {}
        assert len(open_run(run.config, run.corpus).done) == 2
        assert verify_run(run.dir) == []


def test_damage_is_found_and_repaired_and_dead_rows_tried_again(make_run: MakeRun, url: str) -> None:
    run = make_run(output={"dir": url})
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 5 else writer.put(result(row))
    parquets, tars = (list(run.dir.glob(f"data/*.{kind}")) for kind in ("parquet", "tar"))
    before = {path.name: path.read_bytes() for path in parquets + tars}
    tars[0].unlink()
    files.write_atomic(parquets[1], before[parquets[1].name][:-40])
    named = [problem.partition(": ")[0] for problem in verify_run(run.dir)]
    assert named == [str(path.relative_to(run.dir)) for path in (tars[0], parquets[1])]
    found, state = repair_run(run.config, run.corpus, print)
    assert [problem.partition(": ")[0] for problem in found.problems] == named
    assert len(state.done) == 10
    assert {path.name: path.read_bytes() for path in parquets + tars} == before
    assert verify_run(run.dir, range(10)) == []

    assert reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))[1] == 1
    run.writer().put(result(run.rows[5]))
    assert verify_run(run.dir, range(10)) == []
    assert [row["id"] for row in read_rows(run.dir, ["id"])] == [row.id for row in run.rows]
    assert not list(run.dir.glob("failed/*"))


def test_killed_at_every_step(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory, left at each write and removal of a run: nothing accepted is lost, nothing doubled."""
    monkeypatch.setitem(stores.STORES, "memory", stores.Store("fsspec", "", {}, {}))
    ask = StorePath._ask
    done = 0

    def killed_at(step: int) -> Callable[..., Any]:
        def guarded(path: StorePath, operation: str, **options: Any) -> Any:
            nonlocal done
            if operation in ("put_file", "rm_file", "rm"):
                if done >= step:
                    raise KeyboardInterrupt
                done += 1
            return ask(path, operation, **options)

        return guarded

    def work(run: Run, accepted: set[int]) -> None:
        writer = run.writer()
        for row in run.rows:
            if row.index not in writer.done:
                writer.fail(failure(row)) if row.index == 1 else writer.put(result(row))
                accepted.add(row.index)

    for step in itertools.count():
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        run, accepted, done = make_run(3, output={"dir": "memory://bucket/run", "rows_per_shard": 2}), set[int](), 0
        with monkeypatch.context() as patch:
            patch.setattr(StorePath, "_ask", killed_at(step))
            try:
                work(run, accepted)
            except KeyboardInterrupt:
                finished = False
            else:
                finished = True
        assert accepted <= set(open_run(run.config, run.corpus).done), f"killed at {step}: an accepted row is lost"
        work(run, accepted)
        assert verify_run(run.dir) == []
        assert [row["id"] for row in read_rows(run.dir, ["id"])] == [run.rows[0].id, run.rows[2].id]
        if finished:
            break
    assert step > 12


def lose_machine(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver, Ray and every actor at once."""
    whole = psutil.Process(process.pid)
    for each in (*whole.children(recursive=True), whole):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    finish(process)


def test_a_run_survives_the_loss_of_its_machine(
    s3: S3, url: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost while the first shard is uploaded; the next machine meets 503s, finishes, and doubles nothing."""
    config = write_config(tmp_path, tiny_sd, tiny_llava, output={"dir": url}, optimizer={"rounds": 0})
    uploading, lost = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> tuple[str, str] | None:
        if method == "PUT" and "/data/" in path:
            uploading.set()
            lost.wait(60)
            return "503 Service Unavailable", "ServiceUnavailable"
        return None

    s3.fault = hold
    process = start("run", config)
    assert uploading.wait(200), finish(process)
    lose_machine(process)
    lost.set()
    s3.fault = None
    with s3.failing("503 Slow Down", "SlowDown", "PUT .*(staging|data)/", times=3) as failed:
        code, output = noisesmith("run", config)
    assert code == 0, output
    assert len(failed) == 3
    assert f"dataset: {url}" in output
    assert verify_run(to_path(url)) == []
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    rows = load_dataset("parquet", data_files=f"{url}/data/*.parquet", split="train", cache_dir=str(tmp_path))
    assert rows["prompt"] == [PROMPTS[index % len(PROMPTS)] for index in range(6)]
    assert len(set(rows["id"])) == 6
    assert not (tmp_path / "run").exists()


def test_lock_log_and_status_live_in_the_store_too(
    url: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("BEAT", 0.05), ("POLL", 0.05), ("STALE", 1.0)):
        monkeypatch.setattr(lock, name, seconds)
    run = make_run(output={"dir": url})
    with hold_run(run.config, run.corpus, print) as state:
        with pytest.raises(UserError, match="is being written by"), hold(run.dir, print):
            pass
        telemetry = Telemetry(run.dir, {})
        telemetry.emit(RunStarted(10, 0))
        telemetry.emit(RunEnded("stopped"))
        assert read_status(run.dir).state == "running"
        (log,) = (run.dir / "logs").iterdir()
        assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["run_started", "run_ended"]
        state.check_lock()
    assert read_status(run.dir).state == "stopped"
    files.write_atomic(run.dir / ".lock", b"{}")
    notes: list[str] = []
    with hold_run(run.config, run.corpus, notes.append):
        assert "no heartbeat" in notes[-1]
