"""Which rows of a run are done, as the disk tells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.layout import DATA_FILE, SHARD_NAME, ShardPlan, letters_file, manifest_file
from noisesmith.pipeline.sinks.manifest import Entry, Manifest, read_manifest
from noisesmith.pipeline.storage import files


@dataclass
class DoneRows(Collection[int]):
    """Indices of rows that need no more work: committed, staged or dead. Only open shards are held row by row."""

    plan: ShardPlan
    committed: dict[int, Entry] = field(default_factory=dict)
    staged: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    dead: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def of_shard(self, shard: int) -> Collection[int]:
        """Those of one shard."""
        if shard in self.committed:
            return self.plan.rows(shard)
        return self.staged.get(shard, set()) | self.dead.get(shard, set())

    def is_complete(self, shard: int) -> bool:
        """Whether an open shard lacks no row. Asked after every row, so the union is only made when it may suffice."""
        staged, dead, rows = self.staged.get(shard, set()), self.dead.get(shard, set()), len(self.plan.rows(shard))
        return len(staged) + len(dead) >= rows and len(staged | dead) == rows

    def open_shards(self) -> list[int]:
        """Shards begun and not committed."""
        return sorted({*self.staged, *self.dead})

    def commit(self, entry: Entry) -> None:
        """Take a shard's rows as committed."""
        self.committed[entry.shard] = entry
        self.staged.pop(entry.shard, None)
        self.dead.pop(entry.shard, None)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int) or not 0 <= index < self.plan.size:
            return False
        shard = self.plan.shard_of(index)
        return shard in self.committed or index in self.staged.get(shard, ()) or index in self.dead.get(shard, ())

    def __iter__(self) -> Iterator[int]:
        for shard in sorted({*self.committed, *self.open_shards()}):
            yield from sorted(self.of_shard(shard))

    def __len__(self) -> int:
        return sum(len(self.of_shard(shard)) for shard in {*self.committed, *self.open_shards()})


def recover(run_dir: Path) -> DoneRows:
    """Sweep what a crash left below the run directory, and learn from the disk which rows are done.

    The directory itself is left alone: while a writer begins, its driver may be writing there.

    Raises:
        UserError: the manifest or a file of dead letters is damaged.
    """
    files.drop_half_line(manifest_file(run_dir))
    manifest = read_manifest(run_dir)
    _sweep(run_dir, manifest)
    for shard in shards_in(run_dir / "failed"):
        files.drop_half_line(letters_file(run_dir, shard))
    return read_done(run_dir, manifest)


def read_done(run_dir: Path, manifest: Manifest) -> DoneRows:
    """Which rows are done, from the disk; writes nothing.

    Raises:
        UserError: a file of dead letters is damaged.
    """
    done = DoneRows(manifest.header.plan, manifest.entries)
    for shard in shards_in(run_dir / "staging") - done.committed.keys():
        done.staged[shard] = set(staging.staged_rows(run_dir, shard))
    for shard in shards_in(run_dir / "failed") - done.committed.keys():
        done.dead[shard] = set(staging.read_letters(run_dir, shard))
    return done


def shards_in(folder: Path) -> set[int]:
    """Shards with something of their name in a folder; other names, such as a user's copies have, are passed over."""
    return {int(name[1]) for path in folder.glob("shard-*") if (name := SHARD_NAME.fullmatch(path.name))}


def _sweep(run_dir: Path, manifest: Manifest) -> None:
    """Remove temporary files, shards the manifest does not list, and staged rows of those it does."""
    listed = {run_dir / file.path for entry in manifest.entries.values() for file in entry.files}
    for folder in (run_dir / "data", run_dir / "failed", *(run_dir / "staging").glob("*")):
        for path in folder.glob("*"):
            orphan = folder.name == "data" and DATA_FILE.fullmatch(path.name) and path not in listed
            if orphan or files.is_temporary(path):
                path.unlink()
    for shard in shards_in(run_dir / "staging") & manifest.entries.keys():
        staging.drop_staged(run_dir, shard)
