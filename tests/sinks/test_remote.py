"""Paths in an object store, and stores that a run cannot use."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from noisesmith.pipeline import cli
from noisesmith.pipeline.config import validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import (
    check_run_dir,
    open_run,
)
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage import paths as stores
from noisesmith.pipeline.storage.paths import to_path
from tests.s3 import S3
from tests.sinks.conftest import Run

MakeRun = Callable[..., Run]


class TestPlaces:
    @pytest.mark.parametrize(
        ("place", "message"),
        [
            (
                "s3://key:secret@bucket/run",
                "must be a plain URL without credentials; put those into the environment",
            ),
            ("s3://bucket/run?versionId=3", "must be a plain URL"),
            ("s3://bucket/run*", "must not hold *, [ or ::"),
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
