"""Check that a run directory holds what its manifest says, and the manifest what its corpus needs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.records import index_of, with_index
from noisesmith.pipeline.schema import IMAGE_HASHES, IMAGES, LISTED, NOISE_BYTES, PARENT
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.layout import letters_file, manifest_file, staging_root
from noisesmith.pipeline.sinks.location import reading
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, Manifest, SideEntry, SideKey, salvage_manifest
from noisesmith.pipeline.sinks.reader import DamagedFile, read_file, read_types
from noisesmith.pipeline.sinks.rows import check_row, index_in, replays
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import to_path

CHECKED = (
    "id",
    "prompt",
    PARENT,
    "width",
    "height",
    "score",
    "score_initial",
    "scores",
    "recipe",
    NOISE_BYTES,
    *IMAGES,
)


@dataclass(frozen=True)
class Findings:
    """What is wrong with a run, one sentence per problem.

    ``lines`` concern lines of the manifest, ``shards`` are by number of the damaged shard, and ``files`` by file of a
    staged row. ``side`` concerns the files of side tables. ``manifest`` is what can be read of the manifest.
    """

    manifest: Manifest
    lines: list[str]
    shards: dict[int, list[str]]
    files: dict[Path, str]
    side: dict[SideKey, str]

    @property
    def problems(self) -> list[str]:
        """All sentences."""
        return [
            *self.lines,
            *chain.from_iterable(self.shards.values()),
            *self.side.values(),
            *self.files.values(),
        ]


def verify_run(run_dir: Path, replayed: Collection[int] = ()) -> list[str]:
    """Check a run directory in full.

    Of a committed shard this checks sizes, hashes, schema, ids, images, agreement of the formats, and dead letters; of
    an open shard, whether its rows and letters can be read.

    Args:
        replayed: indices of rows whose noise is rebuilt too, from their recipes or from the stored noise.

    Returns:
        One sentence per problem; none for a complete and intact run.

    Raises:
        UserError: the directory is no run or cannot be read, or its manifest's header is damaged.
    """
    run_dir = to_path(run_dir)
    with reading(run_dir):
        found = examine(run_dir, replayed)
    problems = found.problems
    manifest = found.manifest
    if manifest.missing:
        problems.append(
            f"{manifest.missing} of {manifest.shards} shards are not committed yet: finish the run with noisesmith "
            "retry"
        )
    return problems


def examine(run_dir: Path, replayed: Collection[int] = ()) -> Findings:
    """Check a run like :func:`verify_run`, and group the problems by where they are.

    A shard that is not committed yet is no problem here.
    """
    manifest, damage = salvage_manifest(run_dir)
    lines = [f"{manifest_file(run_dir).name}: {problem}" for problem in damage]
    shards: dict[int, list[str]] = {}
    for shard in sorted(manifest.entries.keys() | shards_in(run_dir / "failed")):
        entry = manifest.entries.get(shard)
        problems = list(check_letters(run_dir, shard, entry))
        if entry is not None:
            problems += _check_shard(run_dir, manifest, entry, replayed)
        if problems:
            shards[shard] = problems
    unread: dict[Path, str] = {}
    for shard in sorted(shards_in(staging_root(run_dir))):
        unread |= staging.damaged_rows(run_dir, shard)
    return Findings(manifest, lines, shards, unread, _check_side(run_dir, manifest))


def sample_rows(run_dir: Path, count: int) -> frozenset[int]:
    """Draw the indices of ``count`` committed rows, or of all where there are fewer, always the same.

    Raises:
        UserError: the directory is no run, or its manifest's header is damaged.
    """
    manifest, _ = salvage_manifest(run_dir)
    rows: list[int] = []
    for _, entry in sorted(manifest.entries.items()):
        rows.extend(_written(manifest.part_of(entry.shard), entry))
    return frozenset(random.Random(0).sample(rows, min(count, len(rows))))


def check_letters(run_dir: Path, shard: int, entry: Entry | None) -> Iterator[str]:
    """Check that a shard's dead letters can be read and, once it is committed, are those of its entry."""
    try:
        letters = [letter["id"] for letter in staging.read_letters(run_dir, shard).values()]
    except OSError as error:
        yield f"{letters_file(run_dir, shard)}: cannot be read ({reason(error)})"
        return
    except UserError as error:
        yield str(error)
        return
    if entry is not None and letters != list(entry.failed):
        yield f"shard {shard}: dead letters {letters} where the manifest names {list(entry.failed)}"


def _check_shard(run_dir: Path, manifest: Manifest, entry: Entry, replayed: Collection[int]) -> Iterator[str]:
    """Check the files of a committed shard, and yield one sentence per problem."""
    header = manifest.part_of(entry.shard)
    whole = []
    for file in entry.files:
        problem = check_file(run_dir, file)
        if problem is None:
            whole.append(file.path)
        else:
            yield f"{file.path}: {problem}"
    named = [file.path for file in entry.files]
    expected = [header.layout.data_file(entry.shard, kind) for kind in header.formats] if entry.rows else []
    if named != expected:
        yield f"shard {entry.shard}: its files {named} are not one for each of the formats {', '.join(header.formats)}"
    for path in whole:
        try:
            problems = [
                *_check_rows(run_dir / path, manifest, entry, replayed),
                *_check_same(run_dir, header, whole[0], path),
            ]
        except DamagedFile as error:
            problems = [f"cannot be read ({error})"]
        for found in problems:
            yield f"{path}: {found}"


def _check_side(run_dir: Path, manifest: Manifest) -> dict[SideKey, str]:
    """Check the files of side tables that belong to the rows committed now: one sentence per damaged file."""
    found = {}
    for key, entry in sorted(manifest.side.items()):
        if not manifest.is_current(entry):
            continue
        path = manifest.part_of(entry.shard).layout.side_file(entry.shard, entry.table)
        problem = check_file(run_dir, DataFile(path, entry.bytes, entry.sha256, entry.rows))
        if problem is None:
            problem = _check_side_rows(run_dir / path, manifest, entry)
        if problem is not None:
            found[key] = f"{path}: {problem}"
    return found


def _check_side_rows(path: Path, manifest: Manifest, entry: SideEntry) -> str | None:
    """Compare the columns and ids of a side table's file with the manifest."""
    try:
        columns = read_types(path)
        if columns != {"id": "string", **entry.columns}:
            return f"has columns {columns} where the manifest says {entry.columns}"
        ids = "".join(f"{row['id']}\n" for row in read_file(path, ["id"], manifest.part_of(entry.shard)))
    except DamagedFile as error:
        return f"cannot be read ({error})"
    digest = hashlib.sha256(ids.encode()).hexdigest()
    if not digest == entry.ids_sha256 == manifest.entries[entry.shard].ids_sha256:
        return "holds other rows than its shard"
    return None


def check_file(run_dir: Path, file: DataFile) -> str | None:
    """Compare a file's size and hash with the manifest: what is wrong, or ``None`` when it is intact."""
    path = run_dir / file.path
    try:
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != file.bytes:
            return f"has {size} bytes where the manifest says {file.bytes}"
        if files.sha256_of(path) != file.sha256:
            return "differs from its SHA-256 in the manifest"
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    return None


def _check_rows(path: Path, manifest: Manifest, entry: Entry, replayed: Collection[int]) -> Iterator[str]:
    """Check one file's schema, ids, images and noises, and yield one sentence per problem."""
    header = manifest.part_of(entry.shard)
    if path.suffix == ".parquet":
        columns = read_types(path)
        if columns != header.columns:
            yield f"has columns {columns} where the manifest says {header.columns}"
            return
    expected = _written(header, entry)
    ids = []
    for row in read_file(path, _checked(path, header), header):
        ids.append(row["id"])
        for problem in check_row(row):
            yield f"row {row['id']}: {problem}"
        if index_in(row["id"]) in replayed and not replays(row, manifest):
            yield f"row {row['id']}: its rebuilt noise has another digest"
        if header.parents and row[PARENT] != _parent_id(row["id"], manifest):
            yield f"row {row['id']}: goes on from another row than the manifest says"
    if [index_in(name) for name in ids] != expected or len(ids) != entry.rows:
        yield f"holds {len(ids)} rows that are not the {len(expected)} of its shard, once each and in order"
    elif hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest() != entry.ids_sha256:
        yield "holds other ids than the manifest says"


def _parent_id(name: str, manifest: Manifest) -> str | None:
    """Return the id of the row from which a row goes on; ``None`` where a damaged file has no such row."""
    index = index_in(name)
    if index is None or index >= manifest.rows:
        return None
    parent = manifest.parent_index(index)
    return None if parent is None else with_index(name, parent)


def _checked(path: Path, header: Header) -> list[str]:
    held = header.columns if path.suffix == ".parquet" else header.tar_columns
    names = [name for name in (*CHECKED, LISTED) if name in held]
    if header.version_of_rows >= 5:
        names += [hashed for image, hashed in IMAGE_HASHES.items() if image in held]
    return names


def _written(header: Header, entry: Entry) -> list[int]:
    """Return the indices of the rows that a shard's files hold."""
    failed = set(map(index_of, entry.failed))
    return [index for index in header.layout.rows(entry.shard) if index not in failed]


def _check_same(run_dir: Path, header: Header, first: str, second: str) -> Iterator[str]:
    """Check that two formats of a shard hold the same ids, prompts and kept images."""
    if first == second:
        return
    columns = ["id", "prompt", "image"]
    rows = read_file(run_dir / first, columns, header)
    for one, other in zip_longest(rows, read_file(run_dir / second, columns, header)):
        if one != other:
            yield f"differs from {first} in row {(one or other)['id']}"
