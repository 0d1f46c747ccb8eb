"""The folder of an export appears once it is whole, and nothing is written over."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.export.imagefolder import ImageFolder
from tests.export.conftest import lines, write, write_run
from tests.runs import finish, noisesmith, start
from tests.sinks.conftest import Run


def test_an_empty_folder_is_used(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(run, "imagefolder", out)
    assert {path.name for path in out.iterdir()} == {"README.md", "train"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("place", ["full", "file", "run", "dangling"])
def test_a_place_that_is_taken_is_refused(run: Run, tmp_path: Path, place: str) -> None:
    out = tmp_path / "out"
    match place:
        case "full":
            out.mkdir()
            (out / "mine").write_text("x")
        case "file":
            out.write_text("x")
        case "run":
            out = run.dir / "export"
        case "dangling":
            out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"--out {out}: is "):
        write(run, "imagefolder", out)
    assert not (run.dir / "export").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("a bug")])
def test_what_fails_in_the_middle_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    calls = 0
    true_add = ImageFolder.add

    def add(self: ImageFolder, row: Any, split: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise error
        true_add(self, row, split)

    monkeypatch.setattr(ImageFolder, "add", add)
    expected = RunError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write(run, "imagefolder", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_half_export_under_the_final_name(tmp_path: Path) -> None:
    """The first image file that appears is the sign to kill; the next export names what is left."""
    corpus = lines(400)
    run = write_run(tmp_path, corpus, output={"rows_per_shard": 100})
    out = tmp_path / "out"
    process = start("export", run.dir, "--to", "imagefolder", "--out", out)
    while not list(tmp_path.glob(".out.*.tmp/train/00000/*.png")):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not out.exists()
    code, output = noisesmith("export", run.dir, "--to", "imagefolder", "--out", out, "--split", "val=0.1")
    assert code == 0
    assert "was left by an export that was killed" in output
    assert f"{out}: 400 rows (360 train, 40 val)" in output


def test_a_damaged_shard_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines(6))
    shard = sorted((run.dir / "data").glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot be read .*; run noisesmith verify"):
        write(run, "imagefolder", tmp_path / "out")
    assert not (tmp_path / "out").exists()
