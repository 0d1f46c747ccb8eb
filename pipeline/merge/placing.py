"""Bring the files of partitions into the directory of the whole run, each checked against its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.merge.partitions import PartitionRun
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.layout import letters_file
from noisesmith.pipeline.sinks.manifest import DataFile
from noisesmith.pipeline.sinks.verify import check_file, check_letters
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.home import shell_word
from noisesmith.pipeline.telemetry.console import search_progress

FILES_AT_ONCE = 8  # hashing uses a core per file, and a store takes its time to answer


@dataclass(frozen=True)
class Item:
    """A file of a partition, and its name in both directories."""

    run_dir: Path
    file: DataFile


def place(found: Sequence[PartitionRun], out: Path) -> None:
    """Bring every file that the manifests list, and the dead letters of committed shards, into ``out``.

    A file that an earlier attempt has brought is kept where it is intact.

    Raises:
        UserError: a file of a partition is missing or damaged.
        RunError: a file cannot be written.
    """
    items = [item for run in found for item in _items(run)]
    for folder in {Path(item.file.path).parent for item in items}:
        files.make_dir(out / folder)
    pool = ThreadPoolExecutor(FILES_AT_ONCE)
    try:
        with search_progress(len(items), unit="files") as advance:
            for _ in pool.map(lambda item: _place(item, out), items):
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
    for run in found:
        _place_letters(run, out)
    _drop_other_letters(found, out)


def _items(run: PartitionRun) -> Iterator[Item]:
    for entry in run.manifest.entries.values():
        for file in entry.files:
            yield Item(run.run_dir, file)
    for side in run.side():
        path = run.header.layout.side_file(side.shard, side.table)
        yield Item(run.run_dir, DataFile(path, side.bytes, side.sha256, side.rows))


def _place(item: Item, out: Path) -> None:
    source = item.run_dir / item.file.path
    target = out / item.file.path
    if check_file(out, item.file) is None:
        return
    try:
        files.bring(source, target, item.file.sha256)
    except (OSError, ValueError) as error:
        problem = check_file(item.run_dir, item.file)
        if problem is not None:
            raise _damaged(item.run_dir, f"{source}: {problem}") from error
        raise RunError(f"{target} cannot be written ({reason(error)})") from error


def _place_letters(run: PartitionRun, out: Path) -> None:
    for shard, entry in run.manifest.entries.items():
        if not entry.failed:
            continue
        for problem in check_letters(run.run_dir, shard, entry):
            raise _damaged(run.run_dir, problem)
        source, target = letters_file(run.run_dir, shard), letters_file(out, shard)
        try:
            files.make_dir(target.parent)
            files.write_atomic(target, source.read_bytes())
        except OSError as error:
            raise RunError(f"{target} cannot be written ({reason(error)})") from error


def _drop_other_letters(found: Sequence[PartitionRun], out: Path) -> None:
    """Remove the dead letters that an earlier attempt has brought of rows that were made since."""
    with_failed = set()
    for run in found:
        with_failed |= {shard for shard, entry in run.manifest.entries.items() if entry.failed}
    for shard in shards_in(out / "failed") - with_failed:
        letters_file(out, shard).unlink()


def _damaged(run_dir: Path, problem: str) -> UserError:
    where = shell_word(run_dir)
    return UserError(
        f"{problem}; repair the partition with noisesmith verify {where} --repair and noisesmith retry {where}, then "
        "merge again"
    )
