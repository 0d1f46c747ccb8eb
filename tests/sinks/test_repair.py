"""``verify --repair`` keeps what is sound, opens the rest again, and loses no row that any file still holds."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import RunState, open_run, read_rows, reopen, reopen_failed, repair_run, verify_run
from tests.sinks.conftest import WITH_FIRST, Run, failure, result

FIRST = {"parquet": "data/train-00000-of-00003.parquet", "tar": "tars/train-00000-of-00003.tar"}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _repair(run: Run) -> tuple[list[str], RunState]:
    found, state = repair_run(run.config, run.corpus, print, range(10))
    return found.problems, state


def _contents(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.dir.glob("*/train-*")}


def _make_missing(run: Run, state: RunState) -> list[int]:
    missing = [row.index for row in run.rows if row.index not in state.done]
    writer = run.writer()
    for index in missing:
        writer.put(result(run.rows[index]))
    assert verify_run(run.dir, range(10)) == []
    return missing


def test_a_sound_run_stays_as_it_is(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run().write_all()
    monkeypatch.delattr(reopen, "write_manifest")
    before = _contents(run), (run.dir / "manifest.jsonl").read_bytes()
    assert _repair(run)[0] == []
    assert (_contents(run), (run.dir / "manifest.jsonl").read_bytes()) == before


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("kind", FIRST)
def test_one_damaged_form_is_rebuilt_from_the_other(
    make_run: Callable[..., Run], kind: str, damage: Callable[[Path], None]
) -> None:
    run = make_run(output=WITH_FIRST).write_all()
    before = _contents(run)
    damage(run.dir / FIRST[kind])
    assert FIRST[kind] in "\n".join(verify_run(run.dir))
    problems, state = _repair(run)
    assert any(FIRST[kind] in problem for problem in problems)
    assert len(state.done) == 10
    assert verify_run(run.dir) == []
    assert _contents(run) == before


@pytest.mark.parametrize("kind", FIRST)
def test_tars_without_first_images_cannot_rebuild_rows_that_have_one(make_run: Callable[..., Run], kind: str) -> None:
    run = make_run().write_all()
    before = _contents(run)
    (run.dir / FIRST[kind]).unlink()
    assert _make_missing(run, _repair(run)[1]) == ([0, 1, 2, 3] if kind == "parquet" else [])
    assert _contents(run) == before


def test_rows_that_no_file_holds_are_made_anew(make_run: Callable[..., Run]) -> None:
    run = make_run().write_all()
    before = _contents(run)
    for name in FIRST.values():
        (run.dir / name).unlink()
    assert _make_missing(run, _repair(run)[1]) == [0, 1, 2, 3]
    assert _contents(run) == before


def test_rows_before_the_damage_are_kept(make_run: Callable[..., Run]) -> None:
    """A tar cut in its last row still gives the others."""
    run = make_run(output={"formats": ["webdataset"]}).write_all()
    path = run.dir / FIRST["tar"]
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"00000003-") + 600])
    assert _make_missing(run, _repair(run)[1]) == [3]


def test_a_damaged_line_of_the_manifest_costs_no_row(make_run: Callable[..., Run]) -> None:
    run = make_run().write_all()
    manifest = run.dir / "manifest.jsonl"
    header, first, *others = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join([header, first[:20] + b"\n", *others]))
    with pytest.raises(UserError, match="--repair"):
        list(read_rows(run.dir))
    assert "manifest.jsonl: line 2 holds no JSON object" in verify_run(run.dir)
    assert len(_repair(run)[1].done) == 10
    assert verify_run(run.dir) == []


def test_a_manifest_without_its_header_cannot_be_repaired(make_run: Callable[..., Run]) -> None:
    run = make_run().write_all()
    _, *entries = (run.dir / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (run.dir / "manifest.jsonl").write_bytes(b"".join(entries))
    with pytest.raises(UserError, match="line 1 is no header"):
        _repair(run)


def test_a_dead_row_whose_letter_is_damaged_is_tried_again(make_run: Callable[..., Run]) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index in (2, 5) else writer.put(result(row))
    (run.dir / "failed" / "shard-00000.jsonl").write_text("no letter\n")
    assert "shard-00000.jsonl: is damaged" in "\n".join(verify_run(run.dir))
    assert _make_missing(run, _repair(run)[1]) == [2]
    assert len(list(read_rows(run.dir))) == 9, "the other dead row stays dead"


def test_a_damaged_staged_row_is_made_anew(make_run: Callable[..., Run]) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows[:3]:
        writer.put(result(row))
    writer.fail(failure(run.rows[5]))
    letters = run.dir / "failed" / "shard-00001.jsonl"
    staged = min((run.dir / "staging" / "shard-00000").iterdir())
    _cut(staged)
    letters.write_text("no letter\n")
    named = [problem.partition(": ")[0] for problem in verify_run(run.dir)]
    assert named[:-1] == [str(letters), str(staged)], "and shards that are not committed yet"
    problems, state = _repair(run)
    assert [problem.partition(": ")[0] for problem in problems] == named[:-1]
    assert _make_missing(run, state) == [0, *range(3, 10)]


def test_dead_letters_that_cannot_be_read_now_are_kept(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    run.writer().fail(failure(run.rows[5]))
    letters = run.dir / "failed" / "shard-00001.jsonl"
    before = letters.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("noisesmith.pipeline.sinks.staging.read_letters", fails)
        assert verify_run(run.dir)[0].startswith(f"{letters}: cannot be read")
        with pytest.raises(UserError, match="Input/output error"):
            _repair(run)
    assert letters.read_bytes() == before
    assert _repair(run)[0] == []


@pytest.mark.parametrize("act", [repair_run, reopen_failed])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    make_run: Callable[..., Run], act: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows:
        writer.fail(failure(row)) if row.index == 2 else writer.put(result(row))
    _cut(run.dir / FIRST["tar"])
    before = _contents(run), (run.dir / "manifest.jsonl").read_bytes()
    third = open_run(run.config, run.corpus) if act is reopen_failed else print

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("noisesmith.pipeline.sinks.staging.stage", full)
        with pytest.raises(UserError, match=r"No space left on device.; free some space"):
            act(run.config, run.corpus, third)
    assert (_contents(run), (run.dir / "manifest.jsonl").read_bytes()) == before
    assert len(_repair(run)[0]) == 1
    assert verify_run(run.dir) == []


def test_another_corpus_is_refused(make_run: Callable[..., Run]) -> None:
    make_run().write_all()
    with pytest.raises(UserError, match="another corpus"):
        _repair(make_run(rows=9))


def test_killed_before_the_manifest_is_replaced_nothing_is_lost(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run().write_all()
    (run.dir / FIRST["tar"]).unlink()
    monkeypatch.setattr(reopen, "write_manifest", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    if (child := os.fork()) == 0:
        _repair(run)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    assert len(list(read_rows(run.dir))) == 10, "the Parquet files are listed still"
    assert len(_repair(run)[1].done) == 10
    assert verify_run(run.dir) == []
