"""Which rows of a part of a run are done, read from the disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.layout import (
    DATA_FILE,
    EXTENSIONS,
    SHARD_NAME,
    SIDE_FILE,
    ShardLayout,
    letters_file,
    manifest_file,
    side_root,
    staging_root,
)
from noisesmith.pipeline.sinks.manifest import Entry, Manifest, read_manifest
from noisesmith.pipeline.storage import files


@dataclass
class DoneRows(Collection[int]):
    """Indices of a part's rows that need no more work: committed, staged or dead.

    Only the rows of open shards are held one by one, so a run of millions of rows fits in memory. ``staged`` has the
    name of the file of each staged row, by shard and index.
    """

    layout: ShardLayout
    committed: dict[int, Entry] = field(default_factory=dict)
    staged: dict[int, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    dead: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def of_shard(self, shard: int) -> Collection[int]:
        """Return the indices of one shard's rows that are done."""
        if shard in self.committed:
            return self.layout.rows(shard)
        return self.staged.get(shard, {}).keys() | self.dead.get(shard, set())

    def is_complete(self, shard: int) -> bool:
        """Return whether an open shard misses no row."""
        staged = self.staged.get(shard, {})
        dead = self.dead.get(shard, set())
        rows = len(self.layout.rows(shard))
        # Asked after every row: the union of the sets is built only when their sizes allow a complete shard. The sum
        # alone does not decide, since a row can be both dead and staged.
        if len(staged) + len(dead) < rows:
            return False
        return len(staged.keys() | dead) == rows

    @property
    def written(self) -> int:
        """How many rows are committed or staged; those that are only dead are left out."""
        return sum(entry.rows for entry in self.committed.values()) + sum(map(len, self.staged.values()))

    def open_shards(self) -> list[int]:
        """Return the shards that have rows and are not committed, in order."""
        return sorted({*self.staged, *self.dead})

    def copy(self) -> DoneRows:
        """Return these rows, for another one to add to."""
        copied = DoneRows(self.layout, dict(self.committed))
        for shard, rows in self.staged.items():
            copied.staged[shard] = dict(rows)
        for shard, indices in self.dead.items():
            copied.dead[shard] = set(indices)
        return copied

    def commit(self, entry: Entry) -> None:
        """Record a shard as committed."""
        self.committed[entry.shard] = entry
        self.staged.pop(entry.shard, None)
        self.dead.pop(entry.shard, None)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int) or not 0 <= index - self.layout.first_row < self.layout.size:
            return False
        shard = self.layout.shard_of(index)
        if shard in self.committed:
            return True
        return index in self.staged.get(shard, ()) or index in self.dead.get(shard, ())

    def __iter__(self) -> Iterator[int]:
        for shard in self._shards():
            yield from sorted(self.of_shard(shard))

    def __len__(self) -> int:
        return sum(len(self.of_shard(shard)) for shard in self._shards())

    def _shards(self) -> list[int]:
        return sorted({*self.committed, *self.open_shards()})


def recover(run_dir: Path, first_row: int = 0) -> DoneRows:
    """Remove what a crash left below the run directory, then read which rows of a part are done.

    Files directly in the directory are left alone: the lock's heartbeat may be writing there.

    Args:
        first_row: where the part begins.

    Raises:
        UserError: the manifest or a file of dead letters is damaged.
    """
    # A half line must go before anything is read or added: the next line would be glued to it, and both be lost.
    files.drop_half_line(manifest_file(run_dir))
    manifest = read_manifest(run_dir)
    sweep(run_dir, manifest)
    for shard in shards_in(run_dir / "failed"):
        files.drop_half_line(letters_file(run_dir, shard))
    return read_done(run_dir, manifest, manifest.part_of_row(first_row))


def read_done(run_dir: Path, manifest: Manifest, part: Header) -> DoneRows:
    """Read from the disk which rows of a part are done, and write nothing.

    Raises:
        UserError: a file of dead letters is damaged.
    """
    layout = part.layout
    committed = {shard: entry for shard, entry in manifest.entries.items() if shard in layout.numbers}
    done = DoneRows(layout, committed)
    open_shards = set(layout.numbers) - committed.keys()
    for shard in shards_in(staging_root(run_dir)) & open_shards:
        done.staged[shard] = staging.staged_rows(run_dir, shard)
    for shard in shards_in(run_dir / "failed") & open_shards:
        done.dead[shard] = set(staging.read_letters(run_dir, shard))
    return done


def read_all_done(run_dir: Path, manifest: Manifest) -> list[DoneRows]:
    """Read which rows of each part of a run are done, like :func:`read_done`."""
    return [read_done(run_dir, manifest, part) for part in manifest.parts]


def shards_in(folder: Path) -> set[int]:
    """Return the shards that have a file or folder here. Other names are ignored, such as those of a user's copies."""
    shards = set()
    for path in folder.glob("shard-*"):
        name = SHARD_NAME.fullmatch(path.name)
        if name:
            shards.add(int(name[1]))
    return shards


def sweep(run_dir: Path, manifest: Manifest) -> None:
    """Remove temporary files, data files that the manifest does not list, and staged rows of shards that it lists."""
    listed = {run_dir / file.path for entry in manifest.entries.values() for file in entry.files}
    layout = manifest.header.layout
    for name in {layout.folder(kind) for kind in EXTENSIONS}:
        for path in list((run_dir / name).glob("*")):
            is_orphan = DATA_FILE.fullmatch(path.name) is not None and path not in listed
            if is_orphan or files.is_temporary(path):
                path.unlink()
    _sweep_side(run_dir, manifest)
    for folder in (run_dir / "failed", *staging_root(run_dir).glob("*")):
        for path in list(folder.glob("*")):
            if files.is_temporary(path):
                path.unlink()
    for shard in shards_in(staging_root(run_dir)) & manifest.entries.keys():
        staging.drop_staged(run_dir, shard)
    staging.drop_empty(run_dir)


def _sweep_side(run_dir: Path, manifest: Manifest) -> None:
    """Remove temporary files of side tables, files that the manifest does not list, and those of rows that are gone."""
    kept = set()
    for entry in manifest.side.values():
        # A shard that was opened again may be committed with the same rows.
        is_open = entry.shard not in manifest.entries and entry.shard_sha256 != ""
        if is_open or manifest.is_current(entry):
            kept.add(run_dir / manifest.part_of(entry.shard).layout.side_file(entry.shard, entry.table))
    for path in list(side_root(run_dir).glob("*/*")):
        is_orphan = SIDE_FILE.fullmatch(path.name) is not None and path not in kept
        if is_orphan or files.is_temporary(path):
            path.unlink()
