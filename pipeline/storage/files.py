"""Durable file operations: what has returned survives a crash, what has not leaves no trace under its final name.

On a local disk by fsync and rename. In an object store by uploading a local file whole and reading it back: there is
no half an object, no directory to sync and no appending, so a line is added by writing the object anew (one writer).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from noisesmith.pipeline.storage.paths import is_remote


def temporary(target: Path) -> Path:
    """A fresh name that :func:`is_temporary` recognises, beside ``target`` or, for a store, in the local ``TMPDIR``."""
    name = f".{target.name}.{uuid.uuid4().hex}.tmp"
    return Path(tempfile.gettempdir(), name) if is_remote(target) else target.with_name(name)


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def durable(path: Path) -> Iterator[IO[bytes]]:
    """A new file, on disk when the block ends; removed when it raises."""
    try:
        with path.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(source: Path, target: Path) -> None:
    """Give a temporary file its final name, durably.

    Raises:
        OSError: also when a store returns other bytes than it was sent.
    """
    if not is_remote(target):
        os.replace(source, target)
        sync_dir(target.parent)
        return
    try:
        target.upload(source)
    finally:
        source.unlink()


def write_atomic(target: Path, content: bytes) -> None:
    """Create or replace a file: readers and crashes see the old content or the new, never a part."""
    staged = temporary(target)
    with durable(staged) as file:
        file.write(content)
    replace(staged, target)


def sync_dir(path: Path) -> None:
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dir(path: Path) -> None:
    """A directory that survives a crash, with its parents."""
    if is_remote(path):
        return
    missing = [path, *path.parents]
    missing = missing[: next((n for n, folder in enumerate(missing) if folder.exists()), len(missing))]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_dir(folder.parent)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Alone among this machine's processes, for moments; an object store and some network disks do not offer it."""
    if is_remote(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line, durably. A line half written by a crash is dropped by :func:`read_lines`."""
    is_new, in_store = not path.exists(), is_remote(path)
    if in_store:
        write_atomic(path, (b"" if is_new else path.read_bytes()) + json_line(record))
        return
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            line = json_line(record)
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_new:
        sync_dir(path.parent)


def json_line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace") + b"\n"  # half a surrogate pair becomes its JSON escape


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; empty when there is none. A last line without its end is ignored.

    Raises:
        ValueError: a line holds no JSON object; the message gives its number.
    """
    records = []
    for number, record in enumerate(salvage_lines(path), 1):
        if record is None:
            raise ValueError(f"line {number} holds no JSON object")
        records.append(record)
    return records


def salvage_lines(path: Path) -> list[dict[str, Any] | None]:
    """As :func:`read_lines`, with ``None`` for a line that holds no JSON object."""
    records = []
    content = path.read_bytes() if path.exists() else b""
    for line in content.split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        records.append(record if isinstance(record, dict) else None)
    return records


def drop_half_line(path: Path) -> None:
    """Cut what a crash left after the last complete line, so that the next line starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        write_atomic(path, content[:whole])


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it. What cannot be removed stays, and is swept when the run is opened again."""
    if is_remote(path):
        with suppress(OSError):
            path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """A file's SHA-256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
