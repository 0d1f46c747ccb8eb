"""Whether a run directory holds what its manifest says, and its manifest what its corpus asks."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.prompts.columns import first_line
from noisesmith.pipeline.records import Recipe, index_of, row_id
from noisesmith.pipeline.schema import IMAGES, NOISE_BYTES, column_types
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.layout import letters_file, manifest_file
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, Header, Manifest, salvage_manifest
from noisesmith.pipeline.sinks.reader import read_file
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import to_path

CHECKED = ("id", "prompt", "width", "height", "score", "score_initial", "scores", "recipe", NOISE_BYTES, *IMAGES)


@dataclass(frozen=True)
class Findings:
    """What is wrong with a run: with lines of its manifest, by number with shards that are not sound, and by file with
    staged rows.

    ``manifest`` is what can be read of it.
    """

    manifest: Manifest
    lines: list[str]
    shards: dict[int, list[str]]
    files: dict[Path, str]

    @property
    def problems(self) -> list[str]:
        """One sentence each."""
        return [*self.lines, *chain.from_iterable(self.shards.values()), *self.files.values()]


def verify_run(run_dir: Path, replayed: Collection[int] = ()) -> list[str]:
    """Check every committed shard in full: sizes, hashes, schema, ids, images, agreement of formats, dead letters. Of
    the others whether their rows and letters can be read.

    Args:
        replayed: indices of rows whose noise is rebuilt too, from their recipes or from the noise stored.

    Returns:
        One sentence a problem; none for a complete and sound run.

    Raises:
        UserError: the directory is no run, or its manifest's header is damaged.
    """
    found = examine(to_path(run_dir), replayed)
    problems, header = found.problems, found.manifest.header
    if missing := header.shards - len(found.manifest.entries):
        problems.append(f"{missing} of {header.shards} shards are not committed yet: run the config again")
    return problems


def examine(run_dir: Path, replayed: Collection[int] = ()) -> Findings:
    """As :func:`verify_run`, by what has the problem; shards not committed yet are none."""
    manifest, damage = salvage_manifest(run_dir)
    lines = [f"{manifest_file(run_dir).name}: {problem}" for problem in damage]
    shards = dict[int, list[str]]()
    for shard in sorted(manifest.entries.keys() | shards_in(run_dir / "failed")):
        entry = manifest.entries.get(shard)
        problems = list(_check_letters(run_dir, shard, entry))
        if entry is not None:
            problems += _check_shard(run_dir, manifest.header, entry, replayed)
        if problems:
            shards[shard] = problems
    unread = dict[Path, str]()
    for shard in sorted(shards_in(run_dir / "staging")):
        unread |= staging.damaged_rows(run_dir, shard)
    return Findings(manifest, lines, shards, unread)


def sample_rows(run_dir: Path, count: int) -> frozenset[int]:
    """Indices of ``count`` committed rows, or all where there are fewer; a fixed seed draws them.

    Raises:
        UserError: the directory is no run, or its manifest's header is damaged.
    """
    manifest, _ = salvage_manifest(run_dir)
    rows = [index for _, entry in sorted(manifest.entries.items()) for index in _written(manifest.header, entry)]
    return frozenset(random.Random(0).sample(rows, min(count, len(rows))))


def _check_letters(run_dir: Path, shard: int, entry: Entry | None) -> Iterator[str]:
    """Whether a shard's dead letters can be read and, once it is committed, are those of its entry."""
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


def _check_shard(run_dir: Path, header: Header, entry: Entry, replayed: Collection[int]) -> Iterator[str]:
    """What is wrong with the files of a committed shard."""
    whole = []
    for file in entry.files:
        if problem := check_file(run_dir, file):
            yield f"{file.path}: {problem}"
        else:
            whole.append(file.path)
    named = [file.path for file in entry.files]
    if named != [header.plan.data_file(entry.shard, kind) for kind in header.formats if entry.rows]:
        yield f"shard {entry.shard}: its files {named} are not one for each of the formats {', '.join(header.formats)}"
    for path in whole:
        try:
            problems = [*_check_rows(run_dir / path, header, entry, replayed), *_check_same(run_dir, whole[0], path)]
        except Exception as error:  # a damaged file can make its reader raise anything
            problems = [f"cannot be read ({first_line(error)})"]
        yield from (f"{path}: {problem}" for problem in problems)


def check_file(run_dir: Path, file: DataFile) -> str | None:
    """What is wrong with a listed file as bytes; ``None`` when it is whole."""
    path = run_dir / file.path
    try:
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != file.bytes:
            return f"has {path.stat().st_size} bytes where the manifest says {file.bytes}"
        return None if files.sha256_of(path) == file.sha256 else "differs from its SHA-256 in the manifest"
    except OSError as error:
        return f"cannot be read ({first_line(error)})"


def _check_rows(path: Path, header: Header, entry: Entry, replayed: Collection[int]) -> Iterator[str]:
    """One file's schema, ids, images and noises."""
    if path.suffix == ".parquet":
        with path.open("rb") as file:
            columns = column_types(pq.read_schema(file))
        if columns != header.columns:
            yield f"has columns {columns} where the manifest says {header.columns}"
            return
    expected = _written(header, entry)
    ids = []
    for row in read_file(path, [name for name in CHECKED if name in header.columns]):
        ids.append(row["id"])
        yield from (f"row {row['id']}: {problem}" for problem in check_row(row))
        if index_of(row["id"]) in replayed and not replays(row):
            yield f"row {row['id']}: its rebuilt noise has another digest"
    if [index_of(name) for name in ids] != expected or len(ids) != entry.rows:
        yield f"holds {len(ids)} rows that are not the {len(expected)} of its shard, once each and in order"
    elif hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest() != entry.ids_sha256:
        yield "holds other ids than the manifest says"


def check_row(row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a row in itself: its prompt, its scores or those of its images that are given."""
    if row["id"] != row_id(index_of(row["id"]), row["prompt"]):
        yield "the prompt is not the one of that id"
    if row["score"] not in row["scores"] or row["score_initial"] != row["scores"][0]:
        yield "its score is none of its scores, or its first score not the first of them"
    for name in IMAGES:
        if name in row and (problem := _check_image(row[name], (row["width"], row["height"]))):
            yield f"{name} {problem}"


def replays(row: Mapping[str, Any]) -> bool:
    """Whether a row's noise, rebuilt from its recipe or read from where it is stored, has the digest it had."""
    from noisesmith.pipeline.noise import digest, rebuild  # imports torch, which all else here can do without

    recipe = Recipe.from_row(row["recipe"])
    return digest(rebuild(recipe, row["id"], row.get(NOISE_BYTES))) == recipe.digest


def _written(header: Header, entry: Entry) -> list[int]:
    """Indices of the rows a shard's files hold."""
    failed = set(map(index_of, entry.failed))
    return [index for index in header.plan.rows(entry.shard) if index not in failed]


def _check_same(run_dir: Path, first: str, second: str) -> Iterator[str]:
    """Whether two forms of a shard hold the same ids, prompts and kept images."""
    if first == second:
        return
    columns = ["id", "prompt", "image"]
    for one, other in zip_longest(read_file(run_dir / first, columns), read_file(run_dir / second, columns)):
        if one != other:
            yield f"differs from {first} in row {(one or other)['id']}"


def _check_image(content: bytes, size: tuple[int, int]) -> str | None:
    try:
        PIL.Image.open(io.BytesIO(content)).verify()
        image = PIL.Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # Pillow raises many kinds on damaged bytes
        return f"does not decode ({first_line(error)})"
    return None if image.size == size else f"is {image.size} where the row says {size}"
