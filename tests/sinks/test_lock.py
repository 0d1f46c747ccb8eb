"""One writer a run directory: the living keep it, the dead lose it, whatever the clocks say."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.sinks import hold_run
from noisesmith.pipeline.storage import lock
from noisesmith.pipeline.storage.lock import hold, read_owner
from tests.sinks.conftest import Run

HOLDER = """
import sys
from pathlib import Path
from noisesmith.pipeline.storage.lock import hold
with hold(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that beats, and goes stale, in no time."""
    monkeypatch.setattr(lock, "BEAT", 0.01)
    monkeypatch.setattr(lock, "POLL", 0.01)
    monkeypatch.setattr(lock, "STALE", 0.3)


def holder(run_dir: Path) -> subprocess.Popen[str]:
    """A process that holds a directory until its input ends."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run_dir)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def edit(run_dir: Path, **changes: Any) -> None:
    """Let the lock say something else."""
    path = run_dir / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stale(run_dir: Path, **changes: Any) -> None:
    """The lock that a killed process left."""
    process = holder(run_dir)
    process.kill()
    process.communicate()
    edit(run_dir, **changes)


def test_a_second_writer_is_refused_by_name_and_age(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with (
        pytest.raises(UserError, match=rf"is being written by pid {process.pid} on \S+ for 0 min .*wait until it ends"),
        hold(tmp_path, print),
    ):
        pass
    process.communicate("")
    with hold(tmp_path, pytest.fail):
        assert read_owner(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_released_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), hold(tmp_path, pytest.fail):
        raise KeyboardInterrupt
    assert read_owner(tmp_path) is None


@pytest.mark.parametrize("changes", [{}, {"pid": 1}, {"started": "1990-01-01T00:00:00+00:00"}])
def test_a_dead_owner_of_this_machine_is_followed_at_once(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Also where another process has its PID by now, and whatever the date was."""
    stale(tmp_path, **changes)
    notes: list[str] = []
    with hold(tmp_path, notes.append):
        (note,) = notes
        assert "which has ended" in note


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()  # and not waited for
    while "\nState:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
        time.sleep(0.01)
    with hold(tmp_path, print):
        pass
    process.communicate()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("beaten", ["1990-01-01T00:00:00+00:00", "2990-01-01T00:00:00+00:00"])
def test_an_owner_elsewhere_without_a_beat_is_followed_after_a_while(tmp_path: Path, beaten: str) -> None:
    stale(tmp_path, machine="another", host="node3", beaten=beaten)
    notes: list[str] = []
    started = time.monotonic()
    with hold(tmp_path, notes.append):
        assert time.monotonic() - started >= lock.STALE
    assert "is locked by pid" in notes[0]
    assert "on node3; watching" in notes[0]
    assert "no heartbeat" in notes[1]


@pytest.mark.usefixtures("quick")
def test_an_owner_elsewhere_that_beats_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "STALE", 60.0)
    stale(tmp_path, machine="another", host="node3")

    def beat(_: str) -> None:
        edit(tmp_path, beats=7)

    with pytest.raises(UserError, match=r"is being written by pid \d+ on node3"), hold(tmp_path, beat):
        pass


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", ["", "{", '{"pid": 3}'])
def test_a_lock_that_tells_nothing_is_watched_too(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    with hold(tmp_path, print):
        assert read_owner(tmp_path)


@pytest.mark.usefixtures("quick")
def test_an_owner_beats_until_it_ends(tmp_path: Path) -> None:
    with hold(tmp_path, print):
        while (owner := read_owner(tmp_path)) is not None and owner.beats < 3:
            time.sleep(0.01)
        assert owner


@pytest.mark.usefixtures("quick")
def test_who_has_lost_its_lock_writes_no_more(tmp_path: Path) -> None:
    with hold(tmp_path, print) as held:
        held.check()
        edit(tmp_path, id="other", host="node3")
        time.sleep(lock.POLL)
        with pytest.raises(RunError, match=r"this run may no longer write .*: pid \d+ on node3 has taken it over"):
            held.check()
        (tmp_path / ".lock").unlink()
        with pytest.raises(RunError, match="its lock is gone"):
            held.check()
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    stale(tmp_path)
    winners, losers, ready, over = list[int](), list[str](), threading.Barrier(8), threading.Event()

    def contend(number: int) -> None:
        ready.wait()
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(tmp_path, lambda _: None))
            except UserError as error:
                losers.append(str(error))
            else:
                winners.append(number)
                over.wait()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len(winners) + len(losers) < 8:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_a_run_is_opened_under_its_lock_and_refused_before_it(make_run: Callable[..., Run]) -> None:
    run = make_run()
    with hold_run(run.config, run.corpus, pytest.fail) as state:
        state.check_lock()
        with pytest.raises(UserError, match="is being written by"), hold_run(run.config, run.corpus, print):
            pass
    other = make_run(seed=5)
    with pytest.raises(UserError, match="started with another config"), hold_run(other.config, other.corpus, print):
        pass
    assert not (run.dir / ".lock").exists()


def test_a_lock_alone_does_not_make_a_directory_another_s(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.dir.mkdir()
    stale(run.dir)
    with hold_run(run.config, run.corpus, print) as state:
        assert not state.resumed
