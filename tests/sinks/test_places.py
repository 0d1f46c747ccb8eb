"""Where a run may be: no new run begins in a folder that ``datasets`` could not open, and a finished one is tidy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import check_run_dir, hold_run, open_run
from noisesmith.pipeline.storage.paths import to_path
from tests.sinks.conftest import Run, failure, result

PATTERNS = ["sweep[lr=0.1]", "a]b", "a[b", "why?", "a*b", "a::b", "deep[1]/run"]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_folder_that_datasets_cannot_open_is_refused(make_run: Callable[..., Run], name: str, tmp_path: Path) -> None:
    run = make_run(2, output={"dir": str(tmp_path / name)})
    for opening in (check_run_dir, open_run):
        with pytest.raises(UserError, match=r"^output\.dir: `datasets` reads .* choose an output\.dir without it$"):
            opening(run.config, run.corpus)
    with pytest.raises(UserError, match="as a pattern"), hold_run(run.config, run.corpus, print):
        pass
    assert not os.path.lexists(tmp_path / name)


def test_the_folder_behind_a_relative_path_and_a_link_counts(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "[x]").mkdir()
    (tmp_path / "link").symlink_to("[x]")
    for place in ("link", "[x]"):
        monkeypatch.chdir(tmp_path / place)
        run = make_run(2, output={"dir": "run"})
        with pytest.raises(UserError, match=r"could not open a dataset in .*/\[x\]/run; choose"):
            check_run_dir(run.config, run.corpus)


def test_an_environment_variable_that_datasets_would_replace_is_refused(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "elsewhere")
    monkeypatch.delenv("ABSENT", raising=False)
    for name in ("$PLACE", "${PLACE}/x"):
        run = make_run(2, output={"dir": str(tmp_path / name)})
        with pytest.raises(UserError, match=r"^output\.dir: `datasets` replaces the environment variable"):
            check_run_dir(run.config, run.corpus)
    run = make_run(2, output={"dir": str(tmp_path / "${ABSENT}")})
    assert check_run_dir(run.config, run.corpus) == 0


def test_what_is_refused_is_what_datasets_cannot_open(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the rule goes when the library learns to."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    run = make_run().write_all()
    for name in ("[ab]", "a::b"):
        run.dir.rename(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="data files"):
            datasets.load_dataset(str(tmp_path / name), split="train")
        (tmp_path / name).rename(run.dir)


def test_a_run_that_was_started_in_such_a_folder_goes_on(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(6)
    run.writer().put(result(run.rows[0]))
    run.dir.rename(tmp_path / "run[1]")
    moved = make_run(6, output={"dir": str(tmp_path / "run[1]")})
    assert check_run_dir(moved.config, moved.corpus) == 1
    assert list(open_run(moved.config, moved.corpus).done) == [0]


@pytest.mark.parametrize("url", ["s3://bucket/a[1]", "s3://bucket/a*", "s3://bucket/a?b", "s3://bucket/a::b"])
def test_a_url_with_a_pattern_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must "):
        to_path(url)


class TestStaging:
    def test_a_finished_run_has_no_staging_folder(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        assert not (run.dir / "staging").exists()

    def test_it_stays_while_rows_are_in_it(self, make_run: Callable[..., Run]) -> None:
        run = make_run()
        writer = run.writer()
        writer.put(result(run.rows[9]))
        for row in run.rows[:4]:
            writer.put(result(row))
        assert [path.name for path in (run.dir / "staging").iterdir()] == ["shard-00002"]

    def test_an_empty_one_of_an_older_run_goes_when_it_is_opened(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        (run.dir / "staging").mkdir()
        open_run(run.config, run.corpus)
        assert not (run.dir / "staging").exists()

    def test_a_shard_of_dead_letters_alone_leaves_none(self, make_run: Callable[..., Run]) -> None:
        run = make_run(2)
        writer = run.writer()
        for row in run.rows:
            writer.fail(failure(row))
        assert not (run.dir / "staging").exists()
