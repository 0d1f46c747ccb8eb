"""Staged rows and dead letters: what is on disk before a shard is committed, so a kill loses only rows in flight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.records import Failure, index_of
from noisesmith.pipeline.sinks.layout import letters_file, staging_dir, staging_root
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import is_remote, read_each

SUFFIX = ".arrow"


def stage(run_dir: Path, shard: int, row_id: str, table: pa.Table) -> None:
    """Put one finished row on disk, in place of any earlier version of it."""
    folder = staging_dir(run_dir, shard)
    files.make_dir(folder)
    target = folder / f"{row_id}{SUFFIX}"
    part = files.temporary(target)
    with files.durable(part) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    files.replace(part, target)


def staged_rows(run_dir: Path, shard: int) -> dict[int, Path]:
    """Return the index and the file of each staged row of a shard, in order."""
    found = {index_of(path.stem): path for path in staging_dir(run_dir, shard).glob(f"*{SUFFIX}")}
    return dict(sorted(found.items()))


def read_staged(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """Yield staged rows, one table per row.

    Raises:
        UserError: a file is damaged.
    """
    for path, content in read_each(paths):
        try:
            table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        except pa.ArrowInvalid as error:
            raise UserError(f"{path}: is damaged; delete it and run again to make its row again") from error
        yield table


def damaged_rows(run_dir: Path, shard: int) -> dict[Path, str]:
    """Return the staged rows of a shard that cannot be read, each with one sentence that says why."""
    found = {}
    for path in staged_rows(run_dir, shard).values():
        try:
            list(read_staged([path]))
        except FileNotFoundError:
            continue  # its shard was committed in the meantime
        except OSError as error:
            found[path] = f"{path}: cannot be read ({reason(error)})"
        except UserError as error:
            found[path] = str(error)
    return found


def drop_staged(run_dir: Path, shard: int) -> None:
    """Remove the staging folder of a committed shard."""
    files.remove_tree(staging_dir(run_dir, shard))
    drop_empty(run_dir)


def drop_empty(run_dir: Path) -> None:
    """Remove the folder of all staged rows where there are none, as in a finished run."""
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
