"""The manifest of a run: a line with the header of each part, then one per committed shard or file of a side table.

Only what it lists is the dataset.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import index_of, with_index
from noisesmith.pipeline.sinks.header import NEWEST, Header, header_record, read_headers
from noisesmith.pipeline.sinks.layout import manifest_file
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.home import shell_word


@dataclass(frozen=True)
class DataFile:
    """One file of a shard; ``path`` is relative to the run directory."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Entry:
    """One committed shard.

    ``rows`` counts the rows written, ``failed`` holds the ids of the dead letters, and ``ids_sha256`` is the SHA-256 of
    the written ids, one per line.
    """

    shard: int
    rows: int
    failed: tuple[str, ...]
    ids_sha256: str
    files: tuple[DataFile, ...]

    @property
    def readable(self) -> str:
        """The file to read rows from: every format holds the same rows, but Parquet alone has all columns and types."""
        names = [file.path for file in self.files]
        return min(names, key=lambda name: not name.endswith(".parquet"))


@dataclass(frozen=True)
class SideEntry:
    """One committed file of a side table: further columns of the rows of one shard, in their order.

    ``columns`` are its own, without ``id``, as in a header. ``origin`` says how its values were made, such as the model
    and its revision. ``shard_sha256`` is the SHA-256 of the shard's first file: once the shard is committed with other
    rows, this file counts no longer. It is empty while another file is to replace this one.
    """

    table: str
    shard: int
    rows: int
    bytes: int
    sha256: str
    ids_sha256: str
    shard_sha256: str
    columns: dict[str, str]
    origin: dict[str, str]


SideKey = tuple[str, int]  # a table and a shard


@dataclass(frozen=True)
class Manifest:
    """A whole manifest. Where something was committed again, ``entries`` and ``side`` hold its latest entry.

    ``header`` is that of the first part, ``later`` those of the others.
    """

    header: Header
    entries: dict[int, Entry]
    side: dict[SideKey, SideEntry] = field(default_factory=dict)
    later: tuple[Header, ...] = ()

    @property
    def parts(self) -> list[Header]:
        """The headers of all parts, in order."""
        return [self.header, *self.later]

    @property
    def rows(self) -> int:
        """How many rows all parts have. Of a partition, only its own count, here and below."""
        return sum(part.layout.own_rows for part in self.parts)

    @property
    def shards(self) -> int:
        """How many shards all parts have."""
        return sum(len(part.layout.numbers) for part in self.parts)

    @property
    def numbers(self) -> set[int]:
        """The numbers of these shards."""
        return set(chain.from_iterable(part.layout.numbers for part in self.parts))

    @property
    def missing(self) -> int:
        """How many shards are not committed yet."""
        return self.shards - len(self.entries)

    @property
    def continues_searches(self) -> bool:
        """Whether a part has rows that go on from others."""
        return any(part.parents for part in self.later)

    def part_of(self, shard: int) -> Header:
        """Return the part of a shard."""
        return next(part for part in reversed(self.parts) if part.first_shard <= shard)

    def part_of_row(self, index: int) -> Header:
        """Return the part of a row."""
        return next(part for part in reversed(self.parts) if part.first_row <= index)

    def shard_of(self, index: int) -> int:
        """Return the shard of a row."""
        return self.part_of_row(index).layout.shard_of(index)

    def search_id(self, row: str) -> str:
        """Return the id of the row that began a row's search: noises are drawn with it.

        It is the row itself, except where the row goes on from another one.
        """
        return with_index(row, self.search_index(index_of(row)))

    def search_index(self, index: int) -> int:
        """Return the index of the row that began a row's search."""
        while (parent := self.parent_index(index)) is not None:
            index = parent
        return index

    def parent_index(self, index: int) -> int | None:
        """Return the index of the row from which a row goes on; ``None`` where it began its search.

        Raises:
            IndexError: the run has no such row.
        """
        part = self.part_of_row(index)
        return part.parents[index - part.first_row] if part.parents else None

    @property
    def filled(self) -> list[int]:
        """The committed shards that have rows, in order; of the others all rows have failed."""
        return [shard for shard, entry in sorted(self.entries.items()) if entry.files]

    @property
    def side_columns(self) -> dict[str, dict[str, str]]:
        """The name and type of each column of each side table, by table."""
        return {entry.table: entry.columns for entry in self.side.values()}

    @property
    def types(self) -> dict[str, str]:
        """The name and type of each column that a part has of its own."""
        types: dict[str, str] = {}
        for part in self.parts:
            types |= part.columns
        return types

    @property
    def columns(self) -> list[str]:
        """The names of all columns: the run's own, then those of its side tables."""
        names = list(self.types)
        for columns in self.side_columns.values():
            names.extend(columns)
        return names

    def current(self, table: str, shard: int) -> SideEntry | None:
        """Return the entry of a table's file for a shard, where there is one of the rows that are committed now."""
        side = self.side.get((table, shard))
        return side if side is not None and self.is_current(side) else None

    def is_current(self, side: SideEntry) -> bool:
        """Return whether a file of a side table belongs to rows that are committed now."""
        entry = self.entries.get(side.shard)
        return entry is not None and bool(entry.files) and entry.files[0].sha256 == side.shard_sha256


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Create a run's manifest, or replace all of it."""
    records = [header_record(manifest.parts)]
    records.extend(_record(entry) for _, entry in sorted(manifest.entries.items()))
    records.extend(_side_record(entry) for entry in manifest.side.values())
    files.write_atomic(manifest_file(run_dir), b"".join(map(files.json_line, records)))


def append_side(run_dir: Path, entry: SideEntry) -> None:
    """Commit a file of a side table: when this returns, its columns are joined to the rows of its shard."""
    files.append_line(manifest_file(run_dir), _side_record(entry))


def append_entry(run_dir: Path, entry: Entry) -> None:
    """Commit a shard: when this returns, its rows are in the dataset."""
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
            f"the intact part with noisesmith verify {shell_word(run_dir)} --repair"
        )
    return manifest


def salvage_manifest(run_dir: Path) -> tuple[Manifest, list[str]]:
    """Read what is intact of a run's manifest.

    Returns:
        The manifest without the entries that cannot be read, and one sentence part per damaged line.

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
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    line = lines[0] if lines else None
    version = (line or {}).get("version")
    if isinstance(version, int) and version > NEWEST:
        raise UserError(
            f"{path}: is of version {version}, and this noisesmith reads up to version {NEWEST}; install a newer one"
        )
    try:
        header, *later = read_headers(line)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it from a copy, or use another output.dir") from error
    manifest = Manifest(header, {}, {}, tuple(later))
    numbers = manifest.numbers
    damage = []
    for number, line in enumerate(lines[1:], 2):
        try:
            _add_line(manifest, line, numbers)
        except _EntryError as error:
            damage.append(f"line {number} {error}")
        except (TypeError, KeyError):  # a key is missing, or a value has another type
            damage.append(f"line {number} is not as it was written")
    return manifest, damage


class _EntryError(ValueError):
    """A line of the manifest is no entry of a shard; the message says why."""


def _record(entry: Entry) -> dict[str, Any]:
    return {"kind": "shard", **asdict(entry)}


def _side_record(entry: SideEntry) -> dict[str, Any]:
    return {"kind": "side", **asdict(entry)}


def _add_line(manifest: Manifest, line: dict[str, Any] | None, numbers: Container[int]) -> None:
    """Add what one line commits, or take out what it removes; ``numbers`` are those of the run's shards."""
    if line is None:
        raise _EntryError("holds no JSON object")
    kind = line.pop("kind")
    if line["shard"] not in numbers:
        raise _EntryError("is no entry of a shard of this run")
    if kind == "shard":
        entry = _entry(line)
        manifest.entries[entry.shard] = entry
    elif kind == "side":
        side = SideEntry(**line)
        manifest.side.pop((side.table, side.shard), None)  # the order is that in which they were written
        manifest.side[side.table, side.shard] = side
    else:
        raise _EntryError("is no entry of a shard of this run")


def _entry(line: dict[str, Any]) -> Entry:
    data_files = tuple(DataFile(**file) for file in line.pop("files"))
    failed = tuple(line.pop("failed"))
    return Entry(files=data_files, failed=failed, **line)
