"""The manifest of a run: a header, then one line a committed shard. What it lists is the dataset, nothing else is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks.layout import ShardPlan, manifest_file
from noisesmith.pipeline.storage import files

VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a run is. ``config`` holds the fields that decide its rows, ``columns`` the Arrow type of each column."""

    config: dict[str, Any]
    config_digest: str
    corpus_digest: str
    rows: int
    rows_per_shard: int
    shards: int
    formats: tuple[str, ...]
    columns: dict[str, str]

    @property
    def plan(self) -> ShardPlan:
        return ShardPlan(self.rows, self.rows_per_shard)


@dataclass(frozen=True)
class DataFile:
    """One file of a shard; ``path`` is relative to the run directory."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Entry:
    """One committed shard: rows written, ids of its dead letters, and the SHA-256 of the written ids, one a line."""

    shard: int
    rows: int
    failed: tuple[str, ...]
    ids_sha256: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Manifest:
    """All of it. A shard committed anew replaces its earlier entry."""

    header: Header
    entries: dict[int, Entry]


def write_manifest(run_dir: Path, header: Header, entries: Iterable[Entry] = ()) -> None:
    """Begin a run's manifest, or replace it whole."""
    records = [{"kind": "run", "version": VERSION, **asdict(header)}, *map(_record, entries)]
    files.write_atomic(manifest_file(run_dir), b"".join(map(files.json_line, records)))


def append_entry(run_dir: Path, entry: Entry) -> None:
    """Commit a shard: from the moment this returns its rows are in the dataset."""
    files.append_line(manifest_file(run_dir), _record(entry))


def read_manifest(run_dir: Path) -> Manifest:
    """Read a run's manifest.

    Raises:
        UserError: the directory is no run, or the manifest is damaged.
    """
    manifest, damage = salvage_manifest(run_dir)
    if damage:
        raise UserError(
            f"{manifest_file(run_dir)}: is damaged ({'; '.join(damage)}); restore it from a copy, or keep "
            f"what is sound with noisesmith verify {run_dir} --repair"
        )
    return manifest


def salvage_manifest(run_dir: Path) -> tuple[Manifest, list[str]]:
    """A run's manifest without the entries that cannot be read, and what is wrong with the line of each of those.

    Raises:
        UserError: the directory is no run, or the manifest's header is damaged.
    """
    path = manifest_file(run_dir)
    try:
        if not path.is_file():
            raise UserError(
                f"{run_dir}: is not a run directory, since it has no {path.name}; give one that a run has written"
            )
        lines = files.salvage_lines(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        header = _header(lines[0] if lines else None)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it from a copy, or use another output.dir") from None
    entries, damage = dict[int, Entry](), []
    for number, line in enumerate(lines[1:], 2):
        try:
            entry = _entry(line, header)
            entries[entry.shard] = entry
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            damage.append(f"line {number} {error if type(error) is ValueError else 'is not as it was written'}")
    return Manifest(header, entries), damage


def _record(entry: Entry) -> dict[str, Any]:
    return {"kind": "shard", **asdict(entry)}


def _header(line: dict[str, Any] | None) -> Header:
    if line is None or line.pop("kind", None) != "run" or line.pop("version", None) != VERSION:
        raise ValueError(f"line 1 is no header of version {VERSION}")
    return Header(**line | {"formats": tuple(line["formats"])})


def _entry(line: dict[str, Any] | None, header: Header) -> Entry:
    if line is None:
        raise ValueError("holds no JSON object")
    if line.pop("kind") != "shard" or line["shard"] not in range(header.shards):
        raise ValueError("is no entry of a shard of this run")
    data_files = tuple(DataFile(**file) for file in line.pop("files"))
    return Entry(**line | {"files": data_files, "failed": tuple(line["failed"])})
