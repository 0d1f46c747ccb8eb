"""Run directories in an object store: the S3 protocol against a local server, which fails as S3 does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import (
    open_run,
    read_rows,
    reopen_failed,
    repair_run,
    verify_run,
)
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.staging import read_staged, staged_rows
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage import paths as stores
from noisesmith.pipeline.storage.paths import StorePath
from noisesmith.pipeline.telemetry.status import read_status
from tests.s3 import S3
from tests.sinks.conftest import WITH_FIRST, Run, failure, names, result, set_client

MakeRun = Callable[..., Run]


class TestFaults:
    def test_a_store_that_refuses_is_not_empty(self, s3: S3, make_run: MakeRun, url: str) -> None:
        """fsspec's own glob, isfile and isdir say so, and a resumed run would start from scratch."""
        run = make_run(output={"dir": url})
        run.writer().put(result(run.rows[0]))
        manifest = run.dir / "manifest.jsonl"
        asks = (manifest.is_file, manifest.exists, run.dir.is_dir, lambda: list(run.dir.glob("staging/*/*.arrows")))
        with s3.failing("403 Forbidden", "AccessDenied"):
            for ask in asks:
                with pytest.raises(PermissionError):
                    ask()
            with pytest.raises(UserError, match=r"manifest\.jsonl: cannot be read: "):
                verify_run(run.dir)
            with pytest.raises(UserError, match=rf"^{url}: cannot be read \(.*\); renew the credentials"):
                read_status(run.dir)
        with s3.failing("403 Forbidden", "AccessDenied", "GET /[^/]+$"):  # lists
            for look in (verify_run, read_status):
                with pytest.raises(UserError, match=rf"^{url}: cannot be read \(.*\); renew the credentials"):
                    look(run.dir)
        run.write_all()
        with s3.failing("403 Forbidden", "AccessDenied", "parquet"):
            assert "data/train-00000-of-00003.parquet: cannot be read (Forbidden)" in verify_run(run.dir)

    def test_503s_and_timeouts_pass(self, s3: S3, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests are refused, then left without an answer until the client stops asking."""
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

    def test_staged_rows_are_fetched_together_within_a_limit_of_bytes(
        self, s3: S3, make_run: MakeRun, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(output={"dir": url, "rows_per_shard": 16})
        writer = run.writer()
        for row in run.rows[:7]:
            writer.put(result(row))
        names = staged_rows(run.dir, 0)
        size = max(len((run.dir / "staging" / "shard-00000" / name).read_bytes()) for name in names.values())
        asked: list[str] = []
        s3.fault = lambda method, path: asked.append(f"{method} {path}")
        fetched: list[int] = []
        fetch = StorePath.read_together

        def counted(store: StorePath, paths: Sequence[StorePath]) -> list[bytes]:
            fetched.append(len(paths))
            return fetch(store, paths)

        monkeypatch.setattr(StorePath, "read_together", counted)
        for limit, groups in ((3 * size, [3, 3, 1]), (1, [1] * 7), (stores.BYTES_AT_ONCE, [7])):
            monkeypatch.setattr(stores, "BYTES_AT_ONCE", limit)
            ids = [table["id"][0].as_py() for table in read_staged(run.dir, 0, names)]
            assert ids == [row.id for row in run.rows[:7]]
            assert fetched == groups
            assert len(asked) == 1 + 7, "a list and the rows"
            fetched.clear()
            asked.clear()
        assert list(read_staged(run.dir, 0, {})) == asked == []
        s3.fault = None

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
        (run.dir / "staging" / "shard-00000" / staged_rows(run.dir, 0)[0]).unlink()
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
    run = make_run(output={"dir": url, **WITH_FIRST})
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 5 else writer.put(result(row))
    parquets, tars = (list(run.dir.glob(f"*/*.{kind}")) for kind in ("parquet", "tar"))
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
        def guarded(path: StorePath, operation: str, *arguments: Any, **options: Any) -> Any:
            nonlocal done
            if operation in ("put_file", "pipe_file", "cp_file", "rm_file", "rm"):
                if done >= step:
                    raise KeyboardInterrupt
                done += 1
            return ask(path, operation, *arguments, **options)

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
