"""Exclusive lock on a run directory. ``.lock`` names the owner, which refreshes a heartbeat every 10 s.

Whether an owner on this machine still runs is asked of its process. For an owner on another machine only the heartbeat
can answer. It is a counter, and the observer measures with its own monotonic clock how long it stands still; so neither
a clock jump nor two clocks that disagree can free a lock.
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

import psutil

from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.storage import files

BEAT = 10.0  # seconds between two heartbeats
STALE = 60.0  # seconds without a heartbeat after which an owner on another machine counts as dead
POLL = 1.0  # seconds between two looks at a lock


def lock_file(run_dir: Path) -> Path:
    return run_dir / ".lock"


@dataclass(frozen=True)
class Owner:
    """The session that writes a run.

    ``id`` is unique to the session. ``machine`` identifies one boot and PID namespace, ``process_start`` the start of
    ``pid`` in it. ``beats`` counts heartbeats; the dates ``started`` and ``beaten`` (the last
    heartbeat) are only for people.
    """

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
        """Whether the owner still runs; ``None`` where only its heartbeat can answer."""
        if self.machine != _machine():
            return None
        # A PID alone is not enough: after a crash another process may have it. No two processes share a start time too.
        return self.process_start is not None and _process_start(self.pid) == self.process_start

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Lock:
    """This session's lock on a run directory; :func:`hold` acquires and releases it."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = lock_file(run_dir)
        pid = os.getpid()
        now = _now()
        self._owner = Owner(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            process_start=_process_start(pid),
            started=now,
            beaten=now,
            beats=0,
        )
        self._checked = 0.0
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)

    def check(self) -> None:
        """Make sure that this session may still write the directory. The disk is asked at most once per second.

        Raises:
            RunError: another session has taken the directory over, or the lock is gone.
        """
        if time.monotonic() - self._checked < POLL:
            return
        try:
            owner = read_owner(self._run_dir)
        except OSError as error:
            raise RunError(f"{self._path} cannot be read ({error.strerror or error})") from error
        if owner is None or owner.id != self._owner.id:
            now = "its lock is gone" if owner is None else f"{owner} has taken it over"
            raise RunError(f"this run may no longer write {self._run_dir}: {now}")
        self._checked = time.monotonic()

    def acquire(self, note: Callable[[str], None]) -> None:
        """Take the lock: at once where it is free, after :data:`STALE` seconds where its owner may be dead.

        Raises:
            UserError: the owner lives.
            OSError: the lock cannot be read or written.
        """
        seen: bytes | None = None  # the lock's content when watching began
        since = 0.0
        while True:
            with files.exclusive(self._run_dir):  # looking and taking must be one step, or two sessions could win
                content = _read(self._path)
                owner = _parse(content)
                alive = owner.alive if owner else None
                unchanged = content is not None and content == seen
                is_stale = unchanged and time.monotonic() - since >= STALE
                if content is None or alive is False or is_stale:
                    if content is not None:
                        note(self._takeover(owner, is_stale))
                    self._write()
                    self._beating.start()
                    return
            has_beaten = seen is not None and not unchanged
            if alive or has_beaten:
                raise UserError(
                    f"{self._run_dir}: is being written by {owner or 'another session'}{_age(owner)}; "
                    "wait until it ends, stop it, or use another output.dir"
                )
            if seen is None:
                note(
                    f"{self._run_dir} is locked by {owner or 'an unknown session'}; "
                    f"watching for {STALE:g} seconds whether it is alive"
                )
                seen = content
                since = time.monotonic()
            time.sleep(POLL)

    def _takeover(self, owner: Owner | None, is_stale: bool) -> str:
        who = owner or "an unknown session"
        if is_stale:
            return f"taking {self._run_dir} over from {who}: no heartbeat for {STALE:g} seconds"
        return f"taking {self._run_dir} over from {who}, which has ended"

    def release(self) -> None:
        """Stop the heartbeat and remove the lock, unless another session has taken it over."""
        self._ended.set()
        self._beating.join()
        with suppress(OSError), files.exclusive(self._run_dir):
            if self._is_ours():
                self._path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError), files.exclusive(self._run_dir):  # if a heartbeat fails, the next one replaces it
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
    """Be the only writer of a run directory while the block runs; the directory is created if needed.

    The lock of a dead owner is taken over: at once where it ran on this machine, otherwise after :data:`STALE` seconds.

    Args:
        note: called with one sentence when this waits for a lock or takes one over.

    Raises:
        UserError: another session writes the directory, or it cannot be written.
    """
    lock = Lock(run_dir)
    try:
        files.make_dir(run_dir)
        lock.acquire(note)
    except OSError as error:
        raise UserError(
            f"{run_dir}: cannot be locked ({error.strerror or error}); choose another output.dir"
        ) from error
    try:
        yield lock
    finally:
        lock.release()


def read_owner(run_dir: Path) -> Owner | None:
    """Return the session that has locked a run directory, dead or alive; ``None`` where there is no lock."""
    return _parse(_read(lock_file(run_dir)))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parse(content: bytes | None) -> Owner | None:
    try:
        return Owner(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None


def _machine() -> str:
    """Identify what a PID and a process's start mean the same in: this boot and PID namespace.

    A system without ``/proc`` has no PID namespaces, and :func:`_process_start` is a time of day there, so that the
    machine alone is enough.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():012x}"


def _process_start(pid: int) -> int | None:
    """Return when a process has started, or ``None`` where it has ended.

    On Linux in clock ticks from boot, which do not change when the clock is set (the file's format is described in
    proc_pid_stat(5)); elsewhere in microseconds of the time of day, which the kernel has recorded.
    """
    if not Path("/proc/self/stat").exists():
        return _recorded_start(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command name in parentheses may hold spaces
    state = fields[0]
    if state in "ZX":  # a zombie, or dead: nobody has waited for it yet
        return None
    return int(fields[19])


def _recorded_start(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        start: float = process.create_time()
        return round(start * 1e6)
    except psutil.NoSuchProcess:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _age(owner: Owner | None) -> str:
    if owner is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(owner.started)).total_seconds()
    return f" for {max(seconds, 0) / 60:.0f} min (since {owner.started})"
