"""The manifest of a run: a header line, then one line per committed shard or file of a side table.

Only what it lists is the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.schema import LISTED
from noisesmith.pipeline.sinks.layout import ShardLayout, manifest_file
from noisesmith.pipeline.sinks.samples import text_columns
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.home import shell_word

# 2: tars hold every column that may be null as JSON text. 5: tars are in a folder of their own, without first images
# unless the config asks for them; images are marked as synthetic.
VERSION = 5
# What its first side table makes of a run's version: an older program would take its lines for damage and drop them.
# Programs that know version 5 know side tables.
WITH_SIDE_TABLES = {1: 3, 2: 4}
_ROWS_AS_IN = {with_tables: version for version, with_tables in WITH_SIDE_TABLES.items()}


@dataclass(frozen=True)
class Header:
    """What a run is, written once when it starts.

    ``version`` is the format of the run's files; a resumed run keeps it, and an older program refuses a newer one.
    ``config`` holds the config fields that decide its rows, ``columns`` the name of each column's Arrow type, in the
    order of the columns. A resumed run keeps this layout, these columns and these types, also under a newer version.
    """

    version: int
    config: dict[str, Any]
    config_digest: str
    corpus_digest: str
    rows: int
    rows_per_shard: int
    shards: int
    formats: tuple[str, ...]
    columns: dict[str, str]

    @property
    def layout(self) -> ShardLayout:
        tar_folder = "tars" if self.version_of_rows >= 5 else "data"
        return ShardLayout(self.rows, self.rows_per_shard, tar_folder)

    @property
    def version_of_rows(self) -> int:
        """The version that says how the run's rows are stored, whether it has side tables or not."""
        return _ROWS_AS_IN.get(self.version, self.version)

    @property
    def marks_images(self) -> bool:
        """Whether the run's images are marked as synthetic (``noisesmith.pipeline.xmp``)."""
        return self.version_of_rows >= 5

    @property
    def tar_columns(self) -> tuple[str, ...]:
        """The columns that tars hold: all but the images of rounds and, unless asked for, the first images."""
        left_out = {LISTED}
        if self.version_of_rows >= 5 and not self.config.get("output.tar_image_initial"):
            left_out.add("image_initial")
        return tuple(name for name in self.columns if name not in left_out)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that tars hold as JSON text."""
        return text_columns(self.columns, self.version_of_rows)


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
    """A whole manifest. Where something was committed again, ``entries`` and ``side`` hold its latest entry."""

    header: Header
    entries: dict[int, Entry]
    side: dict[SideKey, SideEntry] = field(default_factory=dict)

    @property
    def side_columns(self) -> dict[str, dict[str, str]]:
        """The name and type of each column of each side table, by table."""
        return {entry.table: entry.columns for entry in self.side.values()}

    @property
    def columns(self) -> list[str]:
        """The names of all columns: the run's own, then those of its side tables."""
        names = list(self.header.columns)
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


def write_manifest(
    run_dir: Path, header: Header, entries: Iterable[Entry] = (), side: Iterable[SideEntry] = ()
) -> None:
    """Create a run's manifest, or replace all of it."""
    records = [{"kind": "run", **asdict(header)}]
    records.extend(_record(entry) for entry in entries)
    records.extend(_side_record(entry) for entry in side)
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
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path}: is of version {version}, and this noisesmith reads up to version {VERSION}; install a newer one"
        )
    try:
        header = _header(line)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it from a copy, or use another output.dir") from error
    manifest = Manifest(header, {}, {})
    damage = []
    for number, line in enumerate(lines[1:], 2):
        try:
            _add_line(manifest, line)
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


def _header(line: dict[str, Any] | None) -> Header:
    if line is None or line.pop("kind", None) != "run" or line.get("version") not in range(1, VERSION + 1):
        raise ValueError(f"line 1 is no header of version 1 to {VERSION}")
    formats = tuple(line.pop("formats"))
    return Header(formats=formats, **line)


def _add_line(manifest: Manifest, line: dict[str, Any] | None) -> None:
    """Add what one line commits, or take out what it removes."""
    if line is None:
        raise _EntryError("holds no JSON object")
    kind = line.pop("kind")
    if line["shard"] not in range(manifest.header.shards):
        raise _EntryError("is no entry of a shard of this run")
    if kind == "shard":
        entry = _entry(line)
        manifest.entries[entry.shard] = entry
    elif kind == "side":
        side = SideEntry(**line)
        manifest.side[side.table, side.shard] = side
    else:
        raise _EntryError("is no entry of a shard of this run")


def _entry(line: dict[str, Any]) -> Entry:
    data_files = tuple(DataFile(**file) for file in line.pop("files"))
    failed = tuple(line.pop("failed"))
    return Entry(files=data_files, failed=failed, **line)
