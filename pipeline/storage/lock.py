"""One writer a run directory at a time: ``.lock`` names its owner, whose beats tell that it lives.

On one machine the owner's process tells whether it still runs. Of an owner elsewhere only its beats can, and they are
watched by the observer's own monotonic clock: no clock jump, and no two clocks that disagree, can free a lock.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.storage import files

BEAT = 10.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which an owner elsewhere is dead
POLL = 1.0  # seconds between two looks at a lock


def lock_file(run_dir: Path) -> Path:
    return run_dir / ".lock"


@dataclass(frozen=True)
class Owner:
    """Who writes a run. ``machine`` is one boot and PID namespace, ``process_start`` the clock ticks from boot to the
    start of ``pid``; ``started`` and ``beaten`` are dates for people. ``id`` is the session's own."""

    id: str
    host: str
    machine: str
    pid: int
    process_start: int | None
    started: str
    beaten: str
    beats: int

    @property
    def alive(self) -> bool | None:
        """Whether the owner still runs; ``None`` where only its beats can tell."""
        if self.machine != _machine():
            return None
        return self.process_start is not None and _process_start(self.pid) == self.process_start

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Lock:
    """A held lock."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._path = run_dir, lock_file(run_dir)
        pid, now = os.getpid(), _now()
        self._owner = Owner(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, _process_start(pid), now, now, 0)
        self._checked = 0.0
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)

    def check(self) -> None:
        """Make sure, once a second at most, that the directory is still this session's to write.

        Raises:
            RunError: another session has taken it over, or the lock is gone.
        """
        if time.monotonic() - self._checked < POLL:
            return
        try:
            owner = read_owner(self._run_dir)
        except OSError as error:
            raise RunError(f"{self._path} cannot be read ({error.strerror or error})") from None
        if owner is None or owner.id != self._owner.id:
            now = "its lock is gone" if owner is None else f"{owner} has taken it over"
            raise RunError(f"{self._run_dir} is no longer this run's to write: {now}")
        self._checked = time.monotonic()

    def acquire(self, note: Callable[[str], None]) -> None:
        seen: bytes | None = None
        since = 0.0
        while True:
            with files.exclusive(self._run_dir):
                content = _read(self._path)
                owner = _parse(content)
                alive = owner.alive if owner else None
                free = content is None or alive is False
                if content is not None and free:
                    note(f"taking {self._run_dir} over from {owner}, which has ended")
                elif content is not None and content == seen and time.monotonic() - since >= STALE:
                    free = True
                    note(f"taking {self._run_dir} over from {owner or 'nobody'}: no sign of life for {STALE:g} seconds")
                if free:
                    self._write()
                    self._beating.start()
                    return
            if alive or seen not in (None, content):
                raise UserError(
                    f"{self._run_dir}: is being written by {owner or 'another session'}{_age(owner)}; "
                    "wait until it ends, stop it, or use another output.dir"
                )
            if seen is None:
                note(f"{self._run_dir} is locked by {owner or 'nobody'}; watching {STALE:g} seconds whether it lives")
                seen, since = content, time.monotonic()
            time.sleep(POLL)

    def release(self) -> None:
        self._ended.set()
        self._beating.join()
        with suppress(OSError), files.exclusive(self._run_dir):
            if self._is_ours():
                self._path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError), files.exclusive(self._run_dir):  # a beat that fails is made up for by the next
                if self._is_ours():
                    self._owner = replace(self._owner, beats=self._owner.beats + 1, beaten=_now())
                    self._write()

    def _is_ours(self) -> bool:
        owner = read_owner(self._run_dir)
        return owner is not None and owner.id == self._owner.id

    def _write(self) -> None:
        files.write_atomic(self._path, files.json_line(asdict(self._owner)))


@contextmanager
def hold(run_dir: Path, note: Callable[[str], None]) -> Iterator[Lock]:
    """Be the one writer of a run directory, which is made where it is not there, while the block runs.

    The lock of a dead owner is taken over: at once where it ran on this machine, else after :data:`STALE` seconds.

    Args:
        note: told in one sentence what is waited for or taken over.

    Raises:
        UserError: another session writes the directory, or it cannot be written.
    """
    lock = Lock(run_dir)
    try:
        files.make_dir(run_dir)
        lock.acquire(note)
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be locked ({error.strerror or error}); choose another output.dir") from None
    try:
        yield lock
    finally:
        lock.release()


def read_owner(run_dir: Path) -> Owner | None:
    """Who has a run directory locked, dead or alive; ``None`` where nobody has."""
    return _parse(_read(lock_file(run_dir)))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(content: bytes | None) -> Owner | None:
    try:
        return Owner(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _process_start(pid: int) -> int | None:
    """Clock ticks from boot to a process's start, which no clock jump changes; ``None`` where it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _age(owner: Owner | None) -> str:
    if owner is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(owner.started)).total_seconds()
    return f" for {max(seconds, 0) / 60:.0f} min (since {owner.started})"
