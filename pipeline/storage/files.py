"""Durable file operations.

A finished operation survives a crash; an unfinished one leaves nothing under the final name. On a local disk this takes
fsync and rename. In an object store content is uploaded whole and read back: a store has no partial objects, no
directories to sync and no appending, so a line is added by writing the whole object again. Only one process may add
lines to a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from noisesmith.pipeline.storage.paths import is_remote

try:
    import fcntl
except ImportError:  # a system without POSIX file locks
    fcntl = None  # type: ignore[assignment]


def temporary(target: Path) -> Path:
    """Return a new name that :func:`is_temporary` recognises, and that no other attempt to write ``target`` has.

    It is next to ``target``, so that a rename can replace the target, or in the local ``TMPDIR`` for an object store.
    """
    name = beside(target)
    return Path(tempfile.gettempdir(), name.name) if is_remote(target) else name


def beside(target: Path) -> Path:
    """Return a name like that of :func:`temporary`, but always next to ``target``, in an object store too."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove what a crash has left directly in a folder."""
    for path in list(folder.iterdir()):
        if is_temporary(path):
            path.unlink(missing_ok=True)  # a lock's heartbeat thread may have renamed its own by now


@contextmanager
def durable(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing. It is on disk when the block ends, and removed when the block raises."""
    try:
        with path.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(source: Path, target: Path) -> None:
    """Give a temporary file its final name, durably. In an object store it may be a local file, or an object.

    Raises:
        OSError: this failed; also when a store returns bytes other than those it was sent.
    """
    if not is_remote(target):
        source.replace(target)
        sync_dir(target.parent)
    elif is_remote(source):
        target.copy_from(source)
        source.unlink()
    else:
        try:
            target.upload(source)
        finally:
            source.unlink()


def bring(source: Path, target: Path, sha256: str) -> None:
    """Give the content of a file a second name, durably, in place of an earlier target; the source stays.

    It is a hard link where both are on one local file system, since no file of a run is ever changed in place. Else it
    is a copy, which an object store makes on its own where both are in it.

    Raises:
        OSError: this failed.
        ValueError: the content has another SHA-256; there is no target then, or the earlier one.
    """
    in_one_store = is_remote(source) and is_remote(target) and source.protocol == target.protocol
    staged = target if in_one_store else temporary(target)
    try:
        _link_or_copy(source, staged)
        _refuse_other_content(staged, sha256)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if not in_one_store:
        replace(staged, target)


def _link_or_copy(source: Path, target: Path) -> None:
    """Link to a local file, copy an object within its store, or copy a file to this machine, durably."""
    if is_remote(source) and is_remote(target):
        source.copy_to(target)
        return
    if not is_remote(source):
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())  # whoever has brought the file here may not have waited for the disk
            return
        target.unlink(missing_ok=True)
    with source.open("rb") as content, durable(target) as file:
        shutil.copyfileobj(content, file, 2**20)


def _refuse_other_content(path: Path, sha256: str) -> None:
    if sha256_of(path) != sha256:
        raise ValueError(f"{path} differs from its SHA-256")


def write_atomic(target: Path, content: bytes) -> None:
    """Create or replace a file. A reader, also after a crash, sees the old content or the new, never a part."""
    if is_remote(target):
        target.put(content)
        return
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
    """Create a directory and its parents so that they survive a crash. An object store needs none."""
    if is_remote(path):
        return
    created = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        created.append(folder)
    path.mkdir(parents=True, exist_ok=True)
    for folder in created:
        sync_dir(folder.parent)  # a new directory's name is durable only once its parent is synced


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Short-lived file lock between processes on this machine; a no-op where the system or its disk has no locks."""
    if is_remote(folder) or fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append_line(path: Path, record: Mapping[str, object]) -> None:
    """Add one JSON line, durably. After a crash a partial line may be left, which :func:`read_lines` ignores.

    Raises:
        OSError: the line cannot be written; the file is as it was before.
    """
    line = json_line(record)
    is_new = not path.exists()
    in_store = is_remote(path)
    if in_store:
        before = b"" if is_new else path.read_bytes()
        write_atomic(path, before + line)
        return
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))  # noqa: TRY301 (handled as another)
            os.fsync(file.fileno())
        except OSError:
            # A full disk takes part of a line. The run goes on once there is space, so the next line must start clean.
            file.truncate(size)
            raise
    if is_new:
        sync_dir(path.parent)


def json_line(record: Mapping[str, object]) -> bytes:
    """Return a record as one line of JSON. Values without a JSON form become text."""
    text = json.dumps(record, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace") + b"\n"  # half a surrogate pair becomes its JSON escape


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a file of JSON lines: none when there is no file. A last line without line end is ignored.

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
    """Read a file like :func:`read_lines`, with ``None`` for each line that holds no JSON object."""
    if not path.exists():
        return []
    records: list[dict[str, Any] | None] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        records.append(record if isinstance(record, dict) else None)
    return records


def drop_half_line(path: Path) -> None:
    """Remove the partial line that a crash has left at the end, so that the next line starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        write_atomic(path, content[:end])


def remove_tree(path: Path) -> None:
    """Remove a folder and its content. What cannot be removed stays, and is removed when the run is opened again."""
    if is_remote(path):
        with suppress(OSError):
            path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
