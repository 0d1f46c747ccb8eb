"""Staged rows and dead letters: what is on disk before a shard is committed, so a kill loses only rows in flight."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.records import Failure, index_of
from noisesmith.pipeline.sinks.layout import letters_file, staging_dir, staging_root
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import is_remote, read_each

SUFFIX = ".arrows"  # of the rows of one batch
ROWS_PER_FILE = 8  # staged in one call, at most: their indices are in the name of their file
OLD_SUFFIX = ".arrow"  # of one row, which gives the file its name: earlier versions stage so


@dataclass(frozen=True)
class Staged:
    """Rows of one shard that one call has staged: their indices, and the name of their file in its staging folder."""

    shard: int
    rows: tuple[int, ...]
    file: str


def stage(run_dir: Path, shard: int, table: pa.Table) -> Staged:
    """Put finished rows on disk in one file, whose name holds their indices. No other call ever writes this file.

    So a writer that is presumed dead, and still works, changes no file of another one.
    """
    rows = tuple(map(index_of, table["id"].to_pylist()))
    folder = staging_dir(run_dir, shard)
    files.make_dir(folder)
    name = f"{'_'.join(map(str, rows))}.{uuid.uuid4().hex}{SUFFIX}"
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    files.write_atomic(folder / name, buffer.getvalue().to_pybytes())
    return Staged(shard, rows, name)


def staged_rows(run_dir: Path, shard: int) -> dict[int, str]:
    """Return the index of each staged row of a shard and the name of its file, in order."""
    found: dict[int, str] = {}
    for name in sorted(path.name for path in staging_dir(run_dir, shard).glob("*")):
        if name.endswith(OLD_SUFFIX):
            found[index_of(name)] = name
        elif name.endswith(SUFFIX) and not name.startswith("."):
            found |= dict.fromkeys(map(int, name.split(".")[0].split("_")), name)
    return dict(sorted(found.items()))


def read_staged(run_dir: Path, shard: int, rows: Mapping[int, str]) -> Iterator[pa.Table]:
    """Yield staged rows in the order of their indices, one table per row.

    Args:
        rows: the index of each, and the name of its file.

    Raises:
        UserError: a file is damaged.
        FileNotFoundError: there is no such file.
    """
    folder = staging_dir(run_dir, shard)
    left = deque(sorted(rows))
    names = list(dict.fromkeys(rows[index] for index in left))
    read: dict[int, pa.Table] = {}
    for path, content in read_each(folder, names):
        try:
            table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        except pa.ArrowInvalid as error:
            raise UserError(_damaged(path)) from error
        for position, row_id in enumerate(table["id"].to_pylist()):
            if rows.get(index_of(row_id)) == path.name:
                read[index_of(row_id)] = table.slice(position, 1)
        while left and left[0] in read:
            yield read.pop(left.popleft())
    if left:
        raise UserError(_damaged(folder / rows[left[0]]))


def damaged_rows(run_dir: Path, shard: int) -> dict[Path, str]:
    """Return the files of staged rows of a shard that cannot be read, each with one sentence that says why."""
    found = {}
    rows = staged_rows(run_dir, shard)
    for name in sorted(set(rows.values())):
        path = staging_dir(run_dir, shard) / name
        try:
            list(read_staged(run_dir, shard, {index: file for index, file in rows.items() if file == name}))
        except FileNotFoundError:
            continue  # its shard was committed in the meantime
        except OSError as error:
            found[path] = f"{path}: cannot be read ({reason(error)})"
        except UserError as error:
            found[path] = str(error)
    return found


def _damaged(path: Path) -> str:
    return f"{path}: is damaged; delete it and run again to make its rows again"


def drop_staged(run_dir: Path, shard: int) -> None:
    """Remove the staging folder of a committed shard."""
    files.remove_tree(staging_dir(run_dir, shard))


def drop_empty(run_dir: Path) -> None:
    """Remove the folder of all staged rows where there are none, as in a finished run. No writer may be at work."""
    folder = staging_root(run_dir)
    if not is_remote(folder):  # an object store has no folders
        with suppress(OSError):  # it holds rows, or is not there
            folder.rmdir()


def add_letter(run_dir: Path, shard: int, failure: Failure) -> None:
    """Record one row that failed for good, with everything that is needed to understand it and to try it again.

    ``error``, ``message`` and ``traceback`` are those of the last attempt; ``attempts`` holds all of them.
    """
    last = failure.attempts[-1] if failure.attempts else {}
    letter = {
        "id": failure.row.id,
        "index": failure.row.index,
        "prompt": failure.row.prompt,
        "extra": failure.row.extra,
        "error": last.get("error", ""),
        "message": last.get("message", ""),
        "traceback": last.get("traceback", ""),
        "attempts": list(failure.attempts),
    }
    path = letters_file(run_dir, shard)
    files.make_dir(path.parent)
    files.append_line(path, letter)


def read_letters(run_dir: Path, shard: int) -> dict[int, dict[str, Any]]:
    """Return the index and the dead letter of each dead row of a shard, in order.

    The latest letter of a row replaces earlier ones. A row that is being tried again has none; if it fails again, its
    letter also holds its earlier attempts.

    Raises:
        UserError: the file is damaged.
    """
    path = letters_file(run_dir, shard)
    letters: dict[int, dict[str, Any]] = {}
    earlier: dict[int, list[Any]] = {}  # attempts before the row was tried again
    try:
        for line in files.read_lines(path):
            index = line["index"]
            if "retried" in line:
                earlier[index] = letters.pop(index)["attempts"]
            else:
                letters[index] = {**line, "attempts": [*earlier.get(index, []), *line["attempts"]]}
        return {index: letters[index] for index in sorted(letters)}
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or JSON that is no letter
        raise UserError(f"{path}: is damaged ({error}); delete it and run again to try its rows again") from error


def keep_letters(run_dir: Path, shard: int, indices: set[int]) -> list[dict[str, Any]]:
    """Keep the dead letters of these rows only, since the other rows have succeeded; returns the letters kept."""
    path = letters_file(run_dir, shard)
    if not path.exists():
        return []
    letters = [letter for index, letter in read_letters(run_dir, shard).items() if index in indices]
    content = b"".join(map(files.json_line, letters))
    if not content:
        path.unlink()
        files.sync_dir(path.parent)
    elif content != path.read_bytes():
        files.write_atomic(path, content)
    return letters


def retry_letters(run_dir: Path, shard: int) -> None:
    """Let the dead rows of an open shard be tried again. Their attempts stay in the file until they succeed."""
    path = letters_file(run_dir, shard)
    content = path.read_bytes()
    letters = read_letters(run_dir, shard)
    for index, letter in letters.items():
        content += files.json_line({"id": letter["id"], "index": index, "retried": True})
    if letters:
        files.write_atomic(path, content)
