"""Rows on disk before their shard is committed, and dead letters: a killed run loses only rows in flight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.records import Failure, index_of
from noisesmith.pipeline.sinks.layout import letters_file, staging_dir
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import read_each

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
    """Index → file of a shard's staged rows, in order."""
    found = {index_of(path.stem): path for path in staging_dir(run_dir, shard).glob(f"*{SUFFIX}")}
    return dict(sorted(found.items()))


def read_staged(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """Staged rows, one table a row.

    Raises:
        UserError: a file is damaged.
    """
    for path, content in read_each(paths):
        try:
            yield pa.ipc.open_file(pa.py_buffer(content)).read_all()
        except pa.ArrowInvalid:
            raise UserError(f"{path}: is damaged; delete it and run again to make its row anew") from None


def damaged_rows(run_dir: Path, shard: int) -> dict[Path, str]:
    """The staged rows of a shard that cannot be read, each with a sentence. One that is committed meanwhile is none."""
    found = {}
    for path in staged_rows(run_dir, shard).values():
        try:
            list(read_staged([path]))
        except FileNotFoundError:
            continue
        except OSError as error:
            found[path] = f"{path}: cannot be read ({reason(error)})"
        except UserError as error:
            found[path] = str(error)
    return found


def drop_staged(run_dir: Path, shard: int) -> None:
    """Remove the staging folder of a committed shard."""
    files.remove_tree(staging_dir(run_dir, shard))


def add_letter(run_dir: Path, shard: int, failure: Failure) -> None:
    """Record one row given up. Everything needed to try it again is there."""
    last = failure.attempts[-1] if failure.attempts else {}
    letter = {
        "id": failure.row.id,
        "index": failure.row.index,
        "prompt": failure.row.prompt,
        "extra": failure.row.extra,
        "error": last.get("error", ""),
        "message": last.get("message", ""),
        "attempts": list(failure.attempts),
    }
    path = letters_file(run_dir, shard)
    files.make_dir(path.parent)
    files.append_line(path, letter)


def read_letters(run_dir: Path, shard: int) -> dict[int, dict[str, Any]]:
    """Index → dead letter of a shard, in order; a later letter of a row replaces an earlier one.

    A row that is being tried again has none, and should it fail anew, a letter with its earlier attempts too.

    Raises:
        UserError: the file is damaged.
    """
    path = letters_file(run_dir, shard)
    letters, earlier = dict[int, dict[str, Any]](), dict[int, list[Any]]()
    try:
        for line in files.read_lines(path):
            index = line["index"]
            if "retried" in line:
                earlier[index] = letters.pop(index)["attempts"]
            else:
                letters[index] = line | {"attempts": [*earlier.get(index, []), *line["attempts"]]}
        return {index: letters[index] for index in sorted(letters)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it and run again to try its rows anew") from None


def keep_letters(run_dir: Path, shard: int, indices: set[int]) -> list[dict[str, Any]]:
    """Leave of a shard's dead letters only these rows', since the others have succeeded after all; returns them."""
    path = letters_file(run_dir, shard)
    if not path.exists():
        return []
    letters = [letter for index, letter in read_letters(run_dir, shard).items() if index in indices]
    kept = b"".join(map(files.json_line, letters))
    if not kept:
        path.unlink()
        files.sync_dir(path.parent)
    elif kept != path.read_bytes():
        files.write_atomic(path, kept)
    return letters


def withdraw_letters(run_dir: Path, shard: int) -> None:
    """Let the dead rows of an open shard be tried again. Their attempts stay on file until they succeed."""
    path = letters_file(run_dir, shard)
    marks = [
        {"id": letter["id"], "index": index, "retried": True} for index, letter in read_letters(run_dir, shard).items()
    ]
    if marks:
        files.write_atomic(path, path.read_bytes() + b"".join(map(files.json_line, marks)))
